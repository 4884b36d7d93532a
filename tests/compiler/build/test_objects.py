import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.compiler.nests import matmul
from tests.support.compiler.recipe_fakes import doubled, generate_doubled
from veltair.compiler.build.build import ModelPlan, build
from veltair.compiler.build.objects import find_version, version_key
from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.footprint.version import Candidate
from veltair.compiler.frontend.importer import ImportedModel
from veltair.compiler.search.target import GENERIC_X86, cpu_target
from veltair.machine.models.library import LoadedModel

ONE = Candidate("conv-1", 0, Tiling(2, 4, 8), (1.0,), [["instruction", 1], [2]])
TARGET = cpu_target(64, GENERIC_X86)


@pytest.mark.parametrize(
    "other", [replace(ONE, structure="conv-2"), replace(ONE, trace=[["instruction", 1], [3]])]
)
def test_what_machine_code_depends_on_changes_its_key(other: Candidate) -> None:
    assert version_key(other, TARGET) != version_key(ONE, TARGET)


def test_another_target_changes_the_key() -> None:
    assert version_key(ONE, cpu_target(64, "znver4")) != version_key(ONE, TARGET)


@pytest.mark.parametrize(
    "other", [replace(ONE, index=7), replace(ONE, run_seconds=(2.0,)), replace(ONE, tiling=Tiling(1, 1, 1))]
)
def test_what_was_measured_or_analysed_does_not_change_the_key(other: Candidate) -> None:
    assert version_key(other, TARGET) == version_key(ONE, TARGET)


RECIPE = replace(ONE, trace=doubled(16))
PRODUCT = matmul(8, 32, 4)


def test_what_a_recipe_generates_changes_its_key() -> None:
    made, again, edited = (generate_doubled(PRODUCT, RECIPE.trace, factor) for factor in (2.0, 2.0, 4.0))
    assert version_key(RECIPE, TARGET, made) == version_key(RECIPE, TARGET, again)
    assert version_key(RECIPE, TARGET, made) != version_key(RECIPE, TARGET, edited)


def test_the_text_of_a_recipe_changes_its_key() -> None:
    made = generate_doubled(PRODUCT, RECIPE.trace)
    other = replace(RECIPE, trace=doubled(8))
    assert version_key(other, TARGET, made) != version_key(RECIPE, TARGET, made)


KEY = """
from tests.compiler.build.test_objects import PRODUCT, RECIPE, TARGET, generate_doubled, version_key
print(version_key(RECIPE, TARGET, generate_doubled(PRODUCT, RECIPE.trace)))
"""


def test_another_process_finds_the_same_key_for_a_recipe() -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", KEY], cwd=root, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == version_key(RECIPE, TARGET, generate_doubled(PRODUCT, RECIPE.trace))


def test_a_recipe_has_no_key_without_what_it_generates() -> None:
    with pytest.raises(ValueError, match="candidate 0 of conv-1 is a recipe: give its module"):
        version_key(RECIPE, TARGET)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def built(
    tiny_imported: ImportedModel, tiny_chosen: Any, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> ModelPlan:
    return build(tiny_imported, tiny_chosen, TARGET, tmp_path_factory.mktemp("built"), cache)


def key_of_first(tiny_chosen: Any) -> str:
    return version_key(next(iter(tiny_chosen.values()))[0], TARGET)


def test_every_version_is_kept_once(built: ModelPlan, tiny_chosen: Any, cache: Path) -> None:
    keys = {version_key(one, TARGET) for group in tiny_chosen.values() for one in group}
    assert {path.name for path in cache.iterdir()} == {
        f"{key}{end}" for key in keys for end in (".o", ".json")
    }


def test_a_version_that_is_not_there_is_not_found(cache: Path) -> None:
    assert find_version("0" * 64, cache) is None


@pytest.mark.parametrize("suffix", [".o", ".json"])
def test_a_version_that_was_tampered_with_is_compiled_again(
    tiny_imported: ImportedModel,
    tiny_chosen: Any,
    built: ModelPlan,
    cache: Path,
    tmp_path: Path,
    suffix: str,
) -> None:
    key = key_of_first(tiny_chosen)
    path = cache / f"{key}{suffix}"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    assert find_version(key, cache) is None
    assert build(tiny_imported, tiny_chosen, TARGET, tmp_path, cache) == built
    assert find_version(key, cache) is not None


def test_a_library_of_kept_versions_has_all_kernels(
    tiny_imported: ImportedModel, tiny_chosen: Any, built: ModelPlan, cache: Path, tmp_path: Path
) -> None:
    build(tiny_imported, tiny_chosen, TARGET, tmp_path, cache)
    loaded = LoadedModel(tmp_path)
    versions = [version for group in built.versions.values() for version in group]
    assert all(loaded.kernel(version.symbol) is not None for version in versions)


SIGMOID = """
import sys
from pathlib import Path
from models.graph import GraphRecorder
from veltair.compiler.frontend.importer import import_model
from veltair.compiler.build.objects import compile_version
from veltair.compiler.search.target import cpu_target
graph = GraphRecorder("sigmoid", 0)
model = graph.model((1, 64), graph.node("Sigmoid", ["input"], "y"), (1, 64))
(function,) = import_model("sigmoid", model, 1.0).functions().values()
functions = {"main": function.with_attr("global_symbol", "main")}
compile_version(functions, {}, cpu_target(4), "key", Path(sys.argv[1]))
"""


def test_a_served_sigmoid_calls_no_scalar_exponential(tmp_path: Path) -> None:
    # A process of its own: lowerings hold for a whole process, where another test may have asked for them.
    subprocess.run([sys.executable, "-c", SIGMOID, str(tmp_path)], check=True, capture_output=True)
    assert b"expf" not in (tmp_path / "key.o").read_bytes()
