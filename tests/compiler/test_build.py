from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_builders import make_onnx, node, relative_error, run_onnx
from tiny import tiny
from tvm import s_tir
from tvm.ir import IRModule

from veltair.compiler.build import CONSTANTS, LIBRARY, PLAN, ModelPlan, build, read_plan
from veltair.compiler.importer import ImportedModel, import_model
from veltair.compiler.target import cpu_target
from veltair.compiler.tiling import read_tiling
from veltair.compiler.version import Candidate
from veltair.machine.library import LoadedModel

TOLERANCE = 1e-4


def unscheduled(imported: ImportedModel) -> dict[str, tuple[Candidate, ...]]:
    """Return one version of each structure: its loops as they are."""
    return {
        structure: (Candidate(structure, 0, read_tiling(function), (1.0,), empty_trace(function)),)
        for structure, function in imported.functions().items()
    }


def empty_trace(function: Any) -> Any:
    return s_tir.Schedule(IRModule({"main": function})).trace.as_json()


def build_unscheduled(model: onnx.ModelProto, folder: Path) -> ModelPlan:
    imported = import_model("small", model, 0.01)
    return build(imported, unscheduled(imported), cpu_target(4), folder)


def two_headed() -> onnx.ModelProto:
    """Return a model with two outputs and a softmax between."""
    nodes = [node("Relu", ["x"], ["y"]), node("Softmax", ["y"], ["z"], axis=1)]
    return make_onnx(nodes, {"x": (2, 5)}, {"z": (2, 5), "y": (2, 5)})


def assert_agrees_with_onnx_runtime(model: onnx.ModelProto, folder: Path, versions: list[int]) -> None:
    loaded = LoadedModel(folder)
    sample = np.random.default_rng(3).standard_normal(loaded.plan.input_shape, dtype=np.float32)
    instance = loaded.instance()
    instance.set_input(sample)
    for found, wanted in zip(instance.run(versions), run_onnx(model, sample), strict=True):
        assert relative_error(found, wanted) < TOLERANCE


def test_each_version_of_the_tiny_network_agrees_with_onnx_runtime(tiny_folder: Path) -> None:
    counts = [len(read_plan(tiny_folder).of(layer)) for layer in range(6)]
    assert max(counts) > 1
    for number in range(max(counts)):
        versions = [min(number, count - 1) for count in counts]
        assert_agrees_with_onnx_runtime(tiny(), tiny_folder, versions)


def test_the_tiny_network_unscheduled_agrees_with_onnx_runtime(
    tiny_imported: ImportedModel, tmp_path: Path
) -> None:
    build(tiny_imported, unscheduled(tiny_imported), cpu_target(4), tmp_path)
    assert_agrees_with_onnx_runtime(tiny(), tmp_path, [0] * 6)


def test_outputs_come_in_the_order_of_the_model(tmp_path: Path) -> None:
    plan = build_unscheduled(two_headed(), tmp_path)
    assert_agrees_with_onnx_runtime(two_headed(), tmp_path, [0] * len(plan.layers))


def test_an_output_that_is_the_input_is_passed_through(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], ["y"]), node("Identity", ["x"], ["z"])]
    model = make_onnx(nodes, {"x": (2, 5)}, {"y": (2, 5), "z": (2, 5)})
    build_unscheduled(model, tmp_path)
    assert_agrees_with_onnx_runtime(model, tmp_path, [0])


def test_a_layer_with_two_outputs_is_called_with_both(tmp_path: Path) -> None:
    halves = node("Split", ["x"], ["a", "b"], axis=1)
    model = make_onnx([halves], {"x": (2, 6)}, {"b": (2, 3), "a": (2, 3)})
    plan = build_unscheduled(model, tmp_path)
    assert [layer.outputs for layer in plan.layers] == [((2, 3), (2, 3))]
    assert_agrees_with_onnx_runtime(model, tmp_path, [0] * len(plan.layers))


def test_the_plan_is_read_back_as_it_was_returned(
    tiny_imported: ImportedModel, tiny_chosen: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    plan = build(tiny_imported, tiny_chosen, cpu_target(64), tmp_path)
    assert read_plan(tmp_path) == plan == read_plan(tiny_folder)


def test_the_plan_names_each_version_with_its_tiling(tiny_chosen: Any, tiny_folder: Path) -> None:
    plan = read_plan(tiny_folder)
    symbols = [version.symbol for versions in plan.versions.values() for version in versions]
    assert len(set(symbols)) == len(symbols)
    for structure, chosen in tiny_chosen.items():
        found = [(version.parallelism, version.blocking_bytes) for version in plan.versions[structure]]
        assert found == [(one.tiling.parallelism, one.tiling.blocking_bytes) for one in chosen]


def test_a_build_leaves_three_files_and_nothing_half_done(tiny_folder: Path) -> None:
    assert {path.name for path in tiny_folder.iterdir()} == {LIBRARY, PLAN, CONSTANTS}


@pytest.mark.parametrize("versions", [None, ()])
def test_a_structure_without_versions_is_named(
    tiny_imported: ImportedModel, tiny_chosen: Any, tmp_path: Path, versions: tuple[Candidate, ...] | None
) -> None:
    structure = tiny_imported.model.layers[2].structure
    chosen = {name: group for name, group in tiny_chosen.items() if name != structure}
    if versions is not None:
        chosen[structure] = versions
    with pytest.raises(LookupError, match=rf"tiny: layer structure {structure} has no versions; search it"):
        build(tiny_imported, chosen, cpu_target(64), tmp_path)
    assert not list(tmp_path.iterdir())
