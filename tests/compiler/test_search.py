import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tvm import s_tir, te
from tvm.ir import IRModule
from tvm_ffi import structural_equal

from veltair.compiler import search as search_module
from veltair.compiler.importer import ImportedModel
from veltair.compiler.search import (
    RECORDS,
    SearchSettings,
    read_candidates,
    replay,
    search,
)
from veltair.compiler.target import cpu_target
from veltair.compiler.tiling import Tiling, read_tiling


def total(size: int = 64) -> Any:
    """Return O[0] = sum of x."""
    x = te.placeholder((size,), name="x")
    k = te.reduce_axis((0, size), name="k")
    return te.create_prim_func([x, te.compute((1,), lambda i: te.sum(x[k], axis=k), name="out")])


def trace_of(*steps: str) -> Any:
    """Return the trace of a schedule as JSON: it sums in 8 parts, `rfactor` apart, `parallel` at once."""
    schedule = s_tir.Schedule(IRModule({"main": total()}))
    (*_, loop) = schedule.get_loops(schedule.get_sblock("out"))
    outer, _ = schedule.split(loop, [8, None])
    if "rfactor" in steps:
        block = schedule.rfactor(outer, 0)
        if "parallel" in steps:
            schedule.parallel(schedule.get_loops(block)[1])
    return json.loads(json.dumps(_plain(schedule.trace.as_json())))


def _plain(value: Any) -> Any:
    """Return TVM's containers as plain lists, as they are read from a record."""
    if isinstance(value, str):
        return str(value)
    if hasattr(value, "__iter__"):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, float) else int(value)


def write_records(place: Path, *records: tuple[Any, list[float] | None]) -> None:
    lines = [json.dumps([0, [trace, seconds, {}, []]]) for trace, seconds in records]
    (place / RECORDS).write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def target() -> Any:
    return cpu_target(4)


def test_a_trace_gives_the_same_function_each_time() -> None:
    # A schedule once rewrote the very function it was made from, so that the second replay differed.
    function = total()
    trace = trace_of("rfactor", "parallel")
    first, second = replay(function, trace)["main"], replay(function, trace)["main"]
    assert structural_equal(first, second, map_free_vars=True)


def test_replaying_leaves_the_function_as_it_was() -> None:
    function = total()
    trace = trace_of("rfactor")
    replay(function, trace)
    assert structural_equal(function, total(), map_free_vars=True)


def test_kept_traces_replay_to_the_tiling_that_was_stored(
    tiny_imported: ImportedModel, tiny_chosen: Any
) -> None:
    for structure, function in tiny_imported.functions().items():
        for candidate in tiny_chosen[structure]:
            assert read_tiling(replay(function, candidate.trace)["main"]) == candidate.tiling


def test_candidates_are_read_in_order_with_their_raw_times(tmp_path: Path, target: Any) -> None:
    function = total()
    plain, parallel = trace_of(), trace_of("rfactor", "parallel")
    write_records(tmp_path, (plain, [3e-6, 2e-6]), (parallel, [1e-6]))
    first, second = read_candidates("sum-1", function, tmp_path)
    assert (first.structure, first.index, first.run_seconds, first.trace) == ("sum-1", 0, (3e-6, 2e-6), plain)
    assert (second.index, second.run_seconds, second.tiling.parallelism) == (1, (1e-6,), 8)


@pytest.mark.parametrize("seconds", [[1e10], [1e10, 1e10], [], None])
def test_a_candidate_that_failed_is_one_without_times(
    tmp_path: Path, target: Any, seconds: list[float] | None
) -> None:
    function = total()
    write_records(tmp_path, (trace_of("rfactor", "parallel"), seconds))
    (candidate,) = read_candidates("sum-1", function, tmp_path)
    assert (candidate.run_seconds, candidate.tiling.parallelism) == ((), 8)


