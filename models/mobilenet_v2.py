"""MobileNet-V2, width 1.0: Sandler et al., CVPR 2018."""

import onnx

from models.graph import GraphRecorder

QOS_MS = 10.0  # MLPerf Mobile's classification target has no Server scenario; 10 ms is this project's choice
STAGES = (  # expansion, channels, blocks, first stride: table 2 of the paper
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(seed: int = 2) -> onnx.ModelProto:
    """Return MobileNet-V2 for one 224 x 224 image: input (1, 3, 224, 224), logits (1, 1000)."""
    graph = GraphRecorder("mobilenet_v2", seed)
    x = graph.conv("input", "stem", (3, 32), kernel=3, stride=2)
    x = graph.clip(x, "stem.relu6", 0, 6)
    channels = 32
    for stage, (expansion, width, blocks, first_stride) in enumerate(STAGES, start=1):
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            name = f"stage{stage}.block{block}"
            x = _inverted_residual(graph, x, name, (channels, width), expansion=expansion, stride=stride)
            channels = width
    x = graph.conv(x, "head", (channels, 1280), kernel=1)
    x = graph.clip(x, "head.relu6", 0, 6)
    x = graph.node("GlobalAveragePool", [x], "pool")
    x = graph.node("Flatten", [x], "flatten", axis=1)
    x = graph.dense(x, "logits", (1280, 1000))
    return graph.model((1, 3, 224, 224), x, (1, 1000))


def _inverted_residual(
    graph: GraphRecorder,
    source: str,
    name: str,
    channels: tuple[int, int],
    *,
    expansion: int,
    stride: int,
) -> str:
    inner, outer = channels
    hidden = inner * expansion
    x = source
    if expansion != 1:
        x = graph.conv(x, f"{name}.expand", (inner, hidden), kernel=1)
        x = graph.clip(x, f"{name}.expand.relu6", 0, 6)
    x = graph.conv(x, f"{name}.depthwise", (hidden, hidden), kernel=3, stride=stride, groups=hidden)
    x = graph.clip(x, f"{name}.depthwise.relu6", 0, 6)
    x = graph.conv(x, f"{name}.project", (hidden, outer), kernel=1, gain=1.0)
    if stride == 1 and inner == outer:
        x = graph.node("Add", [x, source], f"{name}.sum")
    return x
