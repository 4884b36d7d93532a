"""What the figures of the service are, from times that were measured: nothing is measured here."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from veltair.evaluation.experiment.benchmark_file import BenchmarkResult, median_result

COMMAND = "snakemake --cores all benchmarks_service"
OK = 200
MISSED_S = 10.0
QUOTA_TIMES = (0, 1, 10)
"""How many times its quota the aggressor sends."""


@dataclass(frozen=True, slots=True)
class Paired:
    """Seconds of one round, shape (requests,) each: the service, the engine in process, the null server.

    Each served request is followed by one of the others.
    """

    served_s: NDArray[np.float64]
    in_process_s: NDArray[np.float64]
    floor_s: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ask:
    """Seconds from when a request was due to its answer's last byte, and the answer's code, 0 for none."""

    latency_s: float
    code: int


@dataclass(frozen=True, slots=True)
class Load:
    """What became of the requests of one sender in one slot."""

    asks: tuple[Ask, ...]

    def on_time(self, qos_s: float) -> float:
        """Return the share of requests that were answered, and within so many seconds."""
        return sum(one.code == OK and one.latency_s <= qos_s for one in self.asks) / len(self.asks)

    def percentile_s(self, share: float) -> float:
        """Return a percentile of the latencies of requests that were answered, MISSED_S if none was.

        What was refused is no quick answer, and counts in `on_time` alone.
        """
        times = [one.latency_s for one in self.asks if one.code == OK]
        return float(np.percentile(times, share)) if times else MISSED_S

    @property
    def codes(self) -> dict[int, int]:
        """How many answers had which code."""
        return dict(Counter(one.code for one in self.asks))


def added_figures(size: str, rounds: Sequence[Paired]) -> dict[str, BenchmarkResult]:
    """Return what the service adds to the engine in process by size of body, and the client's floor."""
    count = sum(len(one.served_s) for one in rounds)
    unit = f"ms, over HTTP less in process, {count} requests each in turn; median of {len(rounds)} rounds"
    null = f"ms, a server that computes nothing, same client and bodies, {count} requests"
    figures = {}
    for share in (50, 99):
        percentiles = [
            [
                1e3 * float(np.percentile(times, share))
                for times in (one.served_s, one.in_process_s, one.floor_s)
            ]
            for one in rounds
        ]
        added = [served - bare for served, bare, _ in percentiles]
        figures[f"added_p{share}_ms_{size}"] = median_result(added, unit, COMMAND)
        floors = [floor for _, _, floor in percentiles]
        figures[f"floor_p{share}_ms_{size}"] = median_result(floors, null, COMMAND)
    bare = [1e3 * float(np.median(one.in_process_s)) for one in rounds]
    text = f"ms, the model in process, {count} requests"
    figures[f"in_process_p50_ms_{size}"] = median_result(bare, text, COMMAND)
    return figures


def server_figures(
    size: str, steps_ms: Mapping[str, float], front_cpu_s: float, requests: int
) -> dict[str, BenchmarkResult]:
    """Return what the service says itself of those requests, and what its front held a core for.

    `steps_ms` are means by step of its statistics.
    """
    figures = {}
    for step, mean_ms in steps_ms.items():
        unit = f"ms, mean of {requests} requests, by the service's own clock"
        figures[f"server_{step}_ms_{size}"] = BenchmarkResult(mean_ms, unit, (mean_ms,), COMMAND)
    each_ms = 1e3 * front_cpu_s / requests
    unit = f"ms of the front's time on cores a request, {requests} requests"
    return figures | {f"front_cpu_ms_{size}": BenchmarkResult(each_ms, unit, (each_ms,), COMMAND)}


def isolation_figures(
    who: str, rounds: Sequence[Mapping[int, Load]], qos_s: float
) -> dict[str, BenchmarkResult]:
    """Return what a victim loses by an aggressor at its quota and at ten times that, its keys in `rounds`."""
    none, quota, most = QUOTA_TIMES
    asked = sum(len(one.asks) for loads in rounds for one in loads.values())
    of = (
        f"aggressor at {most} times its quota against none, {asked} requests of the victim; "
        f"median of {len(rounds)} rounds"
    )
    losses = [100 * (loads[none].on_time(qos_s) - loads[most].on_time(qos_s)) for loads in rounds]
    ratios = [loads[most].percentile_s(99) / loads[none].percentile_s(99) for loads in rounds]
    at_quota = [loads[quota].percentile_s(99) / loads[none].percentile_s(99) for loads in rounds]
    alone = [1e3 * loads[none].percentile_s(99) for loads in rounds]
    return {
        f"{who}_loss_points": median_result(
            losses, f"points of requests within {1e3 * qos_s:g} ms, {of}", COMMAND
        ),
        f"{who}_p99_ratio": median_result(ratios, f"p99 ÷ p99, {of}", COMMAND),
        f"{who}_p99_ratio_at_quota": median_result(
            at_quota, "the same with the aggressor at its quota", COMMAND
        ),
        f"{who}_p99_ms_alone": median_result(alone, "ms, p99 of the victim without the aggressor", COMMAND),
    }


def rejection_figures(
    rejected_s: Mapping[int, Sequence[float]], floor_s: Sequence[float]
) -> dict[str, BenchmarkResult]:
    """Return how soon a refusal is there: by code, of the slower one, and of the null server's answers."""
    figures = {}
    for code, times in rejected_s.items():
        value = 1e3 * float(np.percentile(times, 99))
        unit = f"ms, p99 of {len(times)} answers {code}, one request at a time"
        figures[f"rejection_p99_ms_{code}"] = BenchmarkResult(value, unit, (value,), COMMAND)
    worst = max(figures.values(), key=lambda one: one.value)
    floor = 1e3 * float(np.percentile(floor_s, 99))
    unit = f"ms, p99 of {len(floor_s)} answers of a server that computes nothing"
    return figures | {
        "rejection_p99_ms": worst,
        "rejection_floor_p99_ms": BenchmarkResult(floor, unit, (floor,), COMMAND),
    }


def loads_figures(
    rounds: Sequence[tuple[Load, Load]], loads: int, qos_s: float
) -> dict[str, BenchmarkResult]:
    """Return what others wait and lose while models load; of each round the quiet slot is first."""
    ratios = [busy.percentile_s(99) / quiet.percentile_s(99) for quiet, busy in rounds]
    losses = [100 * (quiet.on_time(qos_s) - busy.on_time(qos_s)) for quiet, busy in rounds]
    of = f"while models load against while none does, {loads} loads; median of {len(rounds)} rounds"
    late = f"points of another tenant's requests within {1e3 * qos_s:g} ms, {of}"
    return {
        "others_p99_during_loads": median_result(ratios, f"p99 ÷ p99 of another tenant, {of}", COMMAND),
        "others_loss_points_during_loads": median_result(losses, late, COMMAND),
    }


def growth_figure(resident_bytes: Sequence[int], warm: int, cycles: int) -> BenchmarkResult:
    """Return how much the memory grew, relative to that after the first `warm` readings.

    Readings are evenly spaced over so many loads and unloads.
    """
    base, last = resident_bytes[warm], resident_bytes[-1]
    value = float(last / base - 1)
    unit = (
        f"resident memory of the engine after {cycles} loads and unloads, relative to after the first tenth"
    )
    return BenchmarkResult(value, unit, (value,), COMMAND)
