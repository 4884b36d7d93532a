"""A small network that is built in seconds, to begin with: not one whose times say anything."""

import onnx

from models.graph import GraphRecorder


def small_convnet(seed: int = 0) -> onnx.ModelProto:
    """Return six layers: input (1, 3, 16, 16), logits (1, 10)."""
    graph = GraphRecorder("small_convnet", seed)
    x = graph.conv("input", "stem", (3, 16), kernel=3, stride=2)
    stem = graph.clip(x, "stem.relu6", 0, 6)
    x = graph.conv(stem, "branch", (16, 16), kernel=3)
    x = graph.node("Sum", [x, stem], "sum")
    x = graph.node("Relu", [x], "relu")
    x = graph.node("GlobalAveragePool", [x], "pool")
    x = graph.node("Flatten", [x], "flatten", axis=1)
    x = graph.dense(x, "logits", (16, 10))
    return graph.model((1, 3, 16, 16), x, (1, 10))
