"""BERT-Large that answers questions: Devlin et al., NAACL 2019; inputs and head as in MLPerf Inference."""

from dataclasses import asdict, dataclass

import numpy as np
import onnx

from models.graph import GraphRecorder

QOS_MS = 130.0  # MLPerf Inference, Server scenario, BERT-Large

# Random attention averages tokens until all are the same, and then no error in their order shows. Sharp
# attention and weak branches beside the residual keep them apart through all layers.
FOCUS_GAIN, BRANCH_GAIN = 2.0, 0.3


@dataclass(frozen=True, slots=True)
class Size:
    """The numbers that make a BERT; the defaults are BERT-Large's (section 3 of the paper).

    `positions` is how many positions were trained, of which the first `sequence` are used. A multi-layer
    perceptron is four times as wide as the hidden states.
    """

    layers: int = 24
    hidden: int = 1024
    heads: int = 16
    vocabulary: int = 30_522
    positions: int = 512
    sequence: int = 384

    def __post_init__(self) -> None:
        for name, number in asdict(self).items():
            if number < 1:
                raise ValueError(f"{name} is {number}; give 1 or more")
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is no multiple of heads {self.heads}; give one")
        if self.sequence > self.positions:
            raise ValueError(f"sequence {self.sequence} exceeds the {self.positions} positions; raise them")


LARGE = Size()


def bert_large(seed: int = 24, size: Size = LARGE) -> onnx.ModelProto:
    """Return BERT-Large for one sequence of 384 tokens.

    Inputs, int64 of shape (1, 384): input_ids (tokens), input_mask (1: attend to this token, 0: padding) and
    segment_ids (0: question, 1: text). Output: logits (1, 384, 2), of each token being the answer's start
    and its end. The pooler, which answers no question, is left out.
    """
    graph = GraphRecorder("bert_large", seed)
    x = _embeddings(graph, size)
    mask = _additive_mask(graph)
    for layer in range(size.layers):
        x = _encoder(graph, x, mask, f"layer{layer}", size)
    logits = _linear(graph, x, "logits", (size.hidden, 2))
    shape = (1, size.sequence)
    return graph.model(
        (),
        logits,
        (*shape, 2),
        integer_inputs={
            "input_ids": (shape, size.vocabulary - 1),
            "input_mask": (shape, 1),
            "segment_ids": (shape, 1),
        },
    )


def _embeddings(graph: GraphRecorder, size: Size) -> str:
    words = graph.weight("embeddings.word", (size.vocabulary, size.hidden), 1.0)
    positions = graph.weight("embeddings.position", (size.positions, size.hidden), 0.5)
    segments = graph.weight("embeddings.segment", (2, size.hidden), 0.5)
    indices = graph.constant("embeddings.places", np.arange(size.sequence, dtype=np.int64)[None])
    word = graph.node("Gather", [words, "input_ids"], "embeddings.word.gather", axis=0)
    position = graph.node("Gather", [positions, indices], "embeddings.position.gather", axis=0)
    segment = graph.node("Gather", [segments, "segment_ids"], "embeddings.segment.gather", axis=0)
    x = graph.node("Add", [word, segment], "embeddings.word_segment")
    x = graph.node("Add", [x, position], "embeddings.sum")
    return _layer_norm(graph, x, "embeddings.norm", size.hidden)


def _additive_mask(graph: GraphRecorder) -> str:
    """Return 0 where a token counts and -10000 where it is padding, of shape (1, 1, 1, sequence)."""
    axes = graph.constant("mask.axes", np.array([1, 2], dtype=np.int64))
    x = graph.node("Unsqueeze", ["input_mask", axes], "mask.unsqueeze")
    x = graph.node("Cast", [x], "mask.cast", to=onnx.TensorProto.FLOAT)
    x = graph.node("Sub", [_scalar(graph, "mask.one", 1.0), x], "mask.padding")
    return graph.node("Mul", [x, _scalar(graph, "mask.low", -10_000.0)], "mask.additive")


