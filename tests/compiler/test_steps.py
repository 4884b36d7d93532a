import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.support.compiler.candidate_stores import with_recipe
from tests.support.compiler.recipe_fakes import parse_doubled
from tests.support.compiler.search_fakes import FakeEvolution, Workshop
from tests.support.onnx_builders import make_onnx, node
from tests.support.tiny import tiny
from veltair.compiler.build.build import ModelPlan
from veltair.compiler.frontend.model_error import ModelError
from veltair.compiler.frontend.samples import Samples
from veltair.compiler.oracle.oracle import ask, compare
from veltair.compiler.search import search as search_module
from veltair.compiler.search.runner import RpcSettings
from veltair.compiler.select import store as store_module
from veltair.compiler.select.select import Selection
from veltair.compiler.select.store import (
    SearchInfo,
    StoreError,
    find_candidates,
    read_info,
    read_store,
    write_store,
)
from veltair.compiler.steps import (
    SearchOrder,
    build_model,
    collect_store,
    read_model,
    search_models,
    search_settings,
    versions_table,
    write_model,
)
from veltair.evaluation.experiment.script import logged
from veltair.machine.models.library import LoadedModel

STORE = Path(__file__).parents[1] / "data" / "tiny"


def dynamic() -> bytes:
    return make_onnx([node("Relu", ["x"], ["y"])], {"x": (1, "N")}, {"y": (1, "N")}).SerializeToString()


def unsupported() -> bytes:
    return make_onnx([node("Det", ["x"], ["y"])], {"x": (1, 3, 3)}, {"y": (1,)}).SerializeToString()


def truncated() -> bytes:
    return tiny().SerializeToString()[:200]


def message_of(step: Callable[[], object], log: Path) -> str:
    """Return what a user sees of a step that fails in a script of the workflow."""
    with pytest.raises(SystemExit) as ended, logged(str(log)):
        step()
    return str(ended.value.code)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    shutil.copytree(STORE, folder)
    return folder


def build_in(model: Path, stores: Sequence[Path], folder: Path, cache: Path | None = None) -> ModelPlan:
    """Build a model as on a machine of two cores."""
    return build_model(model, stores, Selection(1.5, 5), 2, 128, folder, cache)


def test_a_model_of_a_builder_is_written_the_same_each_time(tmp_path: Path) -> None:
    for name in ("first.onnx", "second.onnx"):
        write_model("tiny", "tests.support.tiny:tiny", None, tmp_path / name)
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()
    assert onnx.load(tmp_path / "first.onnx").graph.name == "tiny"


def test_a_model_of_a_file_is_written_as_it_is(tmp_path: Path) -> None:
    onnx.save(tiny(), tmp_path / "mine.onnx")
    write_model("mine", None, str(tmp_path / "mine.onnx"), tmp_path / "written.onnx")
    assert onnx.load(tmp_path / "written.onnx") == tiny()


def test_a_model_that_was_written_reads_as_layers_under_the_name_of_its_file(tmp_path: Path) -> None:
    write_model("small", "tests.support.tiny:tiny", None, tmp_path / "small.onnx")
    model = read_model(tmp_path / "small.onnx").model
    assert (model.name, len(model.layers)) == ("small", 6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (truncated, "user.onnx is not a valid ONNX model (truncated?)"),
        (dynamic, "user.onnx: dimensions of 1 of 1 inputs are open: x is 1xN. Fix them with --shape x=1,N"),
    ],
)
def test_a_file_that_cannot_be_served_is_one_clear_error(
    tmp_path: Path, content: Callable[[], bytes], message: str
) -> None:
    source, log = tmp_path / "user.onnx", tmp_path / "model.log"
    source.write_bytes(content())
    seen = message_of(lambda: write_model("user", None, str(source), tmp_path / "written.onnx"), log)
    first, trace, *more = seen.splitlines()
    assert first.startswith(f"error: {tmp_path}/{message}")
    assert trace == f"(the trace is in {log})"
    assert more == []
    assert "ModelError" in log.read_text()
    assert not (tmp_path / "written.onnx").exists()


