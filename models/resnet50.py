"""ResNet-50 v1.5: He et al., CVPR 2016, with the stride in the 3x3 convolution as MLPerf uses it."""

import onnx

from models.graph import GraphRecorder

QOS_MS = 15.0  # MLPerf Inference, Server scenario, ResNet-50 v1.5; Liu et al., ASPLOS 2022
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, first stride


def resnet50(seed: int = 50) -> onnx.ModelProto:
    """Return ResNet-50 v1.5 for one 224 x 224 image: input (1, 3, 224, 224), logits (1, 1000)."""
    graph = GraphRecorder("resnet50", seed)
    x = graph.conv("input", "stem", (3, 64), kernel=7, stride=2)
    x = graph.node("Relu", [x], "stem.relu")
    x = graph.node("MaxPool", [x], "stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, (width, blocks, first_stride) in enumerate(STAGES, start=1):
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            x = _bottleneck(graph, x, f"stage{stage}.block{block}", channels, width=width, stride=stride)
            channels = 4 * width
    x = graph.node("GlobalAveragePool", [x], "pool")
    x = graph.node("Flatten", [x], "flatten", axis=1)
    x = graph.dense(x, "logits", (2048, 1000))
    return graph.model((1, 3, 224, 224), x, (1, 1000))


def _bottleneck(
    graph: GraphRecorder, source: str, name: str, channels: int, *, width: int, stride: int
) -> str:
    x = graph.conv(source, f"{name}.reduce", (channels, width), kernel=1)
    x = graph.node("Relu", [x], f"{name}.reduce.relu")
    x = graph.conv(x, f"{name}.spatial", (width, width), kernel=3, stride=stride)
    x = graph.node("Relu", [x], f"{name}.spatial.relu")
    # A small gain keeps the sum of sixteen random residual branches in the range of trained activations.
    x = graph.conv(x, f"{name}.expand", (width, 4 * width), kernel=1, gain=0.5)
    shortcut = source
    if channels != 4 * width:
        shortcut = graph.conv(
            source, f"{name}.shortcut", (channels, 4 * width), kernel=1, stride=stride, gain=1.0
        )
    x = graph.node("Add", [x, shortcut], f"{name}.sum")
    return graph.node("Relu", [x], f"{name}.relu")
