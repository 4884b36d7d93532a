import ast
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.evaluation.loadgen_fakes import FakeEngine, is_gone, script_loadgen, server_run
from veltair.evaluation.loadgen.client import Limits, LoadGenProcess
from veltair.evaluation.loadgen.client_runs import ServerRun
from veltair.evaluation.loadgen.logs import DETAIL_FILE, TRACE_FILE, LoadGenError, read_query_log
from veltair.serving.loop.query import QueryRecord

ROOT = Path(__file__).parents[3]
# What a run in real time goes through.
TIMED = [
    path.relative_to(ROOT / "veltair").as_posix()
    for place in (
        "evaluation/loadgen/*.py",
        "evaluation/measurement/run.py",
        "machine/models/model_memory.py",
        "machine/workers/*.py",
        "serving/engine/*.py",
    )
    for path in sorted((ROOT / "veltair").glob(place))
    if path.name != "__init__.py"
]

# Gives LoadGen's process another system clock: set by some seconds once a file is there.
CLOCK = """
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int set;
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (clock != CLOCK_REALTIME) return failed;
    if (!set) set = access(getenv("CLOCK_FILE"), F_OK) == 0;
    if (set) now->tv_sec += atol(getenv("CLOCK_SECONDS"));
    return failed;
}
"""


def failure_of(run: ServerRun, answer_s: float = 0.002, **changes: float) -> tuple[LoadGenError, FakeEngine]:
    """Return the error of a run that fails, with limits so short that it is told soon."""
    engine = FakeEngine(answer_s=answer_s)
    limits = replace(Limits(stall_s=60.0, tick_s=0.2, send_s=0.2, exit_s=0.2), **changes)
    with pytest.raises(LoadGenError) as caught, LoadGenProcess(run, limits) as loadgen:
        engine.start(loadgen)
        _, event = engine.serve(loadgen)
        if isinstance(event, LoadGenError):
            raise event
        loadgen.wait(60)
    assert is_gone(loadgen.pids[0])
    return caught.value, engine


def test_a_loadgen_that_is_never_ready_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_loadgen(tmp_path, monkeypatch, "print('loading', flush=True); time.sleep(600)")
    error, engine = failure_of(server_run(tmp_path / "out"), start_s=0.2)
    assert "was not ready after 0.2 s; stop other programs" in str(error)
    assert not engine.readied.is_set()


def test_a_loadgen_whose_program_cannot_be_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with (
        pytest.raises(LoadGenError, match=r"process cannot be started: .*No such file"),
        LoadGenProcess(server_run(tmp_path)) as loadgen,
    ):
        FakeEngine().start(loadgen)


def test_a_folder_of_logs_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with (
        pytest.raises(LoadGenError, match=r"logs cannot be written into .*out: File exists; give another"),
        LoadGenProcess(server_run(tmp_path / "out")) as loadgen,
    ):
        FakeEngine().start(loadgen)


def test_a_package_of_our_name_in_the_working_directory_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_loadgen(tmp_path, monkeypatch, "load(); time.sleep(600)")
    (tmp_path / "elsewhere" / "veltair").mkdir(parents=True)
    (tmp_path / "elsewhere" / "veltair" / "__init__.py").write_text("raise SystemExit(5)")
    monkeypatch.chdir(tmp_path / "elsewhere")
    engine = FakeEngine()
    with LoadGenProcess(server_run(tmp_path / "out")) as loadgen:
        engine.start(loadgen)
    assert engine.readied.is_set()


@pytest.mark.parametrize(
    ("steps", "what"),
    [
        ("load(); issue(1); time.sleep(600)", "query [01] of 2"),
        ("load(); issue(2); time.sleep(600)", "(the end after|query [01] of) 2"),
    ],
)
def test_a_loadgen_that_hangs_in_the_middle_is_stopped_though_the_engine_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: str, what: str
) -> None:
    script_loadgen(tmp_path, monkeypatch, steps)
    run = server_run(tmp_path / "out", min_duration_ms=0, min_query_count=2)
    error, engine = failure_of(run, stall_s=0.2)
    assert re.match(f"LoadGen hangs: {what} is .* s overdue", str(error))
    assert engine.failures() == []


def test_a_loadgen_that_takes_no_completions_does_not_hold_the_engine_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = "load(); issue(10000); flush(); time.sleep(600)"
    script_loadgen(tmp_path, monkeypatch, steps, on_complete="time.sleep(600)")
    error, engine = failure_of(server_run(tmp_path / "out"), answer_s=0.0)
    assert "LoadGen hangs: it took no completion for 0.2 s" in str(error)
    assert engine.failures() == []


