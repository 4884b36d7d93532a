"""The speed of the loop over the workers: from an end, or an arrival, to the next start; and at rest."""

import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from veltair.compiler.frontend.model import Layer, Model
from veltair.evaluation.benchmarks.workers import COMMAND, ListedCalls
from veltair.evaluation.experiment.benchmark_file import BenchmarkResult
from veltair.evaluation.loadgen.child import ARRIVAL, MESSAGE
from veltair.machine.c_build import FLAGS
from veltair.machine.c_library import load_library
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.native_pool import NullKernel
from veltair.machine.workers.pool import Launch, Sample, Servable
from veltair.serving.engine.log_entries import Entry, EntryKind
from veltair.serving.engine.native_engine import NativeEngine, Site
from veltair.serving.loop.policy import Answer, Context, Policy, Snapshot
from veltair.serving.loop.query import NEVER_S
from veltair.serving.policies.presets import make_policy

FCFS = "baselines.fcfs_min:FcfsMin"
DISPATCHES, ARRIVALS, IDLE_S = 3000, 200, 3.0
REST_S = 0.005  # long enough for every thread to sleep and for cores to halt
WAKE_UP = Path(__file__).with_name("wake_up.c")


@dataclass(frozen=True, slots=True)
class NullModel:
    """A model of one layer whose kernel computes nothing."""

    kernel: NullKernel

    def instance(self) -> ListedCalls:
        """Return buffers for one query."""
        return ListedCalls([[(self.kernel, ())]])


class InPython:
    """A policy that hides how it decides: its `allocate` is asked, as that of any policy of a user."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return what the policy does."""
        return self._policy.allocate(snapshot)


def dispatch_figures(
    launch: Launch, machine: Machine, build_dir: Path, queries: int = DISPATCHES, arrivals: int = ARRIVALS
) -> dict[str, BenchmarkResult]:
    """Return the time from the end of a block to the start of the next while queries wait, and when idle.

    Blocks hold all cores and compute nothing. The policy is FcfsMin, in C, then in Python as a policy
    without a native spec would be.
    """
    context = null_context(machine)
    figures: dict[str, BenchmarkResult] = {}
    for name, where in (("dispatch", "C"), ("dispatch_python", "Python")):
        policy = make_policy(FCFS, context, "paper", {})
        with null_engine(launch, machine, build_dir) as engine:
            engine.begin(policy if where == "C" else InPython(policy))
            for query_id in range(queries):
                engine.arrive(query_id, 0, time.monotonic())
            engine.flush()
            for _ in engine.serve():
                pass
            gaps = gaps_us(engine.entries(), copies=False)
        unit = f"µs from an end to the next start, FcfsMin in {where}, kernels that do nothing"
        figures |= percentile_figures(name, gaps, f"{unit}, {len(gaps)} blocks")
    figures["arrival_ratio"] = arrival_figure(launch, machine, build_dir, arrivals)
    return figures


def gaps_us(entries: Iterable[Entry], *, copies: bool) -> list[float]:
    """Return the microseconds from each end to the first layer of the next block led by the same core.

    A query's first block does not count if it `copies` a sample in before.
    """
    led: dict[int, tuple[int, int]] = {}  # by query: the core, and its block's first layer
    last_s: dict[int, float] = {}
    gaps = []
    for entry in entries:
        if entry.kind is EntryKind.BLOCK_STARTED:
            led[entry.id] = entry.held[0], entry.first
        elif entry.kind is EntryKind.BLOCK_ENDED:
            core, first = led[entry.id]
            if core in last_s and (first or not copies):
                gaps.append(1e6 * (entry.time_s - entry.seconds - last_s[core]))
            last_s[core] = entry.time_s
    return gaps


def percentile_figures(name: str, gaps: Sequence[float], unit: str) -> dict[str, BenchmarkResult]:
    """Return the 50th and the 99th percentile; the samples of each are those of the quarters."""
    quarters = np.array_split(np.array(gaps), 4)
    figures = {}
    for share in (50, 99):
        samples = tuple(float(np.percentile(part, share)) for part in quarters)
        value = float(np.percentile(gaps, share))
        text = f"{unit}; samples: its quarters"
        figures[f"{name}_p{share}_us"] = BenchmarkResult(value, text, samples, COMMAND)
        print(f"{name}, p{share}: {value:.1f} µs", flush=True)
    return figures


def arrival_figure(
    launch: Launch, machine: Machine, build_dir: Path, arrivals: int = ARRIVALS
) -> BenchmarkResult:
    """Return the time from a packet at an idle engine to the first layer, over that of two wake-ups."""
    ours, loadgens = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, loadgens, null_engine(launch, machine, build_dir) as engine:
        engine.begin(make_policy(FCFS, null_context(machine), "paper", {}))
        engine.listen(ours.fileno())
        for number in range(arrivals):
            time.sleep(REST_S)
            loadgens.send(MESSAGE.pack(ARRIVAL, 0, number, time.monotonic_ns()))
        engine.flush()
        for _ in engine.serve():
            pass
        waits_s = _waits_s(engine.entries())
    two_s = 2 * float(np.median(wake_ups_s(machine.core_ids, build_dir, arrivals)))
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


def idle_figure(
    launch: Launch, machine: Machine, build_dir: Path, seconds: float = IDLE_S
) -> BenchmarkResult:
    """Return the CPU time of this process, its workers included, over the time that its engine waits."""
    with null_engine(launch, machine, build_dir) as engine:
        engine.begin(make_policy(FCFS, null_context(machine), "paper", {}))
        over = Timer(seconds, engine.flush)
        cpu_s, start_s = time.process_time(), time.monotonic()
        over.start()
        for _ in engine.serve():
            pass
        share = (time.process_time() - cpu_s) / (time.monotonic() - start_s)
    return BenchmarkResult(share, "cores busy while nothing runs", (share,), COMMAND)


@contextmanager
def null_engine(launch: Launch, machine: Machine, build_dir: Path) -> Iterator[NativeEngine]:
    """Give an engine that serves a model of one kernel which does nothing, but needs all cores."""
    model = NullModel(NullKernel(build_dir, passes_time=True))
    with opened(null_context(machine), {"null": model}, [("null", Sample((), ()))], launch) as engine:
        yield engine


@contextmanager
def opened(
    context: Context,
    models: Mapping[str, Servable],
    samples: Sequence[tuple[str, Sample]],
    launch: Launch,
) -> Iterator[NativeEngine]:
    """Give an engine whose runs are never cut off."""
    engine = NativeEngine(Site(context, "spread", ObservedSlowdown(), NEVER_S), models, samples, launch)
    try:
        yield engine
    finally:
        engine.stop()


def null_context(machine: Machine) -> Context:
    """Return the context of a model of one kernel that does nothing."""
    rows = [("null", 0, 0, cores, 0.0, 0, 1e-6 / cores, 0.0, 0.0) for cores in machine.core_counts]
    costs = CostTable(pd.DataFrame(rows, columns=list(COLUMNS)), machine.name)
    # No count of cores meets the target, so FcfsMin takes the fastest.
    return Context({"null": Model("null", (Layer("null", "null", 1),), 1e-9)}, costs, machine)
