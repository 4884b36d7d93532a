"""EfficientNet-B0: Tan & Le, ICML 2019, with torchvision's paddings (the same zeros on both sides)."""

import onnx

from models.graph import GraphRecorder

QOS_MS = 10.0  # no MLPerf Server scenario; 10 ms is this project's choice, as for the other light models
STAGES = (  # expansion, kernel, channels, blocks, first stride: table 1 of the paper
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)
# Keeps the variance of a normal input through a swish, as He's 2 does through a ReLU: 1 / E[swish(x)^2].
SWISH_GAIN = 2.8
# Spreads the gates of an image over 0.2 ... 0.8: means of channels are small, and equal gates check nothing.
GATE_GAIN = 4.0


def efficientnet_b0(seed: int = 19) -> onnx.ModelProto:
    """Return EfficientNet-B0 for one 224 x 224 image: input (1, 3, 224, 224), logits (1, 1000)."""
    graph = GraphRecorder("efficientnet_b0", seed)
    x = graph.conv("input", "stem", (3, 32), kernel=3, stride=2, gain=1.0)
    x = graph.swish(x, "stem.swish")
    channels = 32
    for stage, (expansion, kernel, width, blocks, first_stride) in enumerate(STAGES, start=1):
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            name = f"stage{stage}.block{block}"
            x = _inverted_residual(
                graph, x, name, (channels, width), expansion=expansion, kernel=kernel, stride=stride
            )
            channels = width
    x = graph.conv(x, "head", (channels, 1280), kernel=1, gain=1.0)
    x = graph.swish(x, "head.swish")
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
    kernel: int,
    stride: int,
) -> str:
    inner, outer = channels
    hidden = inner * expansion
    x = source
    if expansion != 1:
        x = graph.conv(x, f"{name}.expand", (inner, hidden), kernel=1, gain=1.0)
        x = graph.swish(x, f"{name}.expand.swish")
    x = graph.conv(
        x, f"{name}.depthwise", (hidden, hidden), kernel=kernel, stride=stride, groups=hidden, gain=SWISH_GAIN
    )
    x = graph.swish(x, f"{name}.depthwise.swish")
    x = _squeeze_excite(graph, x, f"{name}.squeeze", (hidden, inner // 4))
    # The gate halves what it multiplies. Making up for all of it would let sums of random branches grow.
    x = graph.conv(x, f"{name}.project", (hidden, outer), kernel=1, gain=8.0)
    if stride == 1 and inner == outer:
        x = graph.node("Add", [x, source], f"{name}.sum")
    return x


def _squeeze_excite(graph: GraphRecorder, source: str, name: str, channels: tuple[int, int]) -> str:
    wide, narrow = channels
    x = graph.node("GlobalAveragePool", [source], f"{name}.pool")
    x = graph.biased_conv(x, f"{name}.reduce", (wide, narrow), kernel=1, gain=GATE_GAIN)
    x = graph.swish(x, f"{name}.swish")
    x = graph.biased_conv(x, f"{name}.expand", (narrow, wide), kernel=1, gain=GATE_GAIN)
    x = graph.node("Sigmoid", [x], f"{name}.gate")
    return graph.node("Mul", [source, x], f"{name}.scale")
