import numpy as np
import tvm
from tvm.tirx import build as tvm_build

from models.graph import GraphRecorder
from veltair.compiler.frontend.importer import import_model
from veltair.compiler.search.schedules import count_schedules, own_schedules
from veltair.compiler.search.search import replay
from veltair.compiler.search.target import cpu_target
from veltair.compiler.search.traces import plain


def _layers() -> GraphRecorder:
    graph = GraphRecorder("layers", 3)
    x = graph.conv("input", "spatial", (8, 16), kernel=3, stride=2)
    x = graph.swish(x, "swish")
    x = graph.conv(x, "depthwise", (16, 16), kernel=3, groups=16)
    x = graph.node("Relu", [x], "relu")
    y = graph.node("MaxPool", [x], "max", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    x = graph.node("Concat", [x, y], "joined", axis=1)
    x = graph.conv(x, "point", (32, 24), kernel=1)
    x = graph.node("Add", [x, x], "doubled")
    x = graph.node("GlobalAveragePool", [x], "mean")
    x = graph.node("Flatten", [x], "flatten", axis=1)
    graph.dense(x, "logits", (24, 16))
    return graph


KINDS = ("conv", "group", "matmul", "max_pool", "concatenate", "mean")


def _functions() -> dict[str, object]:
    model = _layers().model((1, 8, 12, 12), "logits", (1, 16))
    functions: dict[str, object] = import_model("layers", model, 1.0).functions()
    return {name: function for name, function in functions.items() if name.startswith(KINDS)}


def _run(module: object, arrays: list[np.ndarray], outputs: int) -> list[np.ndarray]:
    # As scheduled, a function still packs its weights by itself.
    arguments = [tvm.runtime.tensor(array.copy()) for array in arrays]
    tvm_build(module, target=cpu_target(64, "x86-64-v3"))["main"](*arguments)
    return [argument.numpy() for argument in arguments[-outputs:]]


def test_layers_with_a_schedule_of_ours_compute_what_they_did() -> None:
    functions = _functions()
    assert len(functions) == 7
    target = cpu_target(64, "x86-64-v3")
    for name, function in functions.items():
        schedules = own_schedules(function, target, 6)
        assert schedules, name
        random = np.random.default_rng(5)
        shapes = [tuple(map(int, one.ty.shape)) for one in function.params]  # type: ignore[attr-defined]
        arrays = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
        (expected,) = _run(replay(function, [[], []]), arrays, 1)
        for schedule in schedules:
            (found,) = _run(replay(function, plain(schedule.trace.as_json())), arrays, 1)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_input_of_a_convolution_is_packed_in_blocks_of_its_channels() -> None:
    (function,) = (one for name, one in _functions().items() if name.startswith("conv2d_add_tir_sigmoid"))
    packed = own_schedules(function, cpu_target(64, "x86-64-v3"), 1)[0]
    # 8 channels of 14 x 14 pixels, padding included, in one block.
    assert "T.int64(1), T.int64(1), T.int64(14), T.int64(14), T.int64(8)" in packed.mod.script()


def test_a_layer_with_two_reductions_has_no_schedule_of_ours() -> None:
    graph = GraphRecorder("softmax", 0)
    x = graph.node("Softmax", ["input"], "softmax", axis=-1)
    functions = import_model("softmax", graph.model((1, 16), x, (1, 16)), 1.0).functions()
    assert functions
    assert not any(own_schedules(function, cpu_target(64), 4) for function in functions.values())


def test_schedules_are_counted_without_making_them_never_fewer_than_there_are() -> None:
    target = cpu_target(64, "x86-64-v3")
    for name, function in _functions().items():
        count, sums = count_schedules(function, target)
        assert sums == (not name.startswith("concatenate"))
        assert count >= len(own_schedules(function, target, 12)) >= min(1, count)
