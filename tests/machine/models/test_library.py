import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.graph import GraphRecorder
from tests.support.compiler.unscheduled import unscheduled_versions
from tests.support.onnx_builders import relative_error, run_onnx
from tests.support.tiny import tiny, tiny_words
from veltair.compiler.build.build import CONSTANTS, PLAN, LayerPlan, ModelPlan, build, read_plan
from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.footprint.version import Candidate
from veltair.compiler.frontend.importer import ImportedModel, import_model
from veltair.compiler.frontend.samples import Input, random_samples
from veltair.compiler.search.schedules import own_schedules
from veltair.compiler.search.target import cpu_target
from veltair.compiler.search.traces import plain
from veltair.machine.models.library import Activations, LoadedModel, NotLoaded
from veltair.machine.models.model_memory import Counts, ModelMemory


def sample(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 3, 16, 16), dtype=np.float32)


def test_a_folder_without_a_built_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match=rf"{tmp_path} holds no built model; run rule `build`"):
        LoadedModel(tmp_path)


@pytest.mark.parametrize(("document", "found"), [({}, 1), ({"format": 99}, 99)])
def test_a_model_built_in_another_format_is_refused(
    tiny_folder: Path, tmp_path: Path, document: dict[str, int], found: int
) -> None:
    for path in tiny_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / PLAN).write_text(json.dumps(document))
    with pytest.raises(LookupError, match=rf"{tmp_path} was built in format {found}, .* rule `build`"):
        LoadedModel(tmp_path)


def test_constants_of_another_build_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    for path in tiny_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / CONSTANTS).write_bytes(b"")
    with pytest.raises(LookupError, match="has 0 bytes, its plan says"):
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


def test_a_model_that_loads_nothing_holds_nothing_and_says_what_it_will(tiny_folder: Path) -> None:
    model = LoadedModel(tiny_folder, load=False)
    assert model.held_bytes == model.packed_bytes == 0
    needed = model.bytes_needed()
    model.load()
    assert model.held_bytes == needed > 0  # no two versions of the tiny network pack alike


def test_versions_that_pack_alike_need_less_than_they_say(
    tiny_imported: ImportedModel, tiny_chosen: Any, tmp_path: Path
) -> None:
    twice = {structure: group[:1] * 2 for structure, group in tiny_chosen.items()}
    build(tiny_imported, twice, cpu_target(64), tmp_path)
    model = LoadedModel(tmp_path)
    assert model.packed_bytes < model.bytes_needed()
    assert model.held_bytes == model.bytes_needed([[0]] * 6)


def test_what_versions_pack_adds_up_and_what_they_read_as_it_lies_counts_once(tiny_folder: Path) -> None:
    model = LoadedModel(tiny_folder, load=False)
    counts = [len(model.plan.of(layer)) for layer in range(6)]
    packing = next(layer for layer in range(6) if model.plan.of(layer)[0].packer and counts[layer] > 1)
    nothing: list[Sequence[int]] = [()] * 6

    def needed(*versions: int) -> int:
        return model.bytes_needed([*nothing[:packing], versions, *nothing[packing + 1 :]])

    packed_bytes = [
        sum(4 * np.prod(shape) for shape in version.packed_shapes) for version in model.plan.of(packing)
    ]
    read_bytes = needed(0) - packed_bytes[0]
    assert read_bytes > 0
    assert needed(0, 1) == needed(1, 0, 1) == packed_bytes[0] + packed_bytes[1] + read_bytes
    assert model.bytes_needed(nothing) == 0


def test_a_version_that_is_not_loaded_is_named_when_it_is_called(tiny_folder: Path) -> None:
    model = LoadedModel(tiny_folder, load=False)
    model.load([[0]] * 6)
    layer = next(number for number in range(6) if len(model.plan.of(number)) > 1)
    versions = [0] * 6
    versions[layer] = 1
    name = model.plan.layers[layer].name
    with pytest.raises(LookupError, match=rf"version 1 of layer {name} of tiny is not loaded; load it"):
        model.instance().run(versions)
    with pytest.raises(LookupError, match="version 1 of layer"):
        model.constants(layer, 1)


def test_a_release_lets_go_of_every_array_that_calls_were_bound_to(tiny_folder: Path) -> None:
    model = LoadedModel(tiny_folder)
    instance = model.instance()
    stale = instance.calls[0][0]
    model.release([[0]] * 6)
    for layer, calls in enumerate(instance.calls):
        assert [isinstance(kernel, NotLoaded) for kernel, _ in calls] == [True] + [False] * (len(calls) - 1)
        assert model.is_loaded(layer, 0) is False
    model.release()
    assert model.held_bytes == 0
    model.load()
    assert not isinstance(instance.calls[0][0][0], NotLoaded)
    assert instance.calls[0][0] is not stale


def test_what_is_loaded_stays_as_it_is_when_more_is_loaded(tiny_folder: Path) -> None:
    model = LoadedModel(tiny_folder, load=False)
    instance = model.instance()
    model.load([[0]] * 6)
    first = [calls[0] for calls in instance.calls]
    model.load()
    assert all(calls[0] is before for calls, before in zip(instance.calls, first, strict=True))


