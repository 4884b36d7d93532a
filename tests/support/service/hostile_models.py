"""Models that nobody means well: each as bytes, and what is to be said of it."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.onnx_builders import make_onnx, node

Hostile = tuple[bytes, str]


def plain() -> onnx.ModelProto:
    """Return a model that is fine: y = relu(x + k)."""
    return make_onnx(
        [node("Add", ["x", "k"], ["t"]), node("Relu", ["t"], ["y"])],
        {"x": (1, 4)},
        {"y": (1, 4)},
        {"k": np.ones((1, 4), np.float32)},
    )


def _changed(change: Callable[[onnx.ModelProto], object], said: str) -> Callable[[], Hostile]:
    def made() -> Hostile:
        model = plain()
        change(model)
        return model.SerializeToString(), said

    return made


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for name, value in (("location", "../../etc/passwd"), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=name, value=value)


def _external_in_secret(model: onnx.ModelProto) -> None:
    """External data that the location does not admit."""
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")


def _sparse(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "k")
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.zeros(1, np.int64)), [1, 4])
    )


def _sparse_value(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.zeros(1, np.int64)), [1 << 40])
    model.graph.node.append(node("Constant", [], ["s"], sparse_value=sparse))


def _function(model: onnx.ModelProto) -> None:
    model.functions.append(
        helper.make_function("own", "F", ["a"], ["b"], [node("Relu", ["a"], ["b"])], model.opset_import)
    )


def _foreign(model: onnx.ModelProto) -> None:
    model.opset_import.add(domain="evil", version=1)
    model.graph.node[0].domain = "evil"


def _nested() -> Hostile:
    graph = helper.make_graph([node("Relu", ["x"], ["y"])], "inner", [], [])
    for _ in range(4):
        branches = {"then_branch": graph, "else_branch": graph}
        graph = helper.make_graph([node("If", ["c"], ["y"], **branches)], "g", [], [])
    model = plain()
    model.graph.node.extend(graph.node)
    return model.SerializeToString(), "has a body"


def _deep() -> Hostile:
    """Graphs in graphs in graphs, written as bytes, deeper than any parser should follow."""
    inner = b""
    for _ in range(5_000):
        attribute = b"\x32" + _length(inner)  # AttributeProto.g
        inner = b"\x0a" + _length(b"\x2a" + _length(attribute))  # GraphProto.node, NodeProto.attribute
    return b"\x3a" + _length(inner), "they cannot be parsed"


def _length(content: bytes) -> bytes:
    count, head = len(content), b""
    while count > 0x7F:
        head += bytes([count & 0x7F | 0x80])
        count >>= 7
    return head + bytes([count]) + content


def _bomb(operator: str, shape_of: np.ndarray, *before: str) -> Callable[[], Hostile]:
    """A few bytes that become terabytes: as an operator's output from a constant shape."""

    def made() -> Hostile:
        model = make_onnx(
            [node(operator, [*before, "k"], ["t"]), node("Add", ["x", "t"], ["y"])],
            {"x": (1, 1)},
            {"y": None},
            {"k": shape_of, "one": np.ones((1, 1), np.float32)},
        )
        return model.SerializeToString(), "bounds.tensor_elements"

    return made


def _range() -> Hostile:
    model = make_onnx(
        [node("Range", ["a", "b", "c"], ["t"]), node("Add", ["x", "t"], ["y"])],
        {"x": (1, 1)},
        {"y": None},
        {"a": np.array(0.0, np.float32), "b": np.array(1e12, np.float32), "c": np.array(1.0, np.float32)},
    )
    return model.SerializeToString(), "bounds.tensor_elements|not known before"


def _secret_range() -> Hostile:
    """A length that is computed before."""
    model = make_onnx(
        [
            node("Mul", ["b", "b"], ["d"]),
            node("Range", ["a", "d", "c"], ["t"]),
            node("Add", ["x", "t"], ["y"]),
        ],
        {"x": (1, 1)},
        {"y": None},
        {"a": np.array(0), "b": np.array(1_000_000), "c": np.array(1)},
    )
    return model.SerializeToString(), "is not known before"


def _secret_shape() -> Hostile:
    """A shape that is computed, by an operator whose values ONNX does not follow."""
    model = make_onnx(
        [
            node("Exp", ["e"], ["f"]),
            node("Cast", ["f"], ["i"], to=TensorProto.INT64),
            node("ConstantOfShape", ["i"], ["t"]),
            node("Add", ["x", "t"], ["y"]),
        ],
        {"x": (1, 1)},
        {"y": None},
        {"e": np.full(2, 14.0, np.float32)},
    )
    return model.SerializeToString(), "is not known before"


def _squares() -> Hostile:
    """What is made is the product of the elements before it."""
    model = make_onnx(
        [node("MatMul", ["k", "x"], ["t"]), node("MatMul", ["t", "l"], ["y"])],
        {"x": (1, 1)},
        {"y": None},
        {"k": np.zeros((900, 1), np.float32), "l": np.zeros((1, 900), np.float32)},
    )
    return model.SerializeToString(), "bounds.tensor_elements"


def _negative(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -(1 << 62)


def _overflowing(model: onnx.ModelProto) -> None:
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([1 << 62, 4])


def _long_name(model: onnx.ModelProto) -> None:
    model.graph.node[0].name = "x" * 2_000


def _metadata(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="k", value="v" * 5_000)


def _control_letters(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].name = "\x1b[2J\r\nHTTP/1.1 200"
    model.graph.initializer[0].external_data.add(key="location", value="x")


def _unknown(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "System"


def _loop(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("body", helper.make_graph([], "g", [], [])))


HOSTILE: Mapping[str, Callable[[], Hostile]] = MappingProxyType(
    {
        "nothing": lambda: (b"", "no ONNX model"),
        "noise": lambda: (bytes(range(256)) * 20, "no ONNX model"),
        "text": lambda: (b"import os; os.system('true')", "no ONNX model"),
        "cut off": lambda: (plain().SerializeToString()[:-5], "no ONNX model|not valid"),
        "length beyond the end": lambda: (b"\x3a\xff\xff\xff\xff\x0f", "no ONNX model"),
        "graphs in graphs, deep": _deep,
        "external data": _changed(_external, "keeps k in another file"),
        "external data in secret": _changed(_external_in_secret, "keeps k in another file"),
        "sparse initialiser": _changed(_sparse, "sparse initialisers"),
        "sparse value": _changed(_sparse_value, "has a sparse tensor"),
        "function": _changed(_function, "functions of its own"),
        "foreign domain": _changed(_foreign, "evil"),
        "unknown operator": _changed(_unknown, "System"),
        "body": _changed(_loop, "has a body"),
        "bodies in bodies": _nested,
        "negative shape": _changed(_negative, "the shape of k is none"),
        "overflowing shape": _changed(_overflowing, "bounds.tensor_elements"),
        "long name": _changed(_long_name, "a name of 2000 letters"),
        "metadata": _changed(_metadata, "bounds.metadata_kb"),
        "control letters": _changed(_control_letters, "in another file"),
        "ConstantOfShape": _bomb("ConstantOfShape", np.array([1 << 20, 1 << 20])),
        "Expand": _bomb("Expand", np.array([1 << 20, 1 << 20]), "one"),
        "Tile": _bomb("Tile", np.array([1 << 20, 1 << 20]), "one"),
        "Pad": _bomb("Pad", np.array([0, 0, 1 << 20, 1 << 20]), "one"),
        "Range": _range,
        "Range of what is computed": _secret_range,
        "squares": _squares,
        "shape that is computed": _secret_shape,
    }
)
