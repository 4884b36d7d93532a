import dataclasses
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.support.compiler.candidate_stores import FOUND, INFO, candidates, tamper, with_recipe
from tests.support.compiler.recipe_fakes import parse_doubled
from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.footprint.version import Candidate
from veltair.compiler.select import store as store_module
from veltair.compiler.select.core_counts import doubling
from veltair.compiler.select.select import Selection, rounds_costs, select
from veltair.compiler.select.store import (
    CANDIDATES,
    FILES,
    STORE_INFO,
    TRACES,
    StoreError,
    choose,
    damaged_structures,
    find_candidates,
    outdated_structures,
    read_info,
    read_store,
    write_store,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_store(tmp_path / "store", FOUND, INFO)
    return tmp_path / "store"


def test_what_is_written_is_read_back(folder: Path) -> None:
    assert read_store(folder, FOUND) == FOUND
    assert read_info(folder) == INFO


def test_numbers_are_read_back_as_plain_numbers(folder: Path) -> None:
    one = read_store(folder, ["conv-1"])["conv-1"][0]
    tiling = (one.tiling.parallelism, one.tiling.blocking_bytes, one.tiling.compulsory_bytes)
    assert {type(number) for number in (one.index, *tiling, *one.traffic_bytes)} == {int}
    assert {type(second) for second in one.run_seconds} == {float}


def test_times_are_kept_to_seven_digits(tmp_path: Path) -> None:
    one = Candidate("conv-1", 0, Tiling(1, 5, 5), (0.001234567891,), ["trace"])
    write_store(tmp_path, {"conv-1": [one]}, INFO)
    ((read,),) = read_store(tmp_path, ["conv-1"]).values()
    assert read.run_seconds[0] == pytest.approx(0.001234567891, rel=1e-7)


def test_where_it_was_measured_is_read_back(tmp_path: Path) -> None:
    found = {"conv-1": tuple(dataclasses.replace(one, measured_cores=2) for one in FOUND["conv-1"])}
    write_store(tmp_path, found, dataclasses.replace(INFO, measured_cores=2))
    assert read_store(tmp_path, found) == found


def test_only_the_structures_asked_for_are_read(folder: Path) -> None:
    assert list(read_store(folder, ["dense-2"])) == ["dense-2"]


def test_traces_that_no_selection_needs_are_not_kept(tmp_path: Path) -> None:
    # 3 times slower than the best on any number of cores: outside the slack of 1.5.
    slow = Candidate("conv-1", 9, Tiling(8, 10**9, 10**9), (3.0,), ["trace", 9])
    write_store(tmp_path, {"conv-1": (*FOUND["conv-1"], slow)}, INFO)
    (*_, found) = read_store(tmp_path, ["conv-1"])["conv-1"]
    assert found == dataclasses.replace(slow, trace=None)


@pytest.mark.parametrize("metric", ["blocking", "traffic"])
@pytest.mark.parametrize("cores", [1, 2, 16, 64])
@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_every_selection_of_up_to_8_versions_can_be_chosen_from_a_store(
    tmp_path: Path, count: int, cores: int, metric: str
) -> None:
    found = {"conv-1": candidates("conv-1", 12)}
    write_store(tmp_path, found, INFO)
    selection, costs = Selection(1.5, count, metric), rounds_costs(doubling(cores))  # type: ignore[arg-type]
    chosen = choose(read_store(tmp_path, found), selection, costs)
    assert chosen == {"conv-1": select(found["conv-1"], selection, costs)}


def test_where_the_trace_of_one_was_not_kept_the_others_are_chosen_from() -> None:
    found = (*FOUND["conv-1"], Candidate("conv-1", 9, Tiling(1024, 10**9, 10**9), (0.5,), None))
    chosen = choose({"conv-1": found}, Selection(1.5, 5))
    assert chosen == choose({"conv-1": FOUND["conv-1"]}, Selection(1.5, 5))


def test_choosing_of_candidates_without_any_trace_is_an_error() -> None:
    found = [dataclasses.replace(one, trace=None) for one in FOUND["conv-1"]]
    with pytest.raises(
        StoreError, match=r"no candidate of layer structure conv-1 ran, or none.*search\.trials"
    ):
        choose({"conv-1": found}, Selection(1.5, 5))


def test_a_structure_of_which_nothing_ran_is_stored(tmp_path: Path) -> None:
    none_ran = {"conv-1": (Candidate("conv-1", 0, Tiling(1, 5, 5), (), None),)}
    write_store(tmp_path, none_ran, INFO)
    assert read_store(tmp_path, none_ran) == none_ran


def test_a_store_of_nothing_is_an_error_when_a_structure_is_asked_for(tmp_path: Path) -> None:
    write_store(tmp_path, {}, INFO)
    assert find_candidates(tmp_path, ["conv-1"]) == {}
    with pytest.raises(StoreError, match=r"search\.missing: search"):
        read_store(tmp_path, ["conv-1"])


def test_the_same_candidates_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "again", FOUND, INFO)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_the_traces_do_not_tell_when_they_were_written(folder: Path) -> None:
    assert (folder / TRACES).read_bytes()[4:8] == bytes(4)  # the time in gzip's header


