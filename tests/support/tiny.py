"""Two small networks that have what matters: convolutions, a sum, a clip, a dense layer; integer inputs."""

import numpy as np
import onnx

from models.graph import GraphRecorder
from models.small_convnet import small_convnet


def tiny(seed: int = 0) -> onnx.ModelProto:
    """Return one of six layers: input (1, 3, 16, 16), logits (1, 10)."""
    model = small_convnet(seed)
    model.graph.name = "tiny"
    return model


def tiny_words(seed: int = 0) -> onnx.ModelProto:
    """Return one of 7 words: float32 input (1, 4, 8), int64 ids and mask (1, 4), logits (1, 4, 3)."""
    graph = GraphRecorder("tiny_words", seed)
    table = graph.weight("table", (7, 8), 1.0)
    x = graph.node("Gather", [table, "ids"], "words", axis=0)
    x = graph.node("Add", [x, "input"], "sum")
    mask = graph.node("Cast", ["mask"], "mask.cast", to=onnx.TensorProto.FLOAT)
    axis = graph.constant("mask.axis", np.array([2], dtype=np.int64))
    mask = graph.node("Unsqueeze", [mask, axis], "mask.unsqueeze")
    x = graph.node("Mul", [x, mask], "masked")
    x = graph.node("MatMul", [x, graph.weight("logits.weight", (8, 3), 1.0)], "logits")
    shape = (1, 4)
    return graph.model((1, 4, 8), x, (1, 4, 3), integer_inputs={"ids": (shape, 6), "mask": (shape, 1)})
