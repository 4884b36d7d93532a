import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_builders import relative_error, run_onnx
from tiny import tiny

from veltair.compiler.build import LayerPlan, ModelPlan
from veltair.machine.library import Instance, LoadedModel


def sample(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 3, 16, 16), dtype=np.float32)


def test_a_folder_without_a_built_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match=rf"{tmp_path} holds no built model; run rule `build`"):
        LoadedModel(tmp_path)


def test_loading_readies_the_threads_of_kernels_before_any_kernel_runs(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TVM_NUM_THREADS", "77")
    monkeypatch.setenv("TVM_THREAD_POOL_SPIN_COUNT", "77")
    seen = []
    original = LoadedModel.kernel

    def kernel(self: LoadedModel, symbol: str) -> Any:
        seen.append((os.environ["TVM_NUM_THREADS"], os.environ["TVM_THREAD_POOL_SPIN_COUNT"]))
        return original(self, symbol)

    monkeypatch.setattr(LoadedModel, "kernel", kernel)
    LoadedModel(tiny_folder)
    assert set(seen) == {(str(len(os.sched_getaffinity(0))), "0")}


def test_packed_weights_of_every_version_are_counted(tiny_loaded: LoadedModel) -> None:
    versions = [version for layer in range(6) for version in tiny_loaded.plan.of(layer)]
    shapes = [shape for version in versions for shape in version.packed_shapes]
    assert tiny_loaded.packed_bytes == sum(4 * np.prod(shape) for shape in shapes) > 0


def test_every_layer_has_a_call_for_each_of_its_versions(tiny_loaded: LoadedModel) -> None:
    calls = tiny_loaded.instance().calls
    assert [len(group) for group in calls] == [len(tiny_loaded.plan.of(layer)) for layer in range(6)]


def test_two_instances_at_work_by_turns_do_not_disturb_each_other(tiny_loaded: LoadedModel) -> None:
    instances = [tiny_loaded.instance(), tiny_loaded.instance()]
    for seed, instance in enumerate(instances):
        instance.set_input(sample(seed))
    for layer in range(6):
        for instance in instances:
            kernel, arguments = instance.calls[layer][0]
            kernel(*arguments)
    for seed, instance in enumerate(instances):
        (wanted,) = run_onnx(tiny(), sample(seed))
        assert relative_error(instance.read_outputs()[0], wanted) < 1e-4


def test_an_instance_gives_the_right_answer_again_and_again(tiny_loaded: LoadedModel) -> None:
    instance = tiny_loaded.instance()
    for seed in (1, 2, 1):
        instance.set_input(sample(seed))
        (found,) = instance.run([0] * 6)
        assert relative_error(found, run_onnx(tiny(), sample(seed))[0]) < 1e-4


def test_outputs_are_copies(tiny_loaded: LoadedModel) -> None:
    instance = tiny_loaded.instance()
    instance.set_input(sample(1))
    (first,) = instance.run([0] * 6)
    kept = first.copy()
    instance.set_input(sample(2))
    instance.run([0] * 6)
    assert np.array_equal(first, kept)


def test_a_version_too_few_is_an_error(tiny_loaded: LoadedModel) -> None:
    with pytest.raises(ValueError, match="shorter"):
        tiny_loaded.instance().run([0] * 5)


SHAPES = st.lists(st.sampled_from([(2,), (3,)]), min_size=1, max_size=2)


@st.composite
def plans(draw: st.DrawFn) -> ModelPlan:
    """Draw a plan of up to 10 layers that read any earlier outputs, some of them never read."""
    layers: list[LayerPlan] = []
    made: list[tuple[str, int, int]] = [("input", 0, 0)]
    for number in range(draw(st.integers(1, 10))):
        inputs = tuple(draw(st.lists(st.sampled_from(made), min_size=1, max_size=3)))
        outputs = tuple(draw(SHAPES))
        layers.append(LayerPlan(f"{number}", "s", 0, inputs, outputs))
        made.extend(("layer", number, output) for output in range(len(outputs)))
    results = tuple(draw(st.lists(st.sampled_from(made), min_size=1, max_size=3)))
    return ModelPlan("made-up", (2,), tuple(layers), {"s": ()}, results)


@settings(max_examples=300)
@given(plans())
def test_memory_is_never_lent_while_somebody_will_still_read_it(plan: ModelPlan) -> None:
    made = Instance._allocate(plan)
    holds: dict[int, tuple[int, int]] = {}

    def check(kind: str, number: int, output: int) -> None:
        if kind == "layer":
            assert holds[id(made[number][output])] == (number, output)

    for number, layer in enumerate(plan.layers):
        # A kernel may write its outputs before it has read all its inputs: both are in use at once.
        for output, tensor in enumerate(made[number]):
            assert tuple(tensor.shape) == layer.outputs[output]
            holds[id(tensor)] = (number, output)
        for source in layer.inputs:
            check(*source)
    for source in plan.outputs:
        check(*source)


def test_a_chain_of_layers_of_one_shape_takes_two_buffers() -> None:
    layers = [
        LayerPlan(f"{number}", "s", 0, (("layer", number - 1, 0) if number else ("input", 0, 0),), ((4,),))
        for number in range(6)
    ]
    plan = ModelPlan("chain", (4,), tuple(layers), {"s": ()}, (("layer", 5, 0),))
    assert len({id(tensor) for (tensor,) in Instance._allocate(plan)}) == 2