def test_the_trials_of_each_structure_are_written_down(folder: Path) -> None:
    entries = json.loads((folder / STORE_INFO).read_text())["structures"]
    assert [(entry["trials"], entry["ran"]) for entry in entries.values()] == [(5, 4), (3, 2)]


def test_a_structure_that_was_not_searched_is_named(folder: Path) -> None:
    with pytest.raises(StoreError, match=r"no candidates of layer structure pool-3"):
        read_store(folder, ["conv-1", "pool-3"])


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(StoreError, match=rf"{name} is missing; restore it or search"):
        read_store(folder, FOUND)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "corrupt",
    [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"not this" * 20],
    ids=["cut", "empty", "other"],
)
def test_a_corrupt_file_is_named_with_what_to_do(
    folder: Path, name: str, corrupt: Callable[[bytes], bytes]
) -> None:
    (folder / name).write_bytes(corrupt((folder / name).read_bytes()))
    with pytest.raises(StoreError, match=rf"{name} is corrupt .*restore it or search"):
        read_store(folder, FOUND)


def test_a_flipped_byte_anywhere_in_the_traces_is_found(folder: Path) -> None:
    whole = (folder / TRACES).read_bytes()
    # The header's time, flags and system (bytes 4 to 9) mean nothing to the content.
    for index in (*range(4), *range(10, len(whole))):
        changed = bytearray(whole)
        changed[index] ^= 0xFF
        (folder / TRACES).write_bytes(changed)
        with pytest.raises(StoreError):
            read_store(folder, FOUND)


def test_a_flipped_byte_in_the_table_is_found(folder: Path) -> None:
    whole = bytearray((folder / CANDIDATES).read_bytes())
    whole[len(whole) // 2] ^= 1
    (folder / CANDIDATES).write_bytes(whole)
    with pytest.raises(StoreError, match="its hash is not the one"):
        read_store(folder, FOUND)


def test_a_tampered_trace_loses_its_structure_and_no_other(folder: Path) -> None:
    tamper(folder, "conv-1")
    assert find_candidates(folder, FOUND) == {"dense-2": FOUND["dense-2"]}
    assert damaged_structures(folder) == ["conv-1"]
    with pytest.raises(StoreError, match=r"conv-1, or its traces are damaged"):
        read_store(folder, FOUND)


def test_a_whole_store_has_no_damage(folder: Path) -> None:
    assert damaged_structures(folder) == []


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of recipes: of conv-1 one that can be built, of conv-2 one with an unknown key."""
    monkeypatch.setattr(store_module, "parse", parse_doubled)
    found = {"conv-1": with_recipe("conv-1"), "conv-2": with_recipe("conv-2", later="key")}
    write_store(tmp_path / "recipes", found, INFO)
    return tmp_path / "recipes"


def test_a_recipe_is_read_back_as_it_was_written_and_chosen_like_any_other(recipes: Path) -> None:
    (*_, recipe) = found = read_store(recipes, ["conv-1"])["conv-1"]
    assert found == with_recipe("conv-1") and recipe.origin == "recipe"
    assert recipe in choose({"conv-1": found}, Selection(1.5, 5))["conv-1"]


def test_a_recipe_that_cannot_be_built_loses_its_structure_and_no_other(recipes: Path) -> None:
    names = ["conv-1", "conv-2"]
    assert list(find_candidates(recipes, names)) == ["conv-1"]
    assert outdated_structures(recipes, names) == {"conv-2": "unknown keys ['later']"}
    assert damaged_structures(recipes) == []
    with pytest.raises(StoreError, match=r"conv-2, or its traces are damaged or outdated; search it"):
        read_store(recipes, names)


def test_a_recipe_that_was_edited_is_damaged_not_outdated(recipes: Path) -> None:
    traces = json.loads(gzip.decompress((recipes / TRACES).read_bytes()))
    traces["conv-1"]["9"]["winograd"]["later"] = "key"
    (recipes / TRACES).write_bytes(gzip.compress(json.dumps(traces).encode()))
    assert damaged_structures(recipes) == ["conv-1"] and find_candidates(recipes, ["conv-1"]) == {}
    assert outdated_structures(recipes, ["conv-1"]) == {}


def test_a_table_of_other_columns_is_corrupt(folder: Path) -> None:
    other = pd.DataFrame({"layer": ["conv-1"]}).to_parquet()
    (folder / CANDIDATES).write_bytes(other)
    with pytest.raises(StoreError, match="corrupt"):
        read_store(folder, FOUND)


def test_writing_replaces_what_was_there(folder: Path) -> None:
    write_store(folder, {"pool-3": candidates("pool-3", 1)}, INFO)
    assert list(read_store(folder, ["pool-3"])) == ["pool-3"]
    with pytest.raises(StoreError):
        read_store(folder, ["conv-1"])


def test_a_copied_store_reads_the_same(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert read_store(tmp_path / "copy", FOUND) == FOUND


@pytest.mark.parametrize(
    "change",
    [
        {"cores": 0},
        {"measured_cores": 0},
        {"slack": 0.5},
        {"seconds_per_trial": 0.0},
        {"core_peak_flops": -1.0},
    ],
)
def test_a_search_that_cannot_have_been_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="search"):
        dataclasses.replace(INFO, **change)  # type: ignore[arg-type]
