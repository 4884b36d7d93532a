import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from veltair.compiler.select import Selection, select
from veltair.compiler.store import CANDIDATES, TRACES, StoreError, choose, read_store, write_store
from veltair.compiler.tiling import Tiling
from veltair.compiler.version import Candidate


def candidates(structure: str, count: int) -> tuple[Candidate, ...]:
    """Return a front of candidates that all took about as long, and one that did not run."""
    front = [
        Candidate(
            structure, n, Tiling(2**n, 10 ** (count - n), 10**9), (1.0 + n / 100, 1.1, 0.9), ["trace", n]
        )
        for n in range(count)
    ]
    return (*front, Candidate(structure, count, Tiling(1, 5, 5), (), None))


FOUND = {"conv-1": candidates("conv-1", 4), "dense-2": candidates("dense-2", 2)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_store(tmp_path / "store", FOUND, slack=1.5)
    return tmp_path / "store"


def test_what_is_written_is_read_back(folder: Path) -> None:
    assert read_store(folder, FOUND) == FOUND


def test_numbers_are_read_back_as_plain_numbers(folder: Path) -> None:
    one = read_store(folder, ["conv-1"])["conv-1"][0]
    numbers = (one.index, *dataclasses.astuple(one.tiling))
    assert [type(number) for number in numbers] == [int] * 4


def test_only_the_structures_asked_for_are_read(folder: Path) -> None:
    assert list(read_store(folder, ["dense-2"])) == ["dense-2"]


def test_traces_that_no_selection_needs_are_not_kept(tmp_path: Path) -> None:
    # 3 times slower than the best: outside the slack of 1.5.
    slow = Candidate("conv-1", 9, Tiling(1024, 10**9, 10**9), (3.0,), ["trace", 9])
    write_store(tmp_path, {"conv-1": (*FOUND["conv-1"], slow)}, slack=1.5)
    (*_, found) = read_store(tmp_path, ["conv-1"])["conv-1"]
    assert found == dataclasses.replace(slow, trace=None)


@pytest.mark.parametrize("count", range(1, 9))
def test_every_selection_of_up_to_8_versions_can_be_chosen_from_a_store(tmp_path: Path, count: int) -> None:
    found = {"conv-1": candidates("conv-1", 12)}
    write_store(tmp_path, found, slack=1.5)
    selection = Selection(1.5, count)
    assert choose(read_store(tmp_path, found), selection) == {"conv-1": select(found["conv-1"], selection)}


def test_choosing_a_version_whose_trace_was_not_kept_is_an_error(tmp_path: Path) -> None:
    # A search at slack 1 keeps the trace of the fastest only.
    write_store(tmp_path, FOUND, slack=1.0)
    with pytest.raises(
        StoreError, match=r"trace of candidate \d of conv-1 was not kept.*`search.reuse: false`"
    ):
        choose(read_store(tmp_path, FOUND), Selection(1.5, 5))


def test_a_structure_of_which_nothing_ran_is_stored(tmp_path: Path) -> None:
    none_ran = {"conv-1": (Candidate("conv-1", 0, Tiling(1, 5, 5), (), None),)}
    write_store(tmp_path, none_ran, slack=1.5)
    assert read_store(tmp_path, none_ran) == none_ran


def test_a_store_of_nothing_is_an_error_when_a_structure_is_asked_for(tmp_path: Path) -> None:
    write_store(tmp_path, {}, slack=1.5)
    with pytest.raises(StoreError, match=r"search\.reuse: false"):
        read_store(tmp_path, ["conv-1"])


def test_the_same_candidates_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "again", FOUND, slack=1.5)
    for name in (CANDIDATES, TRACES):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_the_traces_do_not_tell_when_they_were_written(folder: Path) -> None:
    assert (folder / TRACES).read_bytes()[4:8] == bytes(4)  # the time in gzip's header


def test_a_structure_that_was_not_searched_is_named(folder: Path) -> None:
    with pytest.raises(StoreError, match=r"no candidates of layer structure pool-3.*`search\.reuse: false`"):
        read_store(folder, ["conv-1", "pool-3"])


@pytest.mark.parametrize("name", [CANDIDATES, TRACES])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(StoreError, match=rf"{name} is missing; search"):
        read_store(folder, FOUND)


@pytest.mark.parametrize("name", [CANDIDATES, TRACES])
@pytest.mark.parametrize(
    "corrupt",
    [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"not this" * 20],
    ids=["cut", "empty", "other"],
)
def test_a_corrupt_file_is_an_error_that_says_what_to_do(
    folder: Path, name: str, corrupt: Callable[[bytes], bytes]
) -> None:
    (folder / name).write_bytes(corrupt((folder / name).read_bytes()))
    with pytest.raises(StoreError, match=r"store is corrupt .*restore it or search"):
        read_store(folder, FOUND)


def test_a_flipped_byte_anywhere_in_the_traces_is_found(folder: Path) -> None:
    whole = (folder / TRACES).read_bytes()
    # The header's time, flags and system (bytes 4 to 9) mean nothing to the content.
    for place in (*range(4), *range(10, len(whole))):
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        (folder / TRACES).write_bytes(changed)
        with pytest.raises(StoreError):
            read_store(folder, FOUND)


def test_a_table_without_the_columns_is_corrupt(folder: Path) -> None:
    pd.DataFrame({"layer": ["conv-1"]}).to_parquet(folder / CANDIDATES)
    with pytest.raises(StoreError, match="corrupt"):
        read_store(folder, FOUND)


def test_writing_replaces_what_was_there(folder: Path) -> None:
    write_store(folder, {"pool-3": candidates("pool-3", 1)}, slack=1.5)
    assert list(read_store(folder, ["pool-3"])) == ["pool-3"]
    with pytest.raises(StoreError):
        read_store(folder, ["conv-1"])


def test_a_copied_store_reads_the_same(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert read_store(tmp_path / "copy", FOUND) == FOUND
