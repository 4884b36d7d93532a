"""The speed of the loop in C over the workers: from an end, and from an arrival, to the next start."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from veltair.evaluation.benchmarks.workers import COMMAND
from veltair.evaluation.experiment.benchmark_file import BenchmarkResult
from veltair.evaluation.loadgen.child import ARRIVAL, MESSAGE
from veltair.machine.c_build import FLAGS
from veltair.machine.c_library import load_library
from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.workers.pool import Launch, Sample, Servable
from veltair.serving.engine.log_entries import Entry, EntryKind
from veltair.serving.engine.native_engine import NativeEngine, Site
from veltair.serving.loop.policy import Context
from veltair.serving.loop.query import NEVER_S
from veltair.serving.policies.presets import make_policy

ARRIVALS, REST_S = 200, 0.005  # long enough for every thread to sleep and for cores to halt
WAKE_UP = Path(__file__).with_name("wake_up.c")


def native_gaps_us(
    context: Context, model: Servable, policy: str, launch: Launch, build_dir: Path, queries: int
) -> list[float]:
    """Return the microseconds from each end of a block to the next one's first layer, while queries wait.

    Each block holds all cores.
    """
    with _engine(context, model, policy, launch, build_dir) as engine:
        for query_id in range(queries):
            engine.arrive(query_id, 0, time.monotonic())
        engine.flush()
        for _ in engine.serve():
            pass
        ends = [entry for entry in engine.entries() if entry.kind is EntryKind.BLOCK_ENDED]
    times = np.array([(end.time_s - end.seconds, end.time_s) for end in ends])
    gaps: list[float] = (1e6 * (times[1:, 0] - times[:-1, 1])).tolist()
    return gaps


def arrival_figure(
    context: Context, model: Servable, policy: str, launch: Launch, build_dir: Path, arrivals: int = ARRIVALS
) -> BenchmarkResult:
    """Return the time from a packet at an idle engine to the first layer, over that of two wake-ups."""
    ours, loadgens = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, loadgens, _engine(context, model, policy, launch, build_dir) as engine:
        engine.listen(ours.fileno())
        for number in range(arrivals):
            time.sleep(REST_S)
            loadgens.send(MESSAGE.pack(ARRIVAL, 0, number, time.monotonic_ns()))
        engine.flush()
        for _ in engine.serve():
            pass
        waits_s = _waits_s(engine.entries())
    two_s = 2 * float(np.median(wake_ups_s(context.machine.core_ids, build_dir, arrivals)))
    ratios = tuple(float(np.median(part)) / two_s for part in np.array_split(waits_s, 4))
    value = float(np.median(waits_s)) / two_s
    print(f"arrival: {1e6 * float(np.median(waits_s)):.1f} µs, two wake-ups {1e6 * two_s:.1f} µs", flush=True)
    unit = f"arrival at an idle engine to its first layer ÷ two wake-ups, {arrivals} each; samples: quarters"
    return BenchmarkResult(value, unit, ratios, COMMAND)


def wake_ups_s(core_ids: tuple[int, ...], build_dir: Path, count: int) -> NDArray[np.float64]:
    """Return the seconds that it took to wake a thread on a halted core, shape (count,)."""
    header = WAKE_UP.with_suffix(".h")
    library = load_library(WAKE_UP, [header], build_dir, (*FLAGS, "-shared", "-fPIC"))
    seconds = np.zeros(count)
    cores = core_ids[0], core_ids[-1]
    gap_ns = round(1e9 * REST_S)
    array = library.ffi.cast("double *", seconds.ctypes.data)
    if error := library.functions.measure_wake_ups(*cores, count, gap_ns, array):
        raise OSError(error, f"cannot start two threads: {os.strerror(error)}")
    return seconds


def _waits_s(entries: Iterator[Entry]) -> NDArray[np.float64]:
    sent_s: dict[int, float] = {}
    waits_s = []
    for entry in entries:
        if entry.kind is EntryKind.ARRIVED:
            sent_s[entry.id] = entry.seconds
        elif entry.kind is EntryKind.BLOCK_ENDED:
            waits_s.append(entry.time_s - entry.seconds - sent_s[entry.id])
    return np.array(waits_s)


@contextmanager
def _engine(
    context: Context, model: Servable, policy: str, launch: Launch, build_dir: Path
) -> Iterator[NativeEngine]:
    (name,) = context.models
    site = Site(context, "spread", ObservedSlowdown(), NEVER_S)
    made = make_policy(policy, context, "paper", {})
    samples = [(name, Sample((), ()))]
    engine = NativeEngine(site, {name: model}, samples, launch)
    try:
        engine.begin(made)
        yield engine
    finally:
        engine.stop()
