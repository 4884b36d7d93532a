import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from veltair.machine.workers import priorities
from veltair.machine.workers.priorities import Promptness, run_promptly

CLASSES = {Promptness.REAL_TIME: os.SCHED_RR | os.SCHED_RESET_ON_FORK}


def on_a_thread(call: Callable[[], Any]) -> Any:
    """Return what a call returns on a thread of its own, whose priority ends with it."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_runs_in_the_class_that_is_told() -> None:
    def call() -> tuple[Promptness, int]:
        return run_promptly(), os.sched_getscheduler(0)

    how, scheduler = on_a_thread(call)
    assert scheduler == CLASSES.get(how, os.SCHED_OTHER)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_another_thread_can_be_named_by_its_id() -> None:
    begun, over = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        over.wait(10.0)

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait(10.0)
    how = run_promptly(thread.native_id or 0)
    scheduler = os.sched_getscheduler(thread.native_id or 0)
    over.set()
    thread.join()
    assert scheduler == CLASSES.get(how, os.SCHED_OTHER)


def test_threads_that_it_starts_run_like_any_program() -> None:
    def call() -> int:
        run_promptly()
        return int(on_a_thread(lambda: os.sched_getscheduler(0)))

    assert on_a_thread(call) == os.SCHED_OTHER


def test_without_the_right_a_short_slice_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(priorities.os, "sched_setscheduler", refuse)
    assert on_a_thread(run_promptly) in (Promptness.SHORT_SLICE, Promptness.NORMAL)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_thread_that_is_gone_is_like_any_program() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert run_promptly(2**22 + 1) is Promptness.NORMAL
