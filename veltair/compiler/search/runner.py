"""Builds candidates and measures them: here, or on the servers of an RPC tracker.

Worker processes live as long as the Runner, so that TVM is imported once and not for each batch. They are
separate because a candidate may crash or hang.
"""

import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import tvm
from tvm.rpc import base as rpc_base
from tvm.rpc import connect_tracker
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock
from tvm.support.popen_pool import PopenPoolExecutor, StatusKind
from tvm.tirx import build as tvm_build

from veltair.compiler.search.intrinsics import vectorise_math

# Measuring a candidate stops before its repeats when it costs more than this, but not before LEAST_REPEATS.
BUDGET_S = 0.5
LEAST_REPEATS = 3
# A candidate that is this many times slower than the best is not timed again, if a disturbance by another
# process cannot be what made it slow.
HOPELESS_RATIO = 4.0
DISTURBANCE_S = 0.005
# TVM's workers leak memory: they are replaced after so many candidates.
WORKER_USES = 512
TRACKER_TIMEOUT_S = 5.0
# How long a candidate may wait for a server to be free, besides its own time.
SERVER_WAIT_S = 60.0
FLUSH = "cache_flush_cpu_non_first_arg"

Arguments = Sequence[tuple[str, tuple[int, ...]]]


class MeasureError(RuntimeError):
    """Nothing can be measured at all; the message says what to do."""


@dataclass(frozen=True, slots=True)
class RpcSettings:
    """TVM's RPC tracker and the key of its servers; `sessions` of them measure at once."""

    host: str
    port: int
    key: str
    sessions: int = 1

    def __post_init__(self) -> None:
        if not self.host or not self.key:
            raise ValueError(f"search.rpc: host {self.host!r}, key {self.key!r}; give both")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"search.rpc.port is {self.port}; give 1 to 65535")
        if self.sessions < 1:
            raise ValueError(f"search.rpc.sessions is {self.sessions}; give 1 or more")


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """How to measure a candidate: up to `repeats` cold runs on one core, and how long it may take."""

    repeats: int = 10
    build_timeout_s: float = 30.0
    run_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"search.repeats is {self.repeats}; give 1 or more")
        if min(self.build_timeout_s, self.run_timeout_s) <= 0:
            raise ValueError(
                f"timeouts of {self.build_timeout_s} s (build) and {self.run_timeout_s} s (run); "
                "give more than 0"
            )


@dataclass(frozen=True, slots=True)
class Measured:
    """Raw times of a candidate in seconds; none if it failed, with the error."""

    run_seconds: tuple[float, ...]
    error: str | None


