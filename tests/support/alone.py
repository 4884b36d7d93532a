"""Tests on several processes, of which some run alone: nothing is tested beside them."""

import fcntl
import os
from collections.abc import Generator
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

TESTS = Path(__file__).parents[1]

# Folders and files of tests that tests beside them would disturb, or that would disturb those: by the reason.
ALONE = {
    "their workers spin on every core that they hold": (
        "evaluation/benchmarks/test_arena.py",
        "evaluation/benchmarks/test_engine.py",
        "evaluation/benchmarks/test_native_engine.py",
        "evaluation/benchmarks/test_service_benchmark.py",
        "evaluation/measurement/test_loading_engine.py",
        "evaluation/validation/test_co_runs.py",
        "machine/workers/test_native_pool.py",
        "machine/workers/test_pool.py",
        "serving/engine/test_engine.py",
        "serving/engine/test_engine_bits.py",
        "serving/engine/test_native_engine.py",
        "serving/engine/test_native_engine_called_back.py",
        "serving/engine/test_open_engine.py",
        "service/engine/test_engine_client.py",
        "service/test_service_processes.py",
    ),
    "LoadGen issues queries in real time": (
        "evaluation/benchmarks/test_neighbour.py",
        "evaluation/loadgen/test_client.py",
        "evaluation/loadgen/test_own_client.py",
        "evaluation/measurement/test_run.py",
        "evaluation/measurement/test_steps.py",
        "evaluation/runtimes/test_remote_study.py",
        "evaluation/runtimes/test_served.py",
        "test_add_a_model.py",
    ),
    "they measure this machine": (
        "evaluation/measurement/test_block_costs.py",
        "evaluation/measurement/test_resize_costs.py",
        "evaluation/runtimes/test_timed_process.py",
        "machine/probes/test_fork_probe.py",
        "machine/probes/test_oversubscription.py",
        "machine/probes/test_probe.py",
        "machine/profile",
    ),
    "they take cores away from threads": (
        "machine/topology/test_cpu_limits.py",
        "serving/engine/test_native_faults.py",
        "serving/engine/test_watchdog.py",
    ),
}
PLACES = tuple(TESTS / place for group in ALONE.values() for place in group)


def is_alone(path: Path) -> bool:
    """Return whether the tests of a file run alone."""
    return any(path.is_relative_to(place) for place in PLACES)


class AloneTogether(LoadScopeScheduling):
    """Gives each process whole files of tests, and one of them all files whose tests run alone."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "alone" if is_alone(self.config.rootpath / file) else file


class Turns:
    """The turns of the processes of one machine: any number of tests at once, or one that is alone.

    Whoever wants to be alone closes the door while those inside finish, so that nobody waits for ever. Door
    and room are locks of files; those that are there anyway leave nothing behind, whatever ends a process.
    """

    def __init__(self, door: Path = TESTS / "conftest.py", room: Path = Path(__file__)) -> None:
        self._door, self._room = (os.open(path, os.O_RDONLY) for path in (door, room))
        self._inside_alone = False

    def take(self, alone: bool, next_alone: bool) -> Generator[None, object, object]:
        """Run a test in its turn; one alone keeps the room for the next one that is, too."""
        if not self._inside_alone:
            fcntl.flock(self._door, fcntl.LOCK_EX)
            fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            fcntl.flock(self._door, fcntl.LOCK_UN)
        try:
            return (yield)
        finally:
            self._inside_alone = alone and next_alone
            if not self._inside_alone:
                fcntl.flock(self._room, fcntl.LOCK_UN)


def check_places() -> None:
    """Raise UsageError if a place of ALONE is not there."""
    if missing := [str(place) for place in PLACES if not place.exists()]:
        raise pytest.UsageError(f"ALONE in {__file__} names what is not there: {', '.join(missing)}")
