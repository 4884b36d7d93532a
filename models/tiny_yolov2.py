"""Tiny-YOLOv2 for Pascal VOC: Redmon & Farhadi, CVPR 2017; the network of `tiny-yolo-voc.cfg` in darknet.

The output is raw, as in the ONNX model zoo: for each of 13 x 13 cells and 5 anchors the box's 4 offsets, its
objectness and 20 class scores, before any sigmoid, softmax or exponential. Outside of the model are scaling a
picture to 416 x 416 and to 0 ... 1, decoding the boxes, and non-maximum suppression.
"""

import onnx

from models.graph import GraphRecorder

QOS_MS = 10.0  # no MLPerf Server scenario; 10 ms is this project's choice, as for the other light models
WIDTHS = (16, 32, 64, 128, 256, 512)  # 3x3 convolutions, each with a pooling behind it
ANCHORS, BOX, CLASSES = 5, 5, 20


def tiny_yolov2(seed: int = 17) -> onnx.ModelProto:
    """Return Tiny-YOLOv2 for one 416 x 416 image: input (1, 3, 416, 416), raw boxes (1, 125, 13, 13)."""
    graph = GraphRecorder("tiny_yolov2", seed)
    x, channels = "input", 3
    for number, width in enumerate(WIDTHS, start=1):
        x = _conv_leaky(graph, x, f"conv{number}", (channels, width))
        x = _pool(graph, x, f"pool{number}", stride=1 if width == WIDTHS[-1] else 2)
        channels = width
    x = _conv_leaky(graph, x, "conv7", (channels, 1024))
    x = _conv_leaky(graph, x, "conv8", (1024, 1024))
    outputs = ANCHORS * (BOX + CLASSES)
    x = graph.biased_conv(x, "boxes", (1024, outputs), kernel=1)
    return graph.model((1, 3, 416, 416), x, (1, outputs, 13, 13))


def _conv_leaky(graph: GraphRecorder, source: str, name: str, channels: tuple[int, int]) -> str:
    x = graph.conv(source, name, channels, kernel=3)
    return graph.node("LeakyRelu", [x], f"{name}.leaky", alpha=0.1)


def _pool(graph: GraphRecorder, source: str, name: str, stride: int) -> str:
    """Append a pooling of 2 x 2. Stride 1 keeps the size, for darknet pads below and on the right only."""
    end = 2 - stride
    return graph.node(
        "MaxPool", [source], name, kernel_shape=[2, 2], strides=[stride, stride], pads=[0, 0, end, end]
    )