def _encoder(graph: GraphRecorder, source: str, mask: str, name: str, size: Size) -> str:
    context = _attention(graph, source, mask, f"{name}.attention", size)
    x = _linear(graph, context, f"{name}.attention.output", (size.hidden, size.hidden), BRANCH_GAIN)
    x = graph.node("Add", [x, source], f"{name}.attention.sum")
    attended = _layer_norm(graph, x, f"{name}.attention.norm", size.hidden)
    x = _linear(graph, attended, f"{name}.widen", (size.hidden, 4 * size.hidden))
    x = _gelu(graph, x, f"{name}.gelu")
    x = _linear(graph, x, f"{name}.narrow", (4 * size.hidden, size.hidden), BRANCH_GAIN)
    x = graph.node("Add", [x, attended], f"{name}.sum")
    return _layer_norm(graph, x, f"{name}.norm", size.hidden)


def _attention(graph: GraphRecorder, source: str, mask: str, name: str, size: Size) -> str:
    query = _heads(graph, source, f"{name}.query", size, order=[0, 2, 1, 3], gain=FOCUS_GAIN)
    key = _heads(graph, source, f"{name}.key", size, order=[0, 2, 3, 1], gain=FOCUS_GAIN)
    value = _heads(graph, source, f"{name}.value", size, order=[0, 2, 1, 3])
    x = graph.node("MatMul", [query, key], f"{name}.scores")
    width = _scalar(graph, f"{name}.width", (size.hidden // size.heads) ** 0.5)
    x = graph.node("Div", [x, width], f"{name}.scaled")
    x = graph.node("Add", [x, mask], f"{name}.masked")
    x = graph.node("Softmax", [x], f"{name}.softmax", axis=-1)
    x = graph.node("MatMul", [x, value], f"{name}.context")
    x = graph.node("Transpose", [x], f"{name}.context.transpose", perm=[0, 2, 1, 3])
    return _reshape(graph, x, f"{name}.context.reshape", (1, size.sequence, size.hidden))


def _heads(
    graph: GraphRecorder, source: str, name: str, size: Size, *, order: list[int], gain: float = 1.0
) -> str:
    x = _linear(graph, source, name, (size.hidden, size.hidden), gain)
    x = _reshape(graph, x, f"{name}.heads", (1, size.sequence, size.heads, size.hidden // size.heads))
    return graph.node("Transpose", [x], f"{name}.transpose", perm=order)


def _linear(
    graph: GraphRecorder, source: str, name: str, channels: tuple[int, int], gain: float = 1.0
) -> str:
    inner, outer = channels
    weight = graph.weight(f"{name}.weight", channels, gain * inner**-0.5)
    bias = graph.weight(f"{name}.bias", (outer,), 0.1)
    product = graph.node("MatMul", [source, weight], f"{name}.matmul")
    return graph.node("Add", [product, bias], f"{name}.add")


def _layer_norm(graph: GraphRecorder, source: str, name: str, channels: int) -> str:
    gamma = graph.constant(f"{name}.gamma", np.ones(channels, dtype=np.float32))
    beta = graph.constant(f"{name}.beta", np.zeros(channels, dtype=np.float32))
    return graph.node("LayerNormalization", [source, gamma, beta], name, axis=-1, epsilon=1e-12)


def _gelu(graph: GraphRecorder, source: str, name: str) -> str:
    """Append x / 2 (1 + erf(x / sqrt 2)), as exporters write it."""
    x = graph.node("Div", [source, _scalar(graph, f"{name}.sqrt2", 2**0.5)], f"{name}.div")
    x = graph.node("Erf", [x], f"{name}.erf")
    x = graph.node("Add", [x, _scalar(graph, f"{name}.one", 1.0)], f"{name}.add")
    x = graph.node("Mul", [source, x], f"{name}.mul")
    return graph.node("Mul", [x, _scalar(graph, f"{name}.half", 0.5)], f"{name}.mul_half")


def _reshape(graph: GraphRecorder, source: str, name: str, shape: tuple[int, ...]) -> str:
    wanted = graph.constant(f"{name}.shape", np.array(shape, dtype=np.int64))
    return graph.node("Reshape", [source, wanted], name)


def _scalar(graph: GraphRecorder, name: str, value: float) -> str:
    return graph.constant(name, np.array(value, dtype=np.float32))
