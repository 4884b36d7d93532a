"""GoogLeNet: Szegedy et al., CVPR 2015, as torchvision has it: BatchNormalization, no auxiliary heads.

The third branch of a module convolves 3 x 3 where the paper has 5 x 5: torchvision took this over from the
TensorFlow model that its weights come from.
"""

import onnx

from models.graph import GraphRecorder

QOS_MS = 15.0  # no MLPerf Server scenario; 15 ms is this project's choice, ResNet-50's target
MODULES = (  # name, outputs of 1x1, 3x3 reduce, 3x3, second reduce, second 3x3, pool: table 1 of the paper
    ("3a", 64, 96, 128, 16, 32, 32),
    ("3b", 128, 128, 192, 32, 96, 64),
    ("4a", 192, 96, 208, 16, 48, 64),
    ("4b", 160, 112, 224, 24, 64, 64),
    ("4c", 128, 128, 256, 24, 64, 64),
    ("4d", 112, 144, 288, 32, 64, 64),
    ("4e", 256, 160, 320, 32, 128, 128),
    ("5a", 256, 160, 320, 32, 128, 128),
    ("5b", 384, 192, 384, 48, 128, 128),
)
POOL_AFTER = {"3b": 3, "4e": 2}  # kernel of the pooling of stride 2 behind a module


def googlenet(seed: int = 22) -> onnx.ModelProto:
    """Return GoogLeNet for one 224 x 224 image: input (1, 3, 224, 224), logits (1, 1000)."""
    graph = GraphRecorder("googlenet", seed, epsilon=1e-3)
    x = _conv_relu(graph, "input", "stem1", (3, 64), kernel=7, stride=2)
    x = _halve(graph, x, "pool1", kernel=3)
    x = _conv_relu(graph, x, "stem2", (64, 64), kernel=1)
    x = _conv_relu(graph, x, "stem3", (64, 192), kernel=3)
    x = _halve(graph, x, "pool2", kernel=3)
    channels = 192
    for name, *widths in MODULES:
        x = _inception(graph, x, f"inception{name}", channels, widths)
        channels = widths[0] + widths[2] + widths[4] + widths[5]
        if name in POOL_AFTER:
            x = _halve(graph, x, f"pool{name}", kernel=POOL_AFTER[name])
    x = graph.node("GlobalAveragePool", [x], "pool")
    x = graph.node("Flatten", [x], "flatten", axis=1)
    x = graph.dense(x, "logits", (channels, 1000))
    return graph.model((1, 3, 224, 224), x, (1, 1000))


def _inception(graph: GraphRecorder, source: str, name: str, channels: int, widths: list[int]) -> str:
    one, reduce3, three, reduce5, five, pooled = widths
    branch1 = _conv_relu(graph, source, f"{name}.branch1", (channels, one), kernel=1)
    branch2 = _conv_relu(graph, source, f"{name}.branch2.reduce", (channels, reduce3), kernel=1)
    branch2 = _conv_relu(graph, branch2, f"{name}.branch2", (reduce3, three), kernel=3)
    branch3 = _conv_relu(graph, source, f"{name}.branch3.reduce", (channels, reduce5), kernel=1)
    branch3 = _conv_relu(graph, branch3, f"{name}.branch3", (reduce5, five), kernel=3)
    branch4 = graph.node(
        "MaxPool", [source], f"{name}.pool", kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4, ceil_mode=1
    )
    branch4 = _conv_relu(graph, branch4, f"{name}.branch4", (channels, pooled), kernel=1)
    return graph.node("Concat", [branch1, branch2, branch3, branch4], name, axis=1)


def _conv_relu(
    graph: GraphRecorder, source: str, name: str, channels: tuple[int, int], *, kernel: int, stride: int = 1
) -> str:
    x = graph.conv(source, name, channels, kernel=kernel, stride=stride)
    return graph.node("Relu", [x], f"{name}.relu")


def _halve(graph: GraphRecorder, source: str, name: str, kernel: int) -> str:
    return graph.node("MaxPool", [source], name, kernel_shape=[kernel, kernel], strides=[2, 2], ceil_mode=1)
