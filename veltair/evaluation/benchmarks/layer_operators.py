"""What a layer computes, as kind and sizes: by these, layers of two runtimes are matched, for names differ.

Pure. Ours are read off a built model's plan, ONNX Runtime's off the nodes of its profile.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from veltair.compiler.build.build import LayerPlan, ModelPlan

Shape = tuple[int, ...]

# ONNX Runtime pads channels to a vector of its layout, 8 or 16 lanes: of 24 channels it computes 24 or 32.
PADDED_CHANNELS = 16
CONVOLUTION, PRODUCTS = "conv2d", ("matmul", "einsum")
# Of a layer of ours without products: the first that its name has, in this order.
OUR_KINDS = {
    "softmax": "softmax",
    "layer_norm": "layer norm",
    "max_pool2d": "max pool",
    "avg_pool2d": "average pool",
    "mean": "average pool",
    "take": "gather",
    "concatenate": "concatenate",
}
LAYOUT_WORDS = {
    "transpose",
    "reshape",
    "expand",
    "dims",
    "squeeze",
    "strided",
    "slice",
    "layout",
    "transform",
}
NODE_PRODUCTS = ("Gemm", "MatMul", "FusedGemm", "FusedMatMul")
NODE_KINDS = {
    **dict.fromkeys(("Softmax",), "softmax"),
    **dict.fromkeys(("LayerNormalization", "SkipLayerNormalization"), "layer norm"),
    **dict.fromkeys(("MaxPool",), "max pool"),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "ReduceMean"), "average pool"),
    **dict.fromkeys(("Gather",), "gather"),
    **dict.fromkeys(("Concat",), "concatenate"),
    **dict.fromkeys(("ReorderInput", "ReorderOutput", "Transpose", "Reshape", "Flatten"), "layout"),
    **dict.fromkeys(("Squeeze", "Unsqueeze", "Slice", "Split"), "layout"),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Max", "Min", "Exp", "Cast", "Where"), "elementwise"),
}


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution of an image (height, width) with `channels` to another one with `filters`.

    `inner` counts the channels that one filter sums over: 1 in a depthwise convolution.
    """

    kernel: tuple[int, int]
    image: tuple[int, int]
    channels: int
    made: tuple[int, int]
    filters: int
    inner: int

    @property
    def name(self) -> str:
        """A name that tells all sizes, as 3x3 56x56x64 → 28x28x128; a grouped one says so before."""
        kind = "depthwise " if self.inner == 1 < self.channels else "grouped "
        before = f"{kind if self.inner < self.channels else ''}{_times(self.kernel)} "
        after = (self.filters,) if self.made == self.image else (*self.made, self.filters)
        return f"{before}{_times((*self.image, self.channels))} → {_times(after)}"

    @property
    def padded(self) -> "Convolution":
        """The same with as many channels as a runtime computes that pads them."""
        whole = self.inner == self.channels
        channels = _padded(self.channels)
        inner = channels if whole else self.inner
        return replace(self, channels=channels, filters=_padded(self.filters), inner=inner)


@dataclass(frozen=True, slots=True)
class Product:
    """`batch` products of a matrix of `rows` times `inner` with one of `inner` times `columns`."""

    batch: int
    rows: int
    inner: int
    columns: int

    @property
    def name(self) -> str:
        """A name that tells all sizes, as matmul 384x1024x4096: rows, inner and columns."""
        sizes = (self.rows, self.inner, self.columns)
        return (
            f"batched matmul {_times((self.batch, *sizes))}" if self.batch > 1 else f"matmul {_times(sizes)}"
        )

    @property
    def padded(self) -> "Product":
        """The same: nobody pads products."""
        return self


@dataclass(frozen=True, slots=True)
class OtherOperator:
    """An operator of any sizes, known by its name."""

    name: str

    @property
    def padded(self) -> "OtherOperator":
        """The same."""
        return self


Operator = Convolution | Product | OtherOperator


def plan_operators(plan: ModelPlan) -> list[Operator]:
    """Return what each layer of a built model computes."""
    return [_layer_operator(plan, layer) for layer in plan.layers]


def node_operator(op_type: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Operator:
    """Return what a node of ONNX Runtime computes, from the shapes that its profile tells.

    An operator that ours has no like of keeps its name. Weights that were packed before are no inputs.
    """
    ranks = [len(shape) for shape in inputs]
    if op_type in ("Conv", "FusedConv") and ranks[:2] == [4, 4]:
        (_, channels, *image), (filters, inner, *kernel) = inputs[:2]
        return Convolution(_pair(kernel), _pair(image), channels, _pair(outputs[0][2:]), filters, inner)
    if op_type in NODE_PRODUCTS and ranks[:1] > [1]:
        *outer, rows, columns = outputs[0]
        # With a matrix that all share, the batch is rows of one product.
        batch = prod(outer) if len(inputs) > 1 and ranks[1] > 2 else 1
        rows *= prod(outer) // batch
        return Product(batch, rows, prod(inputs[0]) // (batch * rows), columns)
    return OtherOperator(NODE_KINDS.get(op_type, op_type))


def _layer_operator(plan: ModelPlan, layer: LayerPlan) -> Operator:
    name = layer.structure.rsplit("-", 1)[0]
    words = name.split("_")
    data = [_shape(plan, source) for source in layer.inputs if source[0] != "constant"]
    constants = [plan.constants[number].shape for kind, number, _ in layer.inputs if kind == "constant"]
    if CONVOLUTION in words and any(len(shape) == 4 for shape in constants):
        return _convolution(data[0], next(shape for shape in constants if len(shape) == 4), layer)
    if layer.macs and any(word in words for word in PRODUCTS):
        return _product(constants, layer)
    for found, kind in OUR_KINDS.items():
        if f"_{found}_" in f"_{name}_":
            return OtherOperator(kind)
    if LAYOUT_WORDS.issuperset(words):
        return OtherOperator("layout")
    return OtherOperator(name if layer.macs else "elementwise")


def _convolution(image: Shape, weights: Shape, layer: LayerPlan) -> Convolution:
    """Return a convolution in NHWC with weights in HWIO.

    What is fused behind may transpose what it makes, or spread it over another image, as a gate does.
    """
    _, height, width, channels = image
    *kernel, inner, filters = weights
    pixels = layer.macs // prod(weights)
    output = layer.outputs[0]
    made = next((pair for pair in (output[1:3], output[2:4]) if prod(pair) == pixels), (1, pixels))
    return Convolution(_pair(kernel), (height, width), channels, _pair(made), filters, inner)


def _product(constants: Sequence[Shape], layer: LayerPlan) -> Product:
    """Return a product whose second matrix is the largest constant, in any layout; else a batched one."""
    size = prod(layer.outputs[0])
    inner = layer.macs // size
    weights = max(map(prod, constants), default=1)
    rows = layer.macs // weights
    if inner * size == rows * weights and size % rows == 0 and inner * (size // rows) == weights:
        return Product(1, rows, inner, size // rows)
    *batch, rows, columns = layer.outputs[0]
    return Product(prod(batch), rows, inner, columns)


def _shape(plan: ModelPlan, source: tuple[str, int, int]) -> Shape:
    kind, number, output = source
    return plan.inputs[number].shape if kind == "input" else plan.layers[number].outputs[output]


def _padded(channels: int) -> int:
    return -(-channels // PADDED_CHANNELS) * PADDED_CHANNELS


def _pair(sizes: Sequence[int]) -> tuple[int, int]:
    first, second = sizes
    return first, second


def _times(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
