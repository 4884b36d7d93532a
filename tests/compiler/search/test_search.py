import json
import logging
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tvm import s_tir
from tvm.ir import IRModule
from tvm_ffi import structural_equal

from tests.support.compiler.search_fakes import (
    HEADER,
    SETTINGS,
    FakeRunner,
    Workshop,
    counts,
    quiet,
    sums_in,
    total,
)
from veltair.compiler.footprint.tiling import read_tiling
from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.frontend.importer import ImportedModel
from veltair.compiler.search.progress import Progress
from veltair.compiler.search.records import Batch, RecordFile, SearchTrial, pack, read_record
from veltair.compiler.search.runner import MeasureError
from veltair.compiler.search.search import SearchSettings, continue_records, read_candidates, replay, search
from veltair.compiler.search.target import cpu_target
from veltair.compiler.search.traces import plain


def trace_of(*steps: str) -> Any:
    """Return the trace of a schedule as JSON: it sums in 8 parts, `rfactor` apart, `parallel` at once."""
    schedule = s_tir.Schedule(IRModule({"main": total()}))
    (*_, loop) = schedule.get_loops(schedule.get_sblock("out"))
    outer, _ = schedule.split(loop, [8, None])
    if "rfactor" in steps:
        block = schedule.rfactor(outer, 0)
        if "parallel" in steps:
            schedule.parallel(schedule.get_loops(block)[1])
    return plain(schedule.trace.as_json())


def write_records(folder: Path, *records: tuple[Any, tuple[float, ...]]) -> None:
    trials = [SearchTrial(trace, times, "search", None if times else "it failed") for trace, times in records]
    RecordFile(folder, HEADER).append(Batch(tuple(trials), 1.0, "znver3"))


@pytest.fixture(scope="module")
def target() -> Any:
    return cpu_target(4, "x86-64-v3")


def test_a_trace_gives_the_same_function_each_time() -> None:
    # A schedule once rewrote the very function it was made from, so that the second replay differed.
    function = total()
    trace = trace_of("rfactor", "parallel")
    first, second = replay(function, trace)["main"], replay(function, trace)["main"]
    assert structural_equal(first, second, map_free_vars=True)


def test_replaying_leaves_the_function_as_it_was() -> None:
    function = total()
    replay(function, trace_of("rfactor"))
    assert structural_equal(function, total(), map_free_vars=True)


def test_kept_traces_replay_to_the_tiling_that_was_stored(
    tiny_imported: ImportedModel, tiny_chosen: Any
) -> None:
    for structure, function in tiny_imported.functions().items():
        for candidate in tiny_chosen[structure]:
            assert read_tiling(replay(function, candidate.trace)["main"]) == candidate.tiling


def test_candidates_are_read_in_order_with_their_raw_times(tmp_path: Path) -> None:
    plain_trace, parallel = trace_of(), trace_of("rfactor", "parallel")
    write_records(tmp_path, (plain_trace, (3e-6, 2e-6)), (parallel, (1e-6,)))
    first, second = read_candidates("sum-1", total(), tmp_path)
    assert (first.structure, first.index, first.run_seconds) == ("sum-1", 0, (3e-6, 2e-6))
    assert (first.trace, first.origin, first.measured_cores) == (plain_trace, "search", 1)
    assert (second.index, second.run_seconds, second.tiling.parallelism) == (1, (1e-6,), 8)


def test_candidates_are_read_from_a_packed_record_too(tmp_path: Path) -> None:
    write_records(tmp_path / "records", (trace_of(), (1e-6,)))
    pack(tmp_path / "records", tmp_path / "packed")
    read = [list(read_candidates("sum-1", total(), tmp_path / name)) for name in ("records", "packed")]
    assert read[0] == read[1] and len(read[0]) == 1


def test_a_candidate_that_failed_is_one_without_times(tmp_path: Path) -> None:
    write_records(tmp_path, (trace_of("rfactor", "parallel"), ()))
    (candidate,) = read_candidates("sum-1", total(), tmp_path)
    assert (candidate.run_seconds, candidate.tiling.parallelism) == ((), 8)