class Runner:
    """Builds and measures candidates for a target; close it, or use it in a `with`."""

    def __init__(self, target: Any, settings: MeasureSettings, rpc: RpcSettings | None = None) -> None:
        """Start; raise MeasureError as `check` does."""
        self._target, self._settings, self._rpc = target, settings, rpc
        self.check()
        cores = sorted(os.sched_getaffinity(0))
        self._builders = PopenPoolExecutor(
            max_workers=len(cores), timeout=settings.build_timeout_s, maximum_process_uses=WORKER_USES
        )
        # The last core: interrupts and the system's own work prefer the first.
        initializer = None if rpc else partial(_settle, cores[-1])
        self._runners = PopenPoolExecutor(
            max_workers=rpc.sessions if rpc else 1,
            timeout=settings.run_timeout_s + (SERVER_WAIT_S if rpc else 0),
            initializer=initializer,
            maximum_process_uses=WORKER_USES,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes."""
        self._builders.shutdown()
        self._runners.shutdown()

    def check(self) -> None:
        """Raise MeasureError if nothing can run here, or the tracker is dead or has no server of the key."""
        if self._rpc is not None:
            check_tracker(self._rpc)
        elif os.statvfs(folder := tempfile.gettempdir()).f_flag & os.ST_NOEXEC:
            raise MeasureError(
                f"the temporary folder {folder} is mounted noexec, so no candidate can run from there; set "
                "TMPDIR to a folder from which programs may run"
            )

    def measure(self, candidates: Sequence[tuple[Any, Arguments]], best_s: float) -> list[Measured]:
        """Build all candidates, then time each; one that fails is a value, not an error.

        A candidate is its module and its arguments' types and shapes. `best_s`: the fastest time so far.
        Raises MeasureError if all of them failed because the tracker or its servers are gone.
        """
        with tempfile.TemporaryDirectory(prefix="veltair-search-") as folder:
            paths = [str(Path(folder) / f"{index}.so") for index in range(len(candidates))]
            to_build = [(module, path) for (module, _), path in zip(candidates, paths, strict=True)]
            built = _each(self._builders, partial(_build, self._target), to_build)
            alive = [index for index, (_, error) in enumerate(built) if error is None]
            timed = self._time([(paths[index], tuple(candidates[index][1])) for index in alive], best_s)
        measured = [Measured((), error) for _, error in built]
        for index, one in zip(alive, timed, strict=True):
            measured[index] = one
        return measured

    def _time(self, built: Sequence[tuple[str, Arguments]], best_s: float) -> list[Measured]:
        time_one = partial(_time_remote, self._rpc) if self._rpc else _time_local
        timed = _each(self._runners, partial(time_one, self._settings, best_s), built)
        measured = [Measured(tuple(seconds or ()), error) for seconds, error in timed]
        if measured and not any(one.run_seconds for one in measured):
            self.check()
        return measured


def check_tracker(rpc: RpcSettings, timeout_s: float = TRACKER_TIMEOUT_S) -> None:
    """Raise MeasureError if the tracker does not answer, or knows no server of the key; never hangs."""
    address = f"{rpc.host}:{rpc.port}"
    try:
        with socket.create_connection((rpc.host, rpc.port), timeout=timeout_s) as connection:
            connection.sendall(struct.pack("<i", rpc_base.RPC_TRACKER_MAGIC))
            if struct.unpack("<i", rpc_base.recvall(connection, 4))[0] != rpc_base.RPC_TRACKER_MAGIC:
                raise MeasureError(f"{address} is no RPC tracker of this TVM; correct `search.rpc`")
            rpc_base.sendjson(connection, [rpc_base.TrackerCode.SUMMARY])
            _, summary = rpc_base.recvjson(connection)
    except (OSError, struct.error, ValueError) as error:
        raise MeasureError(
            f"no RPC tracker answers at {address} ({error}); start one (python -m tvm.exec.rpc_tracker "
            f"--host 0.0.0.0 --port {rpc.port}), correct `search.rpc`, or set `search.runner: local`"
        ) from error
    keys = sorted({str(server["key"]).removeprefix("server:") for server in summary["server_info"]})
    if rpc.key not in keys:
        raise MeasureError(
            f"the RPC tracker at {address} has no server of key {rpc.key!r} (its keys: {keys}); start one "
            f"(python -m tvm.exec.rpc_server --tracker {address} --key {rpc.key}) "
            "or correct `search.rpc.key`"
        )


def repeats_left(first_s: float, call_s: float, best_s: float, repeats: int) -> int:
    """Return how often a candidate is timed again after the first time.

    `first_s` is what its first timed run took, `call_s` the wall time of that call (a warm-up, flushing the
    caches, and the run), `best_s` the fastest candidate so far.
    """
    if first_s > HOPELESS_RATIO * best_s and first_s > DISTURBANCE_S:
        return 0
    # The first call made two runs, and the next one warms up once more.
    fitting = int((BUDGET_S - call_s) / max(call_s / 2, 1e-9)) - 1
    return min(repeats - 1, max(LEAST_REPEATS - 1, fitting))


def raw_times(
    evaluate: Callable[[int], Sequence[float]], best_s: float, repeats: int, clock: Callable[[], float]
) -> list[float]:
    """Return the seconds of each run of a candidate; `evaluate` makes a warm-up and so many cold runs.

    `best_s` and `clock` decide how often it runs, as in `repeats_left`.
    """
    start_s = clock()
    seconds = list(evaluate(1))
    left = repeats_left(seconds[0], clock() - start_s, best_s, repeats)
    return seconds + (list(evaluate(left)) if left else [])


def _each(pool: Any, function: Any, items: Sequence[Any]) -> list[tuple[Any, str | None]]:
    """Return the result or the error of each item, made in a pool's processes."""
    results: list[tuple[Any, str | None]] = []
    for result in pool.map_with_error_catching(function, items):
        if result.status == StatusKind.COMPLETE:
            results.append((result.value, None))
        elif result.status == StatusKind.TIMEOUT:
            results.append((None, "it took too long and was killed"))
        else:
            results.append((None, str(result.value).strip() or type(result.value).__name__))
    return results


def build_candidate(module: Any, target: Any) -> Any:
    """Build one candidate, its weights taken as packed already."""
    vectorise_math()
    return tvm_build(RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(module), target=target)


def _build(target: Any, item: tuple[Any, str]) -> None:
    module, path = item
    build_candidate(module, target).export_library(path)


def _settle(core: int) -> None:
    """Make a worker process measure on one core."""
    os.environ["TVM_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, {core})


def _time_local(settings: MeasureSettings, best_s: float, item: tuple[str, Arguments]) -> list[float]:
    path, arguments = item
    module = tvm.runtime.load_module(path)
    fill = tvm.get_global_func("tvm.contrib.random.random_fill_for_measure")
    return _evaluate(module, tvm.cpu(), fill, arguments, settings, best_s)


def _time_remote(
    rpc: RpcSettings, settings: MeasureSettings, best_s: float, item: tuple[str, Arguments]
) -> list[float]:
    path, arguments = item
    # TVM itself would try to reach a dead tracker for a minute.
    check_tracker(rpc)
    tracker = connect_tracker(rpc.host, rpc.port)
    session = tracker.request(rpc.key, session_timeout=settings.run_timeout_s)
    session.get_function("runtime.config_threadpool")(1, 1)
    name = f"veltair-{os.getpid()}.so"
    session.upload(path, target=name)
    try:
        fill = session.get_function("tvm.contrib.random.random_fill_for_measure")
        return _evaluate(session.load_module(name), session.cpu(), fill, arguments, settings, best_s)
    finally:
        session.remove(name)


def _evaluate(
    module: Any, device: Any, fill: Any, arguments: Arguments, settings: MeasureSettings, best_s: float
) -> list[float]:
    tensors = [_tensor(dtype, shape, device, fill) for dtype, shape in arguments]

    def evaluate(repeats: int) -> Sequence[float]:
        timer = module.time_evaluator(
            "main", device, number=1, repeat=repeats, min_repeat_ms=0, f_preproc=FLUSH
        )
        return [float(second) for second in timer(*tensors).results]

    return raw_times(evaluate, best_s, settings.repeats, time.perf_counter)


def _tensor(dtype: str, shape: tuple[int, ...], device: Any, fill: Any) -> Any:
    if not dtype.startswith("float"):
        # Integers may be indices: zero lies in every range, random bits in none.
        return tvm.runtime.tensor(np.zeros(shape, dtype), device)
    tensor = tvm.runtime.empty(shape, dtype, device)
    fill(tensor)
    return tensor
