"""SSD-ResNet34 at 1200 x 1200, as MLPerf Inference runs it: Liu et al., ECCV 2016, on He et al., CVPR 2016.

The graph ends with decoded boxes and class probabilities. Non-maximum suppression stays outside: its time and
the size of its output depend on the picture, and TVM's graphs have fixed shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import numpy as np
import onnx
from numpy.typing import NDArray

from models.graph import GraphRecorder

QOS_MS = 100.0  # MLPerf Inference, Server scenario, SSD-ResNet34 (rounds v0.5 to v2.0)
CLASSES = 81  # COCO's 80 and, first, the background
SCALE_XY, SCALE_WH = 0.1, 0.2  # the variances that deltas were divided by in training
# Sides of the default boxes, for a picture of 300: each map uses its own and, once, the mean with the next.
BOX_SIDES = (21, 45, 99, 153, 207, 261, 315)
ASPECT_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
HEAD_STRIDE = 3
RELU_GAIN = 2.0  # what a Relu behind a convolution takes away again
HEAD_GAIN = 0.05  # deltas and logits near 1: no box overflows and no class takes all the probability
# Of the blocks behind the backbone: inner and outer channels / 64, stride and padding of the 3x3.
EXTRA_BLOCKS = ((4, 8, 2, 1), (4, 8, 2, 1), (2, 4, 2, 1), (2, 4, 2, 0), (2, 4, 1, 0))


@dataclass(frozen=True, slots=True)
class Size:
    """How large a network to make: MLPerf's by default, smaller ones for tests.

    `width` is the channels of the stem, `blocks` the residual blocks of the three stages.
    """

    image: int = 1200
    width: int = 64
    blocks: tuple[int, int, int] = (3, 4, 6)

    def __post_init__(self) -> None:
        if self.image < 385:
            raise ValueError(f"Size: image is {self.image}; give 385 or more, or the last map has no pixel")
        if min(self.width, *self.blocks) < 1:
            raise ValueError(f"Size: width {self.width}, blocks {self.blocks}; give 1 or more of each")


def ssd_resnet34(seed: int = 34, size: Size | None = None) -> onnx.ModelProto:
    """Return SSD-ResNet34 for a 1200 x 1200 picture: input (1, 3, 1200, 1200), two outputs of 15130 anchors.

    `boxes` (1, 15130, 4) holds left, top, right and bottom as fractions of the picture, `scores`
    (1, 15130, 81) the softmax over the classes. Anchors are in the order of `default_boxes`; it differs from
    the reference's, which lists all places of a box shape before the next shape.
    """
    size = size or Size()
    graph = GraphRecorder("ssd_resnet34", seed)
    sources = _extra_blocks(graph, _backbone(graph, size), size.width)
    anchors = default_boxes(size.image)
    boxes = _decode(graph, _head(graph, sources, "loc", 4), anchors)
    scores = graph.node("Softmax", [_head(graph, sources, "conf", CLASSES)], "scores", axis=2)
    return graph.model(
        (1, 3, size.image, size.image),
        boxes,
        (1, len(anchors), 4),
        more_outputs={scores: (1, len(anchors), CLASSES)},
    )


def feature_sizes(image: int) -> tuple[int, ...]:
    """Return the rows, equal to the columns, of the six maps that the heads make: 50, 25, 13, 7, 3, 3."""
    side = image
    for _ in range(3):  # stem, its pool and the second stage
        side = _outer_side(side, 2, 1)
    sides = [side]
    for _, _, stride, padding in EXTRA_BLOCKS:
        sides.append(_outer_side(sides[-1], stride, padding))
    return tuple(_outer_side(side, HEAD_STRIDE, 1) for side in sides)


def default_boxes(image: int) -> NDArray[np.float32]:
    """Return the default boxes as x and y of the centre, width and height, in fractions of the picture.

    The shape is (anchors, 4), by map, row, column and shape. At each place a map has two squares, and for
    each aspect ratio a box that wide and one that high. All numbers are clipped to 0 … 1.
    """
    maps = []
    sides = [side * image // 300 / image for side in BOX_SIDES]
    for count, pair, ratios in zip(feature_sizes(image), pairwise(sides), ASPECT_RATIOS, strict=True):
        shapes = np.array(_box_shapes(*pair, ratios))
        middle = (np.arange(count) + 0.5) / count
        y, x, shape = np.meshgrid(middle, middle, np.arange(len(shapes)), indexing="ij")
        width, height = np.moveaxis(shapes[shape], -1, 0)
        maps.append(np.stack([x, y, width, height], axis=-1).reshape(-1, 4))
    boxes: NDArray[np.float32] = np.clip(np.concatenate(maps), 0, 1).astype(np.float32)
    return boxes


def _box_shapes(side: float, next_side: float, ratios: Sequence[int]) -> list[tuple[float, float]]:
    """Return the widths and heights of a map's default boxes."""
    between = sqrt(side * next_side)
    shapes = [(side, side), (between, between)]
    for ratio in ratios:
        wide, flat = side * sqrt(ratio), side / sqrt(ratio)
        shapes += [(wide, flat), (flat, wide)]
    return shapes