def test_a_candidate_whose_trace_does_not_apply_is_one_that_did_not_run(tmp_path: Path) -> None:
    strange = json.loads(json.dumps(trace_of()).replace('"out"', '"nothing of this name"'))
    write_records(tmp_path, (strange, (1e-6,)), (trace_of(), (2e-6,)))
    first, second = read_candidates("sum-1", total(), tmp_path)
    assert (first.run_seconds, first.trace, first.tiling) == ((), None, Tiling(1, 260, 260))
    assert (second.index, second.run_seconds) == (1, (2e-6,))


def test_a_structure_without_a_record_has_no_candidates(tmp_path: Path) -> None:
    assert list(read_candidates("sum-1", total(), tmp_path)) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"trials": 0}, r"search\.trials is 0; give 1 or more"),
        ({"generations": 0}, r"search\.generations is 0; give 1 or more"),
        ({"seed": 0}, r"search\.seed is 0; give 1 or more"),
        ({"repeats": 0}, r"search\.repeats is 0; give 1 or more"),
        ({"population": 2}, r"search\.population is 2, below search\.batch 3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SETTINGS, **wrong)


FUNCTIONS = {"sum-1": total(64), "sum-2": total(32), "sum-3": total(16)}


def test_a_search_writes_each_batch_of_each_structure(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workshop().install(monkeypatch)
    assert search(FUNCTIONS, target, SETTINGS, tmp_path, quiet) == {}
    assert [counts(tmp_path, structure) for structure in FUNCTIONS] == [[3, 3, 2]] * 3


def test_a_record_says_what_its_times_are_of(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workshop().install(monkeypatch)
    search({"sum-1": total()}, target, SETTINGS, tmp_path, quiet)
    record = read_record(tmp_path / "sum-1.jsonl")
    assert record is not None and record.header == HEADER
    assert all(batch.wall_s > 0 and batch.host for batch in record.batches)


def test_an_interrupted_search_goes_on_inside_a_structure_and_loses_one_batch(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Workshop().install(monkeypatch)
    shop.stop_at = 5
    with pytest.raises(KeyboardInterrupt):
        search(FUNCTIONS, target, SETTINGS, tmp_path, quiet)
    assert [counts(tmp_path, structure) for structure in FUNCTIONS] == [[3, 3, 2], [3], []]
    again = Workshop().install(monkeypatch)
    search(FUNCTIONS, target, SETTINGS, tmp_path, quiet)
    assert [counts(tmp_path, structure) for structure in FUNCTIONS] == [[3, 3, 2]] * 3
    assert [len(batch) for batch in again.measured] == [3, 2, 3, 3, 2]


def test_a_search_that_goes_on_proposes_something_else(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Workshop().install(monkeypatch)
    search({"sum-1": total()}, target, replace(SETTINGS, trials=3), tmp_path, quiet)
    search({"sum-1": total()}, target, SETTINGS, tmp_path, quiet)
    record = read_record(tmp_path / "sum-1.jsonl")
    assert shop.seeds == [1, 4] and record is not None
    assert len({json.dumps(trial.trace) for trial in record.trials}) == 8


def test_a_finished_search_touches_nothing(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workshop().install(monkeypatch)
    search(FUNCTIONS, target, SETTINGS, tmp_path, quiet)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = Workshop().install(monkeypatch)
    search(FUNCTIONS, target, SETTINGS, tmp_path, quiet)
    assert again.measured == [] and before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_a_search_moved_elsewhere_goes_on_from_its_packed_record(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workshop().install(monkeypatch)
    search(FUNCTIONS, target, replace(SETTINGS, trials=6), tmp_path / "there", quiet)
    pack(tmp_path / "there", tmp_path / "packed")
    here = tmp_path / "here"
    assert continue_records(tmp_path / "packed", here, FUNCTIONS, target, SETTINGS) == list(FUNCTIONS)
    search(FUNCTIONS, target, SETTINGS, tmp_path / "here", quiet)
    assert counts(tmp_path / "here", "sum-3") == [3, 3, 2]


def test_a_packed_record_of_another_search_is_not_continued(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workshop().install(monkeypatch)
    search(FUNCTIONS, target, replace(SETTINGS, seed=2), tmp_path / "there", quiet)
    pack(tmp_path / "there", tmp_path / "packed")
    assert continue_records(tmp_path / "packed", tmp_path / "here", FUNCTIONS, target, SETTINGS) == []
    assert not (tmp_path / "here").exists()


def test_another_seed_searches_anew_and_keeps_what_was(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workshop().install(monkeypatch)
    search({"sum-1": total()}, target, SETTINGS, tmp_path, quiet)
    search({"sum-1": total()}, target, replace(SETTINGS, seed=2), tmp_path, quiet)
    assert counts(tmp_path, "sum-1") == [3, 3, 2]
    assert (tmp_path / "sum-1.jsonl.refused-1").exists()


def test_a_tampered_record_is_searched_anew_from_there_and_no_other_is_touched(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    Workshop().install(monkeypatch)
    search(FUNCTIONS, target, SETTINGS, tmp_path, quiet)
    others = [(tmp_path / f"sum-{number}.jsonl").read_bytes() for number in (1, 3)]
    path = tmp_path / "sum-2.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[2].replace("3.0", "2.0"), *lines[3:]]))
    again = Workshop().install(monkeypatch)
    search(FUNCTIONS, target, SETTINGS, tmp_path, quiet)
    assert counts(tmp_path, "sum-2") == [3, 3, 2] and [len(one) for one in again.measured] == [3, 2]
    assert others == [(tmp_path / f"sum-{number}.jsonl").read_bytes() for number in (1, 3)]
    assert "line 3 is damaged" in caplog.text and "its first 3 trials are kept" in caplog.text


def test_a_structure_with_few_candidates_ends_early_and_is_not_searched_again(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workshop(most=4).install(monkeypatch)
    assert search({"sum-1": total()}, target, SETTINGS, tmp_path, quiet) == {}
    assert counts(tmp_path, "sum-1") == [3, 1]
    again = Workshop().install(monkeypatch)
    search({"sum-1": total()}, target, SETTINGS, tmp_path, quiet)
    assert again.measured == []


def test_a_structure_whose_search_fails_is_recorded_reported_and_leaves_the_others_alone(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Workshop().install(monkeypatch)
    shop.broken = (32,)
    failures = search(FUNCTIONS, target, SETTINGS, tmp_path, quiet)
    assert failures == {"sum-2": "RuntimeError: no design space for 32"}
    assert counts(tmp_path, "sum-3") == [3, 3, 2]
    record = read_record(tmp_path / "sum-2.jsonl")
    assert record is not None and record.ending is not None
    assert record.ending.reason == failures["sum-2"]


def test_a_failed_structure_is_tried_again(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workshop().install(monkeypatch).broken = (32,)
    search(FUNCTIONS, target, SETTINGS, tmp_path, quiet)
    Workshop().install(monkeypatch)
    assert search(FUNCTIONS, target, SETTINGS, tmp_path, quiet) == {}


def test_a_structure_of_which_nothing_ran_is_reported_with_an_error(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workshop().install(monkeypatch).fails = True
    failures = search({"sum-1": total()}, target, SETTINGS, tmp_path, quiet)
    assert failures == {"sum-1": "none of 8 candidates ran; the first: LLVM ERROR"}


def test_that_nothing_can_be_measured_at_all_stops_the_search_and_records_nothing(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(*_: object) -> Any:
        raise MeasureError("no RPC tracker answers")

    Workshop().install(monkeypatch)
    monkeypatch.setattr(FakeRunner, "measure", dead)
    with pytest.raises(MeasureError):
        search(FUNCTIONS, target, SETTINGS, tmp_path, quiet)
    assert counts(tmp_path, "sum-1") == [] and not (tmp_path / "sum-2.jsonl").exists()


def by_hand(function: Any, _: Any) -> list[Any]:
    """Return two schedules, one of them twice."""
    return [sums_in(parts, function) for parts in (16, 8, 16)]


def test_schedules_written_by_hand_are_measured_first_and_count_as_trials(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workshop().install(monkeypatch)
    search({"sum-1": total()}, target, SETTINGS, tmp_path, quiet, by_hand)
    origins = [one.origin for one in read_candidates("sum-1", total(), tmp_path)]
    assert (counts(tmp_path, "sum-1"), origins) == ([2, 3, 3], ["schedule"] * 2 + ["search"] * 6)


def test_schedules_that_were_written_later_are_measured_once(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workshop().install(monkeypatch)
    for schedules in (None, by_hand, by_hand):
        search({"sum-1": total()}, target, SETTINGS, tmp_path, quiet, schedules)
    assert counts(tmp_path, "sum-1") == [3, 3, 2, 2]


def test_schedules_that_cannot_be_made_do_not_stop_the_search(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def impossible(*_: object) -> Any:
        raise ValueError("no loop to tile")

    Workshop().install(monkeypatch)
    assert search({"sum-1": total()}, target, SETTINGS, tmp_path, quiet, impossible) == {}
    assert counts(tmp_path, "sum-1") == [3, 3, 2]
    assert "schedules written for sum-1 are left out: no loop to tile" in caplog.text


def test_progress_is_told_at_each_structure_and_each_batch(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workshop().install(monkeypatch)
    told: list[Progress] = []
    search(FUNCTIONS, target, SETTINGS, tmp_path, told.append)
    assert [(one.structure, one.number, one.done) for one in told[:5]] == [
        *[("sum-1", 1, done) for done in (0, 3, 6, 8)],
        ("sum-2", 2, 0),
    ]
    assert [one.trials_left for one in told] == [24, 21, 18, 16, 16, 13, 10, 8, 8, 5, 2, 0]
    assert [one.seconds_per_trial is None for one in told[:3]] == [True, False, False]


REAL = SearchSettings(trials=12, seed=1, population=8, generations=1, batch=4, repeats=3)


@pytest.mark.long
def test_a_real_search_keeps_its_candidates_and_a_second_one_touches_nothing(
    tmp_path: Path, tiny_imported: ImportedModel
) -> None:
    (structure,) = [name for name in tiny_imported.functions() if name.startswith("matmul")]
    functions = {structure: tiny_imported.functions()[structure]}
    assert search(functions, cpu_target(4), REAL, tmp_path, quiet) == {}
    candidates = list(read_candidates(structure, functions[structure], tmp_path))
    assert [one.index for one in candidates] == list(range(len(candidates)))
    assert any(len(one.run_seconds) == 3 for one in candidates)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert search(functions, cpu_target(4), REAL, tmp_path, quiet) == {}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.compiler.search import test_search
from veltair.compiler.search.target import cpu_target
functions = {f"sum-{n}": test_search.total(2 ** (4 + n)) for n in range(3)}
target = cpu_target(4, "x86-64-v3")
test_search.search(functions, target, test_search.REAL, Path(sys.argv[1]), lambda _: print(flush=True))
"""


def killed_after(lines: int, delay_s: float, folder: Path) -> bool:
    """Run a search, kill it with its children some time after a line of progress; return whether it lived."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(Path(__file__).parents[3])],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    for _ in range(lines):
        process.stdout.readline()
    try:
        process.wait(delay_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait() != 0


@pytest.mark.long
def test_a_search_killed_at_ten_random_moments_loses_at_most_a_batch_each_time(tmp_path: Path) -> None:
    chance = random.Random(1)
    done: list[SearchTrial] = []
    for _ in range(10):
        alive = killed_after(chance.randint(1, 2), chance.uniform(0.0, 2.0), tmp_path)
        records = [record for path in sorted(tmp_path.glob("*.jsonl")) if (record := read_record(path))]
        trials = [trial for record in records for trial in record.trials]
        assert trials[: len(done)] == done, "what was measured before the kill is kept as it was"
        assert all(record.header is not None for record in records)
        done = trials
        if not alive:
            break
    while killed_after(1000, 0.0, tmp_path):
        pass
    records = [read_record(path) for path in sorted(tmp_path.glob("*.jsonl"))]
    assert len(records) == 3
    for record in records:
        assert record is not None and record.damage is None
        assert len(record.trials) == REAL.trials or record.ending is not None