def test_a_load_that_fails_leaves_loaded_what_was(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LoadedModel(tiny_folder, load=False)
    model.load([[0], *[()] * 5])
    held = model.held_bytes
    original, packed = LoadedModel.kernel, []

    def kernel(self: LoadedModel, symbol: str) -> Any:
        packed.append(symbol)
        if len(packed) == 2:
            raise RuntimeError("no such kernel")
        return original(self, symbol)

    monkeypatch.setattr(LoadedModel, "kernel", kernel)
    with pytest.raises(RuntimeError, match="no such kernel"):
        model.load()
    assert model.held_bytes == held
    assert model.is_loaded(0, 0)
    assert not any(model.is_loaded(layer, 0) for layer in range(1, 6))


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ([[0]] * 5, "tiny has 6 layers, not 5"),
        ([[0], [0], [0], [0], [0], [77]], "layer .* of tiny has no version 77; choose from 0 to"),
        ([[-1], [0], [0], [0], [0], [0]], "has no version -1"),
    ],
)
def test_versions_that_there_are_not_are_refused(
    tiny_loaded: LoadedModel, versions: list[list[int]], message: str
) -> None:
    with pytest.raises(LookupError, match=message):
        tiny_loaded.load(versions)
    with pytest.raises(LookupError, match=message):
        tiny_loaded.part(versions)


def roomy() -> Any:
    """Return a model with a table of 16 MB that is read as it lies and weights of 8 MB that are packed."""
    graph = GraphRecorder("roomy", 0)
    table = graph.weight("table", (4096, 1024), 1.0)
    x = graph.node("Gather", [table, "ids"], "rows", axis=0)
    x = graph.node("MatMul", [x, graph.weight("weight", (1024, 2048), 1.0)], "y")
    return graph.model((), x, (8, 2048), integer_inputs={"ids": ((8,), 4095)})


ROOMY_BYTES = 4 * 1024 * (4096 + 2048)


@pytest.fixture(scope="module")
def roomy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("roomy")
    imported, target = import_model("roomy", roomy(), 1.0), cpu_target(4)
    chosen: dict[str, Sequence[Candidate]] = dict(unscheduled_versions(imported))
    for structure, function in imported.functions().items():
        if schedules := own_schedules(function, target, 1):
            trace = plain(schedules[0].trace.as_json())
            chosen[structure] = (Candidate(structure, 0, Tiling(1, 1, 1), (1.0,), trace),)
    build(imported, chosen, target, folder)
    assert [bool(version.packer) for (version,) in read_plan(folder).versions.values()] == [False, True]
    return folder


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def test_constants_that_no_version_packs_are_read_from_the_mapped_file(roomy_folder: Path) -> None:
    model = LoadedModel(roomy_folder)
    assert model.packed_bytes == 4 * 1024 * 2048
    assert model.held_bytes == model.bytes_needed() == ROOMY_BYTES
    table = np.from_dlpack(next(iter(model.constants(0, 0).values())))
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    ((region, access, *_),) = [line for line in lines if line[-1] == str(roomy_folder / CONSTANTS)]
    first, last = (int(address, 16) for address in region.split("-"))
    assert first <= table.ctypes.data < last
    assert access == "r--s"


def test_an_evicted_model_gives_its_memory_back_and_answers_the_same_to_the_last_bit_once_it_is_reloaded(
    roomy_folder: Path, tiny_folder: Path
) -> None:
    models = {"roomy": LoadedModel(roomy_folder, load=False), "tiny": LoadedModel(tiny_folder, load=False)}
    memory = ModelMemory(ROOMY_BYTES, {name: model.part() for name, model in models.items()})
    instance = models["roomy"].instance()
    instance.set_inputs(random_samples(instance.model.plan.inputs, 0))
    with memory.using("tiny"):
        pass  # what the first load of a process allocates besides is not the models'
    empty_bytes = resident_bytes()
    with memory.using("roomy"):
        (first,) = instance.run([0, 0])
        loaded_bytes = resident_bytes()
    with memory.using("tiny"):
        evicted_bytes = resident_bytes()
        assert memory.resident == ("tiny",)
    with memory.using("roomy"):
        (second,) = instance.run([0, 0])
    assert np.abs(first).max() > 0
    assert first.tobytes() == second.tobytes()
    # Not more either: what weights were packed from is in memory no longer.
    assert 0.8 < (loaded_bytes - empty_bytes) / ROOMY_BYTES < 1.2
    assert loaded_bytes - evicted_bytes > 0.8 * ROOMY_BYTES
    assert memory.counts == Counts(hits=0, loads=4, evictions=3)
    assert [len(memory.load_seconds[name]) for name in ("roomy", "tiny")] == [2, 2]


def test_an_instance_says_what_its_activations_take(tiny_loaded: LoadedModel) -> None:
    instance = tiny_loaded.instance()
    seen = {id(tensor): tensor for tensor in (*instance.inputs, *instance.outputs)}
    assert instance.nbytes >= sum(tensor.numpy().nbytes for tensor in seen.values())


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
    made = Activations(plan).made
    value = 0
    written: dict[tuple[int, int], int] = {}

    def check(kind: str, number: int, output: int) -> None:
        if kind == "layer":
            assert (np.from_dlpack(made[number][output]) == written[number, output]).all()

    for number, layer in enumerate(plan.layers):
        # A kernel may write its outputs before it has read all its inputs: both are in use at once.
        for output, tensor in enumerate(made[number]):
            assert (tuple(tensor.shape), str(tensor.dtype)) == (layer.outputs[output], layer.dtypes[output])
            value += 1
            written[number, output] = value
            tensor.copyfrom(np.full(layer.outputs[output], value, layer.dtypes[output]))
        for source in layer.inputs:
            check(*source)
    for source in plan.outputs:
        check(*source)


def test_a_chain_of_layers_takes_the_memory_of_two() -> None:
    layers = [
        LayerPlan(f"{number}", "s", 0, (source,), ((4,),), ("float32",))
        for number, source in enumerate([("input", 0, 0), *(("layer", number, 0) for number in range(5))])
    ]
    plan = ModelPlan("chain", (Input("x", (4,)),), tuple(layers), {"s": ()}, (("layer", 5, 0),))
    assert Activations(plan).nbytes == 2 * 64