def _outer_side(side: int, stride: int, padding: int) -> int:
    """Return the side of the map that a 3x3 window makes; a 7x7 with padding 3 makes the same."""
    return (side + 2 * padding - 3) // stride + 1


def _backbone(graph: GraphRecorder, size: Size) -> str:
    """Append ResNet-34 up to its third stage, whose stride is 1."""
    width = size.width
    x = graph.conv("input", "stem", (3, width), kernel=7, stride=2)
    x = graph.node("Relu", [x], "stem.relu")
    x = graph.node("MaxPool", [x], "stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = width
    stages = zip((width, 2 * width, 4 * width), size.blocks, (1, 2, 1), strict=True)
    for stage, (outer, blocks, first_stride) in enumerate(stages, start=1):
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            x = _basic_block(graph, x, f"stage{stage}.block{block}", (channels, outer), stride)
            channels = outer
    return x


def _extra_blocks(graph: GraphRecorder, source: str, width: int) -> list[tuple[str, int]]:
    """Append the blocks behind the backbone; return the six maps that the heads read, and their channels."""
    sources = [(source, 4 * width)]
    for index, (inner, outer, stride, padding) in enumerate(EXTRA_BLOCKS, start=1):
        x, channels = sources[-1]
        name = f"extra{index}"
        hidden, made = inner * width, outer * width
        x = graph.biased_conv(x, f"{name}.reduce", (channels, hidden), kernel=1, gain=RELU_GAIN)
        x = graph.node("Relu", [x], f"{name}.reduce.relu")
        x = graph.biased_conv(
            x,
            f"{name}.spatial",
            (hidden, made),
            kernel=3,
            stride=stride,
            padding=padding,
            gain=RELU_GAIN,
        )
        sources.append((graph.node("Relu", [x], f"{name}.spatial.relu"), made))
    return sources


def _basic_block(graph: GraphRecorder, source: str, name: str, channels: tuple[int, int], stride: int) -> str:
    inner, outer = channels
    x = graph.conv(source, f"{name}.first", channels, kernel=3, stride=stride)
    x = graph.node("Relu", [x], f"{name}.first.relu")
    # A small gain keeps the sum of thirteen random residual branches in the range of trained activations.
    x = graph.conv(x, f"{name}.second", (outer, outer), kernel=3, gain=0.5)
    shortcut = source
    if inner != outer:
        shortcut = graph.conv(source, f"{name}.shortcut", channels, kernel=1, stride=stride, gain=1.0)
    x = graph.node("Add", [x, shortcut], f"{name}.sum")
    return graph.node("Relu", [x], f"{name}.relu")


def _head(graph: GraphRecorder, sources: Sequence[tuple[str, int]], name: str, values: int) -> str:
    """Append a 3x3 convolution on each map; return their outputs as one (1, anchors, values)."""
    parts = []
    for index, ((source, inner), ratios) in enumerate(zip(sources, ASPECT_RATIOS, strict=True)):
        label = f"{name}{index}"
        channels = (inner, values * (2 + 2 * len(ratios)))
        x = graph.biased_conv(source, label, channels, kernel=3, stride=HEAD_STRIDE, gain=HEAD_GAIN)
        # Channels last, as the layers run anyway: then this moves no data.
        x = graph.node("Transpose", [x], f"{label}.last", perm=[0, 2, 3, 1])
        shape = graph.constant(f"{label}.shape", np.array([1, -1, values], dtype=np.int64))
        parts.append(graph.node("Reshape", [x, shape], f"{label}.anchors"))
    return graph.node("Concat", parts, name, axis=1)


def _decode(graph: GraphRecorder, deltas: str, anchors: NDArray[np.float32]) -> str:
    """Append the boxes, as corners, that the deltas make of the anchors."""
    centre, extent = anchors[None, :, :2], anchors[None, :, 2:]
    axis = graph.constant("decode.axis", np.array([2], dtype=np.int64))
    parts = []
    for part, start in (("xy", 0), ("wh", 2)):
        bounds = [
            graph.constant(f"decode.{part}.{end}", np.array([index], dtype=np.int64))
            for end, index in (("start", start), ("stop", start + 2))
        ]
        parts.append(graph.node("Slice", [deltas, *bounds, axis], f"decode.{part}"))
    xy, wh = parts
    step = graph.constant("decode.step", np.float32(SCALE_XY) * extent)
    x = graph.node("Mul", [xy, step], "decode.shift")
    middle = graph.node("Add", [x, graph.constant("decode.centre", centre)], "decode.middle")
    scale = graph.constant("decode.scale", np.array(SCALE_WH, dtype=np.float32))
    x = graph.node("Exp", [graph.node("Mul", [wh, scale], "decode.log_growth")], "decode.growth")
    half = graph.node("Mul", [x, graph.constant("decode.half", np.float32(0.5) * extent)], "decode.half_wh")
    corners = [graph.node(operator, [middle, half], f"decode.{operator}") for operator in ("Sub", "Add")]
    return graph.node("Concat", corners, "boxes", axis=2)