def test_an_operator_without_kernels_is_one_clear_error_of_the_build(tmp_path: Path, store: Path) -> None:
    model, log = tmp_path / "user.onnx", tmp_path / "build.log"
    model.write_bytes(unsupported())
    seen = message_of(lambda: build_in(model, [store], tmp_path / "build"), log)
    assert seen.startswith("error: ")
    assert "operator Det of node y_node" in seen
    assert len(seen.splitlines()) == 2
    assert "Traceback" in log.read_text()


def test_an_onnx_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.onnx does not exist; check `models"):
        write_model("user", None, str(tmp_path / "nowhere.onnx"), tmp_path / "written.onnx")


def test_a_model_is_built_from_a_store(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model("tiny", "tests.support.tiny:tiny", None, tmp_path / "tiny.onnx")
    (tmp_path / "build").mkdir()
    plan = build_in(tmp_path / "tiny.onnx", [store], tmp_path / "build")
    assert sorted(path.name for path in (tmp_path / "build").iterdir()) == [
        "constants.bin",
        "kernels.so",
        "plan.json",
        "versions.csv",
    ]
    assert all(1 <= len(plan.of(layer)) <= 5 for layer in range(6))
    assert "tiny: 6 layers" in capsys.readouterr().out


def test_a_layer_that_was_not_searched_is_named_with_what_to_do(tmp_path: Path, store: Path) -> None:
    weight = np.ones((5, 7), dtype=np.float32)
    model = make_onnx([node("MatMul", ["x", "w"], ["y"])], {"x": (1, 5)}, {"y": (1, 7)}, {"w": weight})
    onnx.save(model, tmp_path / "new.onnx")
    # 128 trials of 0.35 s are 45 s.
    message = r"new: 1 layer structures .*: \S+ \(matmul-\w+\)\. .*`search\.missing: search`.* 45 s"
    with pytest.raises(StoreError, match=message):
        build_in(tmp_path / "new.onnx", [store], tmp_path)


def test_without_a_store_that_this_cpu_can_run_every_layer_is_named(tmp_path: Path) -> None:
    write_model("tiny", "tests.support.tiny:tiny", None, tmp_path / "tiny.onnx")
    with pytest.raises(StoreError, match=r"tiny: 6 layer structures have no candidates"):
        build_in(tmp_path / "tiny.onnx", [], tmp_path)


def test_layers_of_one_model_may_come_from_several_stores(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model("tiny", "tests.support.tiny:tiny", None, tmp_path / "tiny.onnx")
    structures = list(read_model(tmp_path / "tiny.onnx").functions())
    first = tmp_path / "first"
    write_store(first, read_store(store, structures[:2]), SearchInfo("x86-64-v3", 64, 1, 1.5, 1))
    build_in(tmp_path / "tiny.onnx", [first, store], tmp_path / "build")
    told = capsys.readouterr().out
    assert "2 of 6 structures from candidates measured on x86-64-v3" in told
    assert "4 of 6 structures from candidates measured on znver4" in told


@pytest.fixture
def outdated(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """A structure of the tiny network, and a store in which a recipe of it has an unknown key."""
    monkeypatch.setattr(store_module, "parse", parse_doubled)
    write_model("tiny", "tests.support.tiny:tiny", None, tmp_path / "tiny.onnx")
    functions = read_model(tmp_path / "tiny.onnx").functions()
    structure, *_ = functions
    found = {**read_store(store, functions), structure: with_recipe(structure, later="key")}
    write_store(tmp_path / "outdated", found, read_info(store))
    return structure, tmp_path / "outdated"


def test_a_recipe_that_cannot_be_built_is_said_and_its_structure_comes_from_the_next_store(
    tmp_path: Path, store: Path, outdated: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    structure, folder = outdated
    build_in(tmp_path / "tiny.onnx", [folder, store], tmp_path / "build")
    told = capsys.readouterr().out
    assert f"tiny: a recipe of {structure} in a store cannot be built by this version (unknown keys" in told
    assert f"({store}), built anew for" in told and f": {structure}\n" in told


def test_a_recipe_that_cannot_be_built_is_said_where_its_structure_is_missing_too(
    tmp_path: Path, outdated: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    structure, folder = outdated
    with pytest.raises(StoreError, match=rf"1 layer structures have no candidates: .*{structure}"):
        build_in(tmp_path / "tiny.onnx", [folder], tmp_path / "build")
    assert f"a recipe of {structure} in a store cannot be built" in capsys.readouterr().out


def test_a_structure_with_a_recipe_that_cannot_be_built_is_searched_anew_and_said(
    tmp_path: Path,
    outdated: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    structure, folder = outdated
    asked: list[str] = []
    monkeypatch.setattr("veltair.compiler.steps.search", lambda functions, *_: asked.extend(functions) or {})
    settings, _ = search_settings(TINY_SEARCH | HERE)
    order = SearchOrder("auto", 64, 1.5)
    search_models([tmp_path / "tiny.onnx"], [folder], settings, order, tmp_path / "work", tmp_path / "found")
    assert asked == [structure]
    assert f"a recipe of {structure} in a store cannot be built" in capsys.readouterr().out


def test_a_second_build_compiles_nothing(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model("tiny", "tests.support.tiny:tiny", None, tmp_path / "tiny.onnx")
    first = build_in(tmp_path / "tiny.onnx", [store], tmp_path / "one", tmp_path / "cache")

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"compiled again: {arguments}")

    monkeypatch.setattr("veltair.compiler.build.build.compile_version", refuse)
    assert build_in(tmp_path / "tiny.onnx", [store], tmp_path / "two", tmp_path / "cache") == first
    # Fewer versions of the same candidates need nothing new either.
    build_model(tmp_path / "tiny.onnx", [store], Selection(1.5, 1), 2, 8, tmp_path / "2", tmp_path / "cache")


def test_the_versions_are_listed_with_the_bytes_that_they_pack(tmp_path: Path, store: Path) -> None:
    write_model("tiny", "tests.support.tiny:tiny", None, tmp_path / "tiny.onnx")
    plan = build_in(tmp_path / "tiny.onnx", [store], tmp_path / "build")
    table = versions_table(read_model(tmp_path / "tiny.onnx"), plan)
    assert len(table) == sum(map(len, plan.versions.values()))
    stem = table[table["structure"] == plan.layers[0].structure]
    packs = [bool(version.packer) for version in plan.of(0)]
    # 16 filters of 3 x 3 x 3 numbers of 4 bytes, and 16 biases.
    wanted = [4 * (16 * 27) if packed else 0 for packed in packs]
    assert [0 <= found - least <= 4 * 16 for found, least in zip(stem["packed_bytes"], wanted, strict=True)]
    assert (tmp_path / "build" / "versions.csv").read_text() == table.to_csv(index=False, lineterminator="\n")


TINY_SEARCH = {"trials": 2, "seed": 3, "population": 8, "generations": 1, "batch": 2, "repeats": 2}
REUSE = {"reuse": True, "missing": "search"}
HERE = REUSE | {"runner": "local", "rpc": {"host": None, "port": 9190, "key": None, "sessions": 1}}


def test_search_keys_become_settings() -> None:
    settings, rpc = search_settings(TINY_SEARCH | HERE)
    assert (settings.trials, settings.repeats, rpc) == (2, 2, None)
    there = REUSE | {"runner": "rpc", "rpc": {"host": "there", "port": 1, "key": "k", "sessions": 2}}
    assert search_settings(TINY_SEARCH | there)[1] == RpcSettings("there", 1, "k", 2)


def test_only_structures_that_no_store_has_are_searched(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model("tiny", "tests.support.tiny:tiny", None, tmp_path / "tiny.onnx")
    structures = list(read_model(tmp_path / "tiny.onnx").functions())
    known = tmp_path / "known"
    write_store(known, read_store(store, structures[1:]), SearchInfo("x86-64-v3", 64, 1, 1.5, 1))
    asked: list[str] = []

    def fake_search(functions: Mapping[str, object], *arguments: object) -> dict[str, str]:
        asked.extend(functions)
        return {}

    monkeypatch.setattr("veltair.compiler.steps.search", fake_search)
    settings, _ = search_settings(TINY_SEARCH | HERE)
    order = SearchOrder("auto", 64, 1.5, 1e11)
    models, found = [tmp_path / "tiny.onnx"], tmp_path / "found"
    search_models(models, [known], settings, order, tmp_path / "work", found)
    assert asked == structures[:1]
    assert (read_info(found).cores, read_info(found).core_peak_flops) == (64, 1e11)
    assert find_candidates(found, structures) == {}


def test_a_store_holds_what_the_records_have_so_far(tmp_path: Path) -> None:
    write_model("tiny", "tests.support.tiny:tiny", None, tmp_path / "tiny.onnx")
    functions = read_model(tmp_path / "tiny.onnx").functions()
    (tmp_path / "work").mkdir()
    collect_store(functions, 3, SearchOrder("x86-64-v3", 64, 1.5), tmp_path / "work", tmp_path / "found")
    assert read_info(tmp_path / "found").cpu == "x86-64-v3"
    assert find_candidates(tmp_path / "found", functions) == {}


def test_recipes_come_from_the_search_to_a_built_network_that_answers_right(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TVM's own search takes longer than all else.
    monkeypatch.setattr(search_module, "Evolution", lambda *a, **k: FakeEvolution(Workshop(most=0), *a, **k))
    model, known, found = (tmp_path / name for name in ("tiny.onnx", "known", "found"))
    write_model("tiny", "tests.support.tiny:tiny", None, model)
    functions = read_model(model).functions()
    (branch,) = (structure for structure in functions if structure.startswith("conv2d_add_add"))
    others = {one: group for one, group in read_store(store, functions).items() if one != branch}
    write_store(known, others, read_info(store))
    settings, _ = search_settings(TINY_SEARCH | HERE | {"trials": 1})
    order = SearchOrder("auto", 64, slack=100.0)  # traces are kept of all that are not hopeless
    search_models([model], [known], settings, order, tmp_path / "work", found)
    recipes = [
        one for one in find_candidates(found, [branch])[branch] if one.origin == "recipe" and one.trace
    ]
    assert {kind for one in recipes for kind in one.trace} == {"winograd", "direct"}
    # Which candidate is the fastest is of no concern here: the layer has recipes only.
    write_store(found, {branch: recipes}, read_info(found))
    plan = build_model(model, [found, known], Selection(100.0, 4), 2, 1, tmp_path / "build")
    assert len(plan.versions[branch]) > 1 and all(version.packer for version in plan.versions[branch])
    network = LoadedModel(tmp_path / "build").instance()

    def run(samples: Samples, versions: Sequence[int]) -> list[NDArray[Any]]:
        network.set_inputs(samples)
        return network.run(versions)

    counts = {structure: len(versions) for structure, versions in plan.versions.items()}
    layers = [layer.structure for layer in plan.layers]
    compare(ask(onnx.load(model), plan.inputs, seed=1), run, counts, layers, tolerance=1e-5)


def fails() -> onnx.ModelProto:
    raise OSError("no network")


def returns_a_path() -> str:
    return "model.onnx"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fails", r"^error: models\.mine\.builder: \S+:fails failed with OSError: no network\n"),
        (
            "returns_a_path",
            r"^error: models\.mine\.builder: \S+:returns_a_path returned 'model\.onnx', which is str; ",
        ),
    ],
)
def test_a_builder_that_makes_no_model_is_named_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, message: str
) -> None:
    module = ModuleType("own_builders")
    module.fails, module.returns_a_path = fails, returns_a_path  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_builders", module)
    step = f"own_builders:{function}"
    seen = message_of(lambda: write_model("mine", step, None, tmp_path / "mine.onnx"), tmp_path / "log")
    assert re.search(message, seen)


def test_a_search_without_any_candidate_of_a_structure_ends_with_the_first_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model("tiny", "tests.support.tiny:tiny", None, tmp_path / "tiny.onnx")

    def fake_search(functions: Mapping[str, object], *_: object) -> dict[str, str]:
        return dict.fromkeys(list(functions)[:2], "failed to map segment")

    monkeypatch.setattr("veltair.compiler.steps.search", fake_search)
    settings, _ = search_settings(TINY_SEARCH | HERE)
    order, found = SearchOrder("auto", 64, 1.5), tmp_path / "found"
    with pytest.raises(StoreError, match=r"no candidate of 2 of 6 layer .*: failed to map segment"):
        search_models([tmp_path / "tiny.onnx"], [], settings, order, tmp_path / "work", found)
    assert read_info(found).cores == 64  # what was found is kept