@pytest.mark.parametrize(
    ("steps", "on_destroy", "message"),
    [
        # The socket is closed before the run, after a query without a word, and after all queries.
        ("import socket; socket.socket(fileno=int(sys.argv[1])).shutdown(2); time.sleep(600)", "pass",
         "closed its socket after 0 arrivals"),
        ("load(); issue(1); done.wait()", "time.sleep(600)", "closed its socket after 1 arrivals"),
        ("load(); issue(1); flush(); done.wait()", "time.sleep(600)", "closed its socket after 1 arrivals"),
        ("load(); issue(1); done.wait()", "pass", "exited with status 0 after 1 arrivals, before the"),
        ("load(); issue(1); raise SystemExit(3)", "pass", "exited with status 3 after 1 arrivals"),
        ("load(); issue(1); flush(); done.wait()", "pass", f"{TRACE_FILE} cannot be read"),
    ],
)  # fmt: skip
def test_a_loadgen_that_leaves_early_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: str, on_destroy: str, message: str
) -> None:
    script_loadgen(tmp_path, monkeypatch, steps, on_destroy=on_destroy)
    error, engine = failure_of(server_run(tmp_path / "out", qps=1.0))
    assert message in str(error)
    assert {str(failure) for failure in engine.failures()} <= {str(error)}


def test_logs_of_an_earlier_run_are_never_those_of_one_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in (TRACE_FILE, DETAIL_FILE, "mlperf_log_summary.txt"):
        (out / name).write_text("earlier")
    script_loadgen(tmp_path, monkeypatch, "load(); issue(1)")
    failure_of(server_run(out))
    assert [path.name for path in out.iterdir()] == ["loadgen_output.txt"]


def test_our_end_of_the_socket_closed_ends_loadgen_with_one_error(tmp_path: Path) -> None:
    engine = FakeEngine()
    with LoadGenProcess(server_run(tmp_path, min_duration_ms=60_000)) as loadgen:
        engine.start(loadgen)
        engine.events.get(timeout=60)
        loadgen._socket.shutdown(2)
        error = engine.last_event()
        assert "exited with status 1" in str(error)
        assert "the parent left during the run" in str(error)
        with pytest.raises(LoadGenError, match="exited with status 1"):
            loadgen.wait(60)
    assert is_gone(loadgen.pids[0])
    assert engine.failures() == []


def test_a_loadgen_killed_in_the_middle_leaves_no_log_that_passes_as_whole(tmp_path: Path) -> None:
    engine = FakeEngine()
    with LoadGenProcess(server_run(tmp_path, min_duration_ms=60_000)) as loadgen:
        engine.start(loadgen)
        engine.events.get(timeout=60)
        os.kill(loadgen.pids[0], signal.SIGKILL)
        assert isinstance(engine.last_event(), LoadGenError)
    with pytest.raises(LoadGenError, match=r"cut off after|cannot be read"):
        read_query_log(tmp_path / TRACE_FILE)
    assert engine.failures() == []


@pytest.mark.parametrize("seconds", [-1, 1])
def test_a_system_clock_that_is_set_during_a_run_fails_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    # LoadGen itself reads that clock: the real one is run.
    (tmp_path / "clock.c").write_text(CLOCK)
    library = tmp_path / "clock.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "clock.c"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("CLOCK_FILE", str(tmp_path / "set"))
    monkeypatch.setenv("CLOCK_SECONDS", str(seconds))

    class SetsTheClock(FakeEngine):
        def answer(self, loadgen: Any, number: int, sample: int, received_s: float) -> QueryRecord:
            if number == 10:
                (tmp_path / "set").touch()
            return super().answer(loadgen, number, sample, received_s)

    engine = SetsTheClock()
    run = server_run(tmp_path / "out", min_duration_ms=200, min_query_count=20)
    with LoadGenProcess(run) as loadgen:
        engine.start(loadgen)
        assert engine.serve(loadgen)[1] == "flush"
        with pytest.raises(
            LoadGenError, match=rf"system's clock, .*, was set .*: the .* set by {seconds} s$"
        ):
            loadgen.wait(60)
    assert is_gone(loadgen.pids[0])


def clocks_of(source: str) -> set[str]:
    """Return what a program uses of time and datetime."""
    nodes = list(ast.walk(ast.parse(source)))
    used = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("time", "datetime")
    }
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
            used |= {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names if alias.name == "datetime"}
    return used


MONOTONIC = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"}
# LoadGen's process compares the system's clock with the monotonic one, to see whether it was set.
COMPARED = {"evaluation/loadgen/child.py": {"clock_gettime_ns", "CLOCK_REALTIME"}}


@pytest.mark.parametrize("name", TIMED)
def test_a_run_in_real_time_reads_monotonic_clocks_only(name: str) -> None:
    source = (ROOT / "veltair" / name).read_text()
    assert clocks_of(source) <= MONOTONIC | COMPARED.get(name, set())


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.time()",
        "import time\ntime.time_ns()",
        "from time import time",
        "from datetime import datetime",
        "import datetime",
        "import time\ntime.clock_gettime(0)",
    ],
)
def test_a_use_of_the_systems_clock_is_found(source: str) -> None:
    assert not clocks_of(source) <= MONOTONIC