def test_a_candidate_whose_trace_does_not_apply_is_one_that_did_not_run(tmp_path: Path, target: Any) -> None:
    function = total()
    strange = json.loads(json.dumps(trace_of()).replace('"out"', '"nothing of this name"'))
    write_records(tmp_path, (strange, [1e-6]), (trace_of(), [2e-6]))
    first, second = read_candidates("sum-1", function, tmp_path)
    assert (first.run_seconds, first.trace, first.tiling) == ((), None, Tiling(1, 260, 260))
    assert (second.index, second.run_seconds) == (1, (2e-6,))


def test_a_structure_without_records_has_no_candidates(tmp_path: Path, target: Any) -> None:
    assert list(read_candidates("sum-1", total(), tmp_path)) == []


def test_no_trials_are_refused() -> None:
    with pytest.raises(ValueError, match=r"search\.trials is 0; give 1 or more"):
        SearchSettings(trials=0, seed=1)


class Searcher:
    """Stands for the search of one structure: writes a record, or is interrupted at the second."""

    def __init__(self, interrupt_at: int | None = None, seconds: float = 1e-6) -> None:
        self.places: list[str] = []
        self._interrupt_at = interrupt_at
        self._seconds = seconds

    def __call__(self, function: Any, target: Any, settings: SearchSettings, place: Path) -> None:
        assert list(place.iterdir()) == []
        self.places.append(place.name)
        write_records(place, (trace_of(), [self._seconds]))
        if len(self.places) == self._interrupt_at:
            raise KeyboardInterrupt


FUNCTIONS = {"sum-1": total(64), "sum-2": total(32), "sum-3": total(16)}
SETTINGS = SearchSettings(trials=4, seed=1)


def quiet(structure: str, number: int, count: int) -> None:
    pass


def test_an_interrupted_search_goes_on_where_it_was(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "_search_structure", first := Searcher(interrupt_at=2))
    with pytest.raises(KeyboardInterrupt):
        search(FUNCTIONS, target, SETTINGS, tmp_path, quiet)
    monkeypatch.setattr(search_module, "_search_structure", second := Searcher())
    assert search(FUNCTIONS, target, SETTINGS, tmp_path, quiet) == []
    assert (first.places, second.places) == (["sum-1", "sum-2"], ["sum-2", "sum-3"])


def test_other_settings_search_a_finished_structure_anew(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "_search_structure", Searcher())
    search(FUNCTIONS, target, SETTINGS, tmp_path, quiet)
    monkeypatch.setattr(search_module, "_search_structure", again := Searcher())
    search(FUNCTIONS, target, replace(SETTINGS, trials=8), tmp_path, quiet)
    assert again.places == list(FUNCTIONS)


def test_structures_of_which_nothing_ran_are_returned(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "_search_structure", Searcher(seconds=1e10))
    assert search(FUNCTIONS, target, SETTINGS, tmp_path, quiet) == list(FUNCTIONS)


def test_progress_is_told_of_every_structure(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "_search_structure", Searcher())
    told: list[tuple[str, int, int]] = []
    search(FUNCTIONS, target, SETTINGS, tmp_path, lambda *words: told.append(words))
    assert told == [("sum-1", 1, 3), ("sum-2", 2, 3), ("sum-3", 3, 3)]


@pytest.mark.long
def test_a_real_search_keeps_its_candidates_and_a_second_one_touches_nothing(
    tmp_path: Path, tiny_imported: ImportedModel, target: Any
) -> None:
    (structure,) = [name for name in tiny_imported.functions() if name.startswith("matmul")]
    functions = {structure: tiny_imported.functions()[structure]}
    settings = SearchSettings(trials=4, seed=1, population=8, generations=1, repeats=2)
    assert search(functions, target, settings, tmp_path, quiet) == []
    candidates = list(read_candidates(structure, functions[structure], tmp_path / structure))
    assert [one.index for one in candidates] == list(range(len(candidates)))
    assert any(len(one.run_seconds) == 2 for one in candidates)

    def written() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    before = written()
    assert search(functions, target, settings, tmp_path, quiet) == []
    assert written() == before
