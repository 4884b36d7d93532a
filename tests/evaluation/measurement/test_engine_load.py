import os
import time
from math import isnan
from pathlib import Path

import pytest

from tests.support.serving.sim_builders import Cost, Greedy, context
from veltair.evaluation.measurement.engine_load import NOT_MEASURED, ProcessClock, TimedDispatcher, cpu_s
from veltair.serving.loop.backend import Arrival
from veltair.serving.loop.policy import Answer, Snapshot
from veltair.serving.loop.query import Query


def write_threads(proc: Path, process_id: int, *texts: str) -> None:
    for number, text in enumerate(texts):
        folder = proc / str(process_id) / "task" / str(number)
        folder.mkdir(parents=True)
        (folder / "schedstat").write_text(text)


def test_the_time_of_processes_is_that_of_all_their_threads(tmp_path: Path) -> None:
    write_threads(tmp_path, 7, "1500000000 20 3\n", "500000000 1 1\n")
    write_threads(tmp_path, 8, "250000000 1 1\n")
    assert cpu_s([7, 8], tmp_path) == pytest.approx(2.25)


def test_a_thread_that_has_just_ended_counts_no_more(tmp_path: Path) -> None:
    write_threads(tmp_path, 7, "1000000000 1 1\n", "")
    assert cpu_s([7], tmp_path) == pytest.approx(1.0)


def test_of_a_process_that_is_gone_nothing_is_known(tmp_path: Path) -> None:
    assert isnan(cpu_s([7], tmp_path))


def test_a_process_that_works_all_the_time_keeps_at_most_so_many_cores_busy() -> None:
    clock = ProcessClock([os.getpid()])
    until_s = time.process_time() + 0.05
    while time.process_time() < until_s:
        pass
    assert 0 < clock.cores() <= len(os.sched_getaffinity(0)) * 1.1


class Sleeper(Greedy):
    """Decides as Greedy does, after a while."""

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        time.sleep(0.01)
        return super().allocate(snapshot)


def test_a_decision_is_timed_from_the_event_until_its_commands_are_known() -> None:
    served = context({"m": [[Cost(1.0)]]})
    dispatcher = TimedDispatcher(Sleeper(served), served)
    assert isnan(dispatcher.decision_s)
    for number in range(2):
        outcome = dispatcher.handle(Arrival(0.0, Query(number, "m", 0.0, 1.0)), 0.0, {})
        assert len(outcome.commands) == 1
    assert dispatcher.decisions == 2
    assert dispatcher.decision_s >= 0.01


def test_what_was_not_measured_is_no_number() -> None:
    assert isnan(NOT_MEASURED.decision_s) and isnan(NOT_MEASURED.loadgen_cores)
