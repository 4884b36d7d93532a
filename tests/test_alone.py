"""Tests of how tests share the machine: many at once, or one alone."""

from pathlib import Path
from threading import Event, Thread

import pytest

from tests.support.alone import PLACES, Turns, is_alone


class Process:
    """Stands for a process that runs tests: each begins when it may, and ends when it is told."""

    def __init__(self, folder: Path) -> None:
        self.turns = Turns(folder / "door", folder / "room")

    def begin(self, alone: bool, next_alone: bool = False) -> tuple[Thread, Event, Event]:
        began, end = Event(), Event()

        def run() -> None:
            turn = self.turns.take(alone, next_alone)
            next(turn)
            began.set()
            end.wait(60)
            turn.close()

        thread = Thread(target=run)
        thread.start()
        return thread, began, end


@pytest.fixture
def processes(tmp_path: Path) -> tuple[Process, Process, Process]:
    for name in ("door", "room"):
        (tmp_path / name).touch()
    return Process(tmp_path), Process(tmp_path), Process(tmp_path)


def finish(*tests: tuple[Thread, Event, Event]) -> None:
    for thread, began, end in tests:
        assert began.wait(60)
        end.set()
        thread.join(60)


def test_tests_that_are_not_alone_run_at_once(processes: tuple[Process, Process, Process]) -> None:
    first, second = (process.begin(alone=False) for process in processes[:2])
    assert first[1].wait(60) and second[1].wait(60)
    finish(first, second)


def test_a_test_alone_waits_for_those_inside_and_is_before_those_that_come_later(
    processes: tuple[Process, Process, Process],
) -> None:
    inside = processes[0].begin(alone=False)
    assert inside[1].wait(60)
    alone = processes[1].begin(alone=True)
    assert not alone[1].wait(0.1)
    late = processes[2].begin(alone=False)
    assert not late[1].wait(0.1)
    finish(inside)
    assert alone[1].wait(60) and not late[1].wait(0.1)
    finish(alone, late)


def test_a_test_alone_keeps_the_room_for_the_next_one(processes: tuple[Process, Process, Process]) -> None:
    finish(processes[0].begin(alone=True, next_alone=True))
    waiting = processes[1].begin(alone=False)
    assert not waiting[1].wait(0.1)
    finish(processes[0].begin(alone=True), waiting)


def test_a_file_is_alone_by_its_place() -> None:
    assert all(is_alone(place / "test_x.py") for place in PLACES if place.is_dir())
    assert not is_alone(Path(__file__))
