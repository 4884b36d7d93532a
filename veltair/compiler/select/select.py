"""Candidates -> the few versions worth keeping: the Pareto front of parallelism and locality. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Literal

from veltair.compiler.footprint.traffic import CACHE_BYTES
from veltair.compiler.footprint.version import Candidate

# What makes a candidate local: a large block of a parallel iteration, or little traffic into an L2.
FrontMetric = Literal["blocking", "traffic"]
# A candidate's modelled seconds at each of some core counts.
Costs = Callable[[Candidate], Sequence[float]]

L2_BYTES = 2**19  # of the machine of the paper and of most servers up to Zen 3


@dataclass(frozen=True, slots=True)
class Selection:
    """How many versions to keep (`count`), how much slower than the best one may be (`slack`, a ratio).

    `metric` is the axis of locality: "blocking" (blocking bytes, as VELTAIR's) or "traffic" (bytes fetched
    into a cache of `L2_BYTES`, estimated: it also sees what is reused within a parallel iteration).
    """

    slack: float
    count: int
    metric: FrontMetric = "blocking"

    def __post_init__(self) -> None:
        if not self.slack >= 1:
            raise ValueError(f"select.slack is {self.slack}; give a ratio of 1 or more")
        if self.count < 1:
            raise ValueError(f"select.count is {self.count}; give 1 or more")
        if self.metric not in ("blocking", "traffic"):
            raise ValueError(f"select.metric is {self.metric!r}; give blocking or traffic")


def rounds_costs(counts: Sequence[int]) -> Costs:
    """Return the costs on a machine of which nothing but core counts is known: `Candidate.seconds_on`."""
    return lambda candidate: [candidate.seconds_on(cores) for cores in counts]


def ratios(candidates: Sequence[Candidate], costs: Costs) -> list[list[float]]:
    """Return how many times slower each candidate is than the best at each core count, >= 1.

    A candidate that did not run has an empty list.
    """
    seconds = [list(costs(one)) if one.run_seconds else [] for one in candidates]
    best = [min(column) for column in zip(*filter(None, seconds), strict=True)]
    return [[one / least for one, least in zip(row, best, strict=True)] if row else [] for row in seconds]


def select(candidates: Sequence[Candidate], selection: Selection, costs: Costs) -> tuple[Candidate, ...]:
    """Return the chosen candidates, most local first; the fastest is always one of them.

    Kept are those whose time is within `slack` of the best at one core count at least; of these the Pareto
    front over (parallelism, locality), larger being better in both; of the front its two ends and points
    evenly spaced in the logarithm of locality. Fastest is the candidate whose ratio to the best has the least
    geometric mean over the core counts. Does not depend on the order of its input. Raises ValueError if none
    ran.

    Source: Liu et al., ASPLOS 2022, section 4, for the idea. The spacing and both uses of core counts are
    this project's: a version is granted few cores or many, each of which has the same say in what is fastest;
    what is good on few cores only must be there for them. On the first AVX-512 search, modelled for 64 cores,
    five versions kept so were 3.1 % slower than all candidates together, against 4.6 % where `slack` bounds
    the mean, and 8.7 % where it bounds the time on all cores.
    """
    ranked = _Ranked.of(candidates, selection.metric, costs)
    if not ranked:
        name = candidates[0].structure if candidates else "a layer"
        raise ValueError(f"no candidate of {name} ran; search it anew with more trials (`search.trials`)")
    fastest = min(ranked, key=_by_speed)
    kept = [one for one in ranked if one.least_ratio <= selection.slack]
    chosen = _spread(_front(kept), selection.count)
    if fastest not in chosen:
        chosen = _admit(chosen, fastest, selection.count)
    return tuple(one.candidate for one in sorted(chosen, key=_by_locality))


def pareto_front(
    candidates: Sequence[Candidate], costs: Costs, metric: FrontMetric = "blocking"
) -> list[Candidate]:
    """Return the candidates that ran and that no other beats in parallelism and locality, most local first.

    Of equals it is the fastest.
    """
    return [one.candidate for one in _front(_Ranked.of(candidates, metric, costs))]


def locality(candidate: Candidate, metric: FrontMetric = "blocking") -> float:
    """Return how local a candidate is, the larger the more: its blocking bytes, or 1 / traffic.

    Raises ValueError where the traffic was not estimated.
    """
    if metric == "blocking":
        return float(candidate.tiling.blocking_bytes)
    if not candidate.traffic_bytes:
        raise ValueError(
            f"candidate {candidate.index} of {candidate.structure} has no estimate of its traffic; "
            "set `select.metric: blocking` or search (`search.reuse: false`)"
        )
    return 1 / max(1, candidate.traffic_bytes[CACHE_BYTES.index(L2_BYTES)])


@dataclass(frozen=True, slots=True)
class _Ranked:
    """A candidate, its locality, and its ratios to the best at the core counts: geometric mean and least."""

    candidate: Candidate
    locality: float
    mean_ratio: float
    least_ratio: float

    @staticmethod
    def of(candidates: Sequence[Candidate], metric: FrontMetric, costs: Costs) -> "list[_Ranked]":
        """Return those that ran."""
        return [
            _Ranked(one, locality(one, metric), exp(sum(map(log, row)) / len(row)), min(row))
            for one, row in zip(candidates, ratios(candidates, costs), strict=True)
            if row
        ]

    @property
    def index(self) -> float:
        """Where it lies along the axis of locality: its logarithm, or 0 where nothing is touched at all."""
        return log(self.locality) if self.locality > 0 else 0.0

    @property
    def parallelism(self) -> int:
        """Its parallelism."""
        return self.candidate.tiling.parallelism


def _front(ranked: Sequence[_Ranked]) -> list[_Ranked]:
    front: list[_Ranked] = []
    for one in sorted(ranked, key=_by_locality):
        if not front or one.parallelism > front[-1].parallelism:
            front.append(one)
    return front


def _spread(front: list[_Ranked], count: int) -> list[_Ranked]:
    """Return at most `count` of a front: both ends and evenly spaced ones between."""
    if len(front) <= count:
        return front
    if count == 1:
        return [min(front, key=_by_speed)]
    first, last = front[0].index, front[-1].index
    chosen = [front[0], front[-1]]
    for index in range(1, count - 1):
        wanted = first + (last - first) * index / (count - 1)
        rest = [one for one in front if one not in chosen]
        chosen.append(min(rest, key=lambda one: (abs(one.index - wanted), _by_speed(one))))
    return sorted(chosen, key=_by_locality)


def _admit(chosen: list[_Ranked], fastest: _Ranked, count: int) -> list[_Ranked]:
    """Add the fastest; where there is no room it replaces the nearest, an end only if none lies between."""
    if len(chosen) < count:
        return [*chosen, fastest]
    replaceable = chosen[1:-1] or chosen
    wanted = fastest.index
    nearest = min(replaceable, key=lambda one: (abs(one.index - wanted), _by_speed(one)))
    return [fastest if one is nearest else one for one in chosen]


def _by_speed(one: _Ranked) -> tuple[float, float, int]:
    return one.mean_ratio, one.candidate.median_seconds, one.candidate.index


def _by_locality(one: _Ranked) -> tuple[float, int, float, float, int]:
    return -one.locality, -one.parallelism, *_by_speed(one)
