from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.support.compiler.recipe_fakes import doubled, generate_doubled, install
from tests.support.compiler.unscheduled import unscheduled_versions
from tests.support.onnx_builders import make_onnx, node, relative_error, run_onnx
from tests.support.tiny import tiny, tiny_words
from veltair.compiler.build.build import CONSTANTS, LIBRARY, PLAN, ModelPlan, build, read_plan
from veltair.compiler.footprint.traffic import CACHE_BYTES, CURVE_BYTES, Tiling
from veltair.compiler.footprint.version import Candidate
from veltair.compiler.frontend.importer import ImportedModel, import_model
from veltair.compiler.frontend.samples import random_samples
from veltair.compiler.recipes.recipe import RecipeError
from veltair.compiler.search import search as search_module
from veltair.compiler.search.target import cpu_target
from veltair.machine.models.library import LoadedModel

TOLERANCE = 1e-4


def build_unscheduled(model: onnx.ModelProto, folder: Path) -> ModelPlan:
    imported = import_model("small", model, 0.01)
    return build(imported, unscheduled_versions(imported), cpu_target(4), folder)


def two_headed() -> onnx.ModelProto:
    """Return a model with two outputs and a softmax between."""
    nodes = [node("Relu", ["x"], ["y"]), node("Softmax", ["y"], ["z"], axis=1)]
    return make_onnx(nodes, {"x": (2, 5)}, {"z": (2, 5), "y": (2, 5)})


def assert_agrees_with_onnx_runtime(model: onnx.ModelProto, folder: Path, versions: list[int]) -> None:
    loaded = LoadedModel(folder)
    samples = random_samples(loaded.plan.inputs, seed=3)
    instance = loaded.instance()
    instance.set_inputs(samples)
    for found, wanted in zip(instance.run(versions), run_onnx(model, *samples), strict=True):
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
    build(tiny_imported, unscheduled_versions(tiny_imported), cpu_target(4), tmp_path)
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
        tilings = [version.tiling for version in plan.versions[structure]]
        assert [replace(tiling, fetched_bytes=()) for tiling in tilings] == [one.tiling for one in chosen]
        known = [dict(zip(CURVE_BYTES, tiling.fetched_bytes, strict=True)) for tiling in tilings]
        assert [tuple(one[size] for size in CACHE_BYTES) for one in known] == [
            one.traffic_bytes for one in chosen
        ]


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


def product() -> onnx.ModelProto:
    """Return a model of one layer: [8, 4] times constant weights of [4, 32]."""
    weights = np.random.default_rng(0).standard_normal((4, 32), dtype=np.float32)
    return make_onnx([node("MatMul", ["x", "w"], ["y"])], {"x": (8, 4)}, {"y": (8, 32)}, {"w": weights})


def recipe_of(imported: ImportedModel, tile: int) -> dict[str, tuple[Candidate, ...]]:
    (structure,) = imported.functions()
    return {structure: (Candidate(structure, 0, Tiling(2, 896, 1664), (1.0,), doubled(tile), "recipe"),)}


def test_a_recipe_is_built_with_its_packer_and_agrees_with_onnx_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    imported = import_model("small", product(), 0.01)
    ((version,),) = build(imported, recipe_of(imported, 16), cpu_target(4), tmp_path).versions.values()
    assert (version.packed, version.packed_shapes, version.parallelism) == ((1,), ((2, 4, 16),), 2)
    assert version.packer and version.packer != version.symbol
    assert_agrees_with_onnx_runtime(product(), tmp_path, [0])


def test_an_edit_of_the_generator_never_serves_an_old_object_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = import_model("small", product(), 0.01)
    symbols = set()
    for factor in (2.0, 4.0):
        monkeypatch.setattr(search_module, "generated", partial(generate_doubled, factor=factor))
        plan = build(
            imported, recipe_of(imported, 16), cpu_target(4), tmp_path / str(factor), tmp_path / "cache"
        )
        symbols |= {version.symbol for group in plan.versions.values() for version in group}
        assert_agrees_with_onnx_runtime(product(), tmp_path / str(factor), [0])
    assert len(symbols) == 2 and len(list((tmp_path / "cache").glob("*.o"))) == 2


def test_a_recipe_that_cannot_be_built_stops_the_build_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    imported = import_model("small", product(), 0.01)
    with pytest.raises(RecipeError, match="32 columns are no tiles of 7"):
        build(imported, recipe_of(imported, 7), cpu_target(4), tmp_path)


def test_a_model_of_integers_and_floats_agrees_with_onnx_runtime(tmp_path: Path) -> None:
    plan = build_unscheduled(tiny_words(), tmp_path)
    assert [(value.dtype, value.low, value.high) for value in plan.inputs] == [
        ("float32", 0, 1),
        ("int64", 0, 6),
        ("int64", 0, 1),
    ]
    assert_agrees_with_onnx_runtime(tiny_words(), tmp_path, [0] * len(plan.layers))


def test_layers_may_hand_integers_on_and_give_them_out(tmp_path: Path) -> None:
    nodes = [
        node("ArgMax", ["x"], ["best"], axis=1, keepdims=0),
        node("Gather", ["table", "best"], ["row"], axis=0),
        node("Greater", ["row", "x"], ["above"]),
    ]
    table = np.random.default_rng(0).standard_normal((5, 5), dtype=np.float32)
    types = {"best": TensorProto.INT64, "above": TensorProto.BOOL}
    outputs = {"best": (2,), "row": (2, 5), "above": (2, 5)}
    model = make_onnx(nodes, {"x": (2, 5)}, outputs, {"table": table}, types=types)
    plan = build_unscheduled(model, tmp_path)
    assert {dtype for layer in plan.layers for dtype in layer.dtypes} == {"int64", "float32", "bool"}
    assert read_plan(tmp_path) == plan
    assert_agrees_with_onnx_runtime(model, tmp_path, [0] * len(plan.layers))
