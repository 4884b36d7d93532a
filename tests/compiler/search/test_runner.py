import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import te
from tvm.rpc.base import RPC_TRACKER_MAGIC

from veltair.compiler.search.evolution import module_of
from veltair.compiler.search.runner import (
    BUDGET_S,
    LEAST_REPEATS,
    MeasureError,
    MeasureSettings,
    RpcSettings,
    Runner,
    check_tracker,
    raw_times,
    repeats_left,
)
from veltair.compiler.search.target import cpu_target

UNKNOWN_S = float("inf")


def double(size: int = 64) -> Any:
    """Return O = x + x as a module, and its arguments."""
    x = te.placeholder((size,), name="x")
    function = te.create_prim_func([x, te.compute((size,), lambda i: x[i] + x[i], name="out")])
    return module_of(function), [("float32", (size,)), ("float32", (size,))]


def lookup() -> Any:
    """Return O[i] = x[index[i]] as a module, and its arguments."""
    x, index = te.placeholder((4,), name="x"), te.placeholder((8,), dtype="int64", name="index")
    function = te.create_prim_func([x, index, te.compute((8,), lambda i: x[index[i]], name="out")])
    return module_of(function), [("float32", (4,)), ("int64", (8,)), ("float32", (8,))]


@pytest.mark.parametrize(
    ("first_s", "call_s", "best_s", "left"),
    [
        (1e-5, 1e-3, UNKNOWN_S, 9),
        (0.03, 0.06, UNKNOWN_S, 9),
        # 0.38 s are left for runs of 0.06 s, the first of them a warm-up.
        (0.06, 0.12, UNKNOWN_S, 5),
        (0.1, 0.2, UNKNOWN_S, LEAST_REPEATS - 1),
        (2.0, 4.0, UNKNOWN_S, LEAST_REPEATS - 1),
        # More than 4 times slower than the best: hopeless, unless another process may have disturbed it.
        (0.03, 0.06, 0.007, 0),
        (0.03, 0.06, 0.008, 9),
        (0.004, 0.008, 1e-5, 9),
    ],
)
def test_heavy_and_hopeless_candidates_are_timed_less_often(
    first_s: float, call_s: float, best_s: float, left: int
) -> None:
    assert repeats_left(first_s, call_s, best_s, repeats=10) == left


@given(st.floats(1e-7, 5.0), st.integers(1, 20))
def test_measuring_keeps_to_its_budget_unless_that_is_too_short_for_the_least(
    run_s: float, repeats: int
) -> None:
    left = repeats_left(run_s, 2 * run_s, UNKNOWN_S, repeats)
    assert left == min(repeats, LEAST_REPEATS) - 1 or (left + 3) * run_s <= BUDGET_S + 1e-9
    assert 0 <= left <= repeats - 1


def test_every_raw_time_is_kept() -> None:
    calls: list[int] = []

    def evaluate(count: int) -> Sequence[float]:
        calls.append(count)
        return [len(calls) * 1e-6] * count

    seconds = raw_times(evaluate, UNKNOWN_S, 10, iter([0.0, 0.001]).__next__)
    assert (calls, seconds) == ([1, 9], [1e-6] + [2e-6] * 9)


