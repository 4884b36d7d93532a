import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_builders import relative_error, run_onnx
from tiny import tiny, tiny_words
from unscheduled import unscheduled_versions

from veltair.compiler.build import LayerPlan, ModelPlan, build
from veltair.compiler.importer import ImportedModel, import_model
from veltair.compiler.samples import Input, random_samples
from veltair.compiler.target import cpu_target
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
    seen.clear()
    LoadedModel(tiny_folder, spins=True)
    assert all(int(spins) > 0 for _, spins in seen)


def test_packed_weights_of_every_version_are_counted(tiny_loaded: LoadedModel) -> None:
    versions = [version for layer in range(6) for version in tiny_loaded.plan.of(layer)]
    shapes = [shape for version in versions for shape in version.packed_shapes]
    assert tiny_loaded.packed_bytes == sum(4 * np.prod(shape) for shape in shapes) > 0


def test_weights_that_two_versions_pack_alike_are_held_once(
    tiny_imported: ImportedModel, tiny_chosen: Any, tmp_path: Path
) -> None:
    once = {structure: group[:1] for structure, group in tiny_chosen.items()}
    twice = {structure: group * 2 for structure, group in once.items()}
    loaded = []
    for name, chosen in (("once", once), ("twice", twice)):
        build(tiny_imported, chosen, cpu_target(64), tmp_path / name)
        loaded.append(LoadedModel(tmp_path / name))
    assert loaded[0].packed_bytes == loaded[1].packed_bytes > 0
    assert all(len(calls) == 2 for calls in loaded[1].instance().calls)


def test_every_layer_has_a_call_for_each_of_its_versions(tiny_loaded: LoadedModel) -> None:
    calls = tiny_loaded.instance().calls
    assert [len(group) for group in calls] == [len(tiny_loaded.plan.of(layer)) for layer in range(6)]


def test_two_instances_at_work_by_turns_do_not_disturb_each_other(tiny_loaded: LoadedModel) -> None:
    instances = [tiny_loaded.instance(), tiny_loaded.instance()]
    for seed, instance in enumerate(instances):
        instance.set_inputs([sample(seed)])
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
        instance.set_inputs([sample(seed)])
        (found,) = instance.run([0] * 6)
        assert relative_error(found, run_onnx(tiny(), sample(seed))[0]) < 1e-4


def test_outputs_are_copies(tiny_loaded: LoadedModel) -> None:
    instance = tiny_loaded.instance()
    instance.set_inputs([sample(1)])
    (first,) = instance.run([0] * 6)
    kept = first.copy()
    instance.set_inputs([sample(2)])
    instance.run([0] * 6)
    assert np.array_equal(first, kept)


def test_integers_and_floats_go_to_their_inputs(tmp_path: Path) -> None:
    imported = import_model("words", tiny_words(), 1.0)
    build(imported, unscheduled_versions(imported), cpu_target(4), tmp_path)
    instance = LoadedModel(tmp_path).instance()
    for seed in (0, 1):
        samples = random_samples(instance.model.plan.inputs, seed)
        instance.set_inputs(samples)
        (found,) = instance.run([0] * len(imported.calls))
        assert relative_error(found, run_onnx(tiny_words(), *samples)[0]) < 1e-6


@pytest.mark.parametrize("count", [0, 2])
def test_another_number_of_samples_than_inputs_is_an_error(tiny_loaded: LoadedModel, count: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        tiny_loaded.instance().set_inputs([sample(0)] * count)


def test_a_version_too_few_is_an_error(tiny_loaded: LoadedModel) -> None:
    with pytest.raises(ValueError, match="shorter"):
        tiny_loaded.instance().run([0] * 5)


TENSORS = st.tuples(st.sampled_from([(2,), (3,)]), st.sampled_from(["float32", "int64"]))


@st.composite
def plans(draw: st.DrawFn) -> ModelPlan:
    """Draw a plan of up to 10 layers that read any earlier outputs, some of them never read."""
    layers: list[LayerPlan] = []
    made: list[tuple[str, int, int]] = [("input", 0, 0), ("input", 1, 0)]
    for number in range(draw(st.integers(1, 10))):
        inputs = tuple(draw(st.lists(st.sampled_from(made), min_size=1, max_size=3)))
        outputs, dtypes = zip(*draw(st.lists(TENSORS, min_size=1, max_size=2)), strict=True)
        layers.append(LayerPlan(f"{number}", "s", 0, inputs, outputs, dtypes))
        made.extend(("layer", number, output) for output in range(len(outputs)))
    results = tuple(draw(st.lists(st.sampled_from(made), min_size=1, max_size=3)))
    given = Input("x", (2,)), Input("t", (2,), "int64")
    return ModelPlan("made-up", given, tuple(layers), {"s": ()}, results)


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
            assert (tuple(tensor.shape), str(tensor.dtype)) == (layer.outputs[output], layer.dtypes[output])
            holds[id(tensor)] = (number, output)
        for source in layer.inputs:
            check(*source)
    for source in plan.outputs:
        check(*source)


def test_a_chain_of_layers_of_one_shape_takes_two_buffers() -> None:
    layers = [
        LayerPlan(f"{number}", "s", 0, (source,), ((4,),), ("float32",))
        for number, source in enumerate([("input", 0, 0), *(("layer", number, 0) for number in range(5))])
    ]
    plan = ModelPlan("chain", (Input("x", (4,)),), tuple(layers), {"s": ()}, (("layer", 5, 0),))
    assert len({id(tensor) for (tensor,) in Instance._allocate(plan)}) == 2