def test_a_hopeless_candidate_is_timed_once() -> None:
    seconds = raw_times(lambda count: [1.0] * count, 0.1, 10, iter([0.0, 2.0]).__next__)
    assert seconds == [1.0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MeasureSettings(repeats=0), r"search\.repeats is 0; give 1 or more"),
        (lambda: MeasureSettings(run_timeout_s=0), r"0 s \(run\); give more than 0"),
        (lambda: RpcSettings("", 9190, "cpu"), r"search\.rpc: host '', key 'cpu'; give both"),
        (lambda: RpcSettings("localhost", 0, "cpu"), r"search\.rpc\.port is 0; give 1 to 65535"),
        (lambda: RpcSettings("localhost", 9190, "cpu", 0), r"search\.rpc\.sessions is 0; give 1 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner(cpu_target(1), MeasureSettings(repeats=3)) as runner:
        yield runner


def test_a_candidate_gets_its_raw_times(runner: Runner) -> None:
    (measured,) = runner.measure([double()], UNKNOWN_S)
    assert measured.error is None
    assert len(measured.run_seconds) == 3 and min(measured.run_seconds) > 0


def test_candidates_that_fail_leave_the_others_their_times(runner: Runner) -> None:
    module, arguments = double()
    unbuildable = (None, arguments)
    misused = (module, arguments[:1])
    first, second, third = runner.measure([unbuildable, misused, (module, arguments)], UNKNOWN_S)
    assert [len(one.run_seconds) for one in (first, second, third)] == [0, 0, 3]
    assert first.error and second.error and third.error is None


def test_an_integer_argument_is_a_valid_index(runner: Runner) -> None:
    (measured,) = runner.measure([lookup()], UNKNOWN_S)
    assert measured.error is None


@contextmanager
def listening(*answers: bytes) -> Iterator[RpcSettings]:
    """Give the place of a server that sends these answers to what it hears, one at a time."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                for answer in answers:
                    connection.recv(1024)
                    connection.sendall(answer)
                with suppress(ConnectionResetError):
                    connection.recv(1024)

        threading.Thread(target=serve, daemon=True).start()
        yield RpcSettings("127.0.0.1", server.getsockname()[1], "cpu")


def summary(*keys: str) -> list[bytes]:
    """Return what a tracker with servers of these keys answers."""
    text = json.dumps([0, {"server_info": [{"key": f"server:{key}"} for key in keys]}]).encode()
    return [struct.pack("<i", RPC_TRACKER_MAGIC), struct.pack("<i", len(text)) + text]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_dead_tracker_is_an_error_at_once_that_says_what_to_do() -> None:
    port = free_port()
    with pytest.raises(MeasureError, match=f"no RPC tracker answers at 127.0.0.1:{port} .*start one"):
        Runner(cpu_target(1), MeasureSettings(), RpcSettings("127.0.0.1", port, "cpu"))


def test_a_tracker_that_is_silent_is_not_waited_for() -> None:
    with listening() as rpc, pytest.raises(MeasureError, match="no RPC tracker answers"):
        check_tracker(rpc, timeout_s=0.1)


def test_another_server_is_no_tracker() -> None:
    with (
        listening(b"HTTP/1.1 400 Bad Request") as rpc,
        pytest.raises(MeasureError, match="is no RPC tracker"),
    ):
        check_tracker(rpc)


def test_a_key_without_a_server_is_named_with_those_that_have_one() -> None:
    with (
        listening(*summary("gpu", "arm", "arm")) as rpc,
        pytest.raises(MeasureError, match=r"no server of key 'cpu' \(its keys: \['arm', 'gpu'\]\)"),
    ):
        check_tracker(rpc)


def test_a_tracker_with_a_server_of_the_key_is_accepted() -> None:
    with listening(*summary("cpu")) as rpc:
        check_tracker(rpc)


@contextmanager
def running(module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of TVM's programs with the processes that it starts, as a user would."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"tvm.exec.{module}", *arguments],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ports(port: int) -> list[str]:
    """Return the options for this port and no other."""
    return ["--port", str(port), "--port-end", str(port + 1)]


@contextmanager
def tracked(key: str) -> Iterator[tuple[RpcSettings, subprocess.Popen[bytes]]]:
    """Give a real tracker on this machine, with one real server."""
    rpc = RpcSettings("127.0.0.1", free_port(), key)
    here = ["--host", rpc.host]
    server = [*here, *ports(free_port()), "--tracker", f"{rpc.host}:{rpc.port}", "--key", key]
    with running("rpc_tracker", *here, *ports(rpc.port)) as tracker, running("rpc_server", *server):
        _wait_for(rpc)
        yield rpc, tracker


def _wait_for(rpc: RpcSettings) -> None:
    for _ in range(1200):  # two processes import TVM, which takes long where much else runs
        try:
            return check_tracker(rpc)
        except MeasureError:
            time.sleep(0.1)
    raise AssertionError("the server did not come up")


@pytest.mark.long
def test_candidates_are_measured_on_a_server_of_a_tracker() -> None:
    module, arguments = double()
    with (
        tracked("cpu") as (rpc, _),
        Runner(cpu_target(1), MeasureSettings(repeats=3), rpc) as runner,
    ):
        first, second, third = runner.measure(
            [(module, arguments), (module, arguments[:1]), lookup()], UNKNOWN_S
        )
    assert (len(first.run_seconds), second.run_seconds, len(third.run_seconds)) == (3, (), 3), (first, third)


@pytest.mark.long
def test_a_tracker_that_dies_stops_the_search_instead_of_failing_its_candidates() -> None:
    with tracked("cpu") as (rpc, tracker), Runner(cpu_target(1), MeasureSettings(), rpc) as runner:
        kill(tracker)
        with pytest.raises(MeasureError, match="no RPC tracker answers"):
            runner.measure([double()], UNKNOWN_S)


def test_a_temporary_folder_from_which_nothing_can_run_ends_the_search_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)
    noexec = os.statvfs_result((*real[:8], real.f_flag | os.ST_NOEXEC, *real[9:]))
    monkeypatch.setattr(os, "statvfs", lambda path: noexec)
    with pytest.raises(MeasureError, match=r"is mounted noexec, so no candidate can run .*; set TMPDIR"):
        Runner(cpu_target(2), MeasureSettings())
