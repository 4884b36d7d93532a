"""QPS at 95 % QoS: the highest Poisson rate at which enough queries finish within their own target.

It is searched where runs are simulated: they repeat exactly, and any rate can be asked for. The search
doubles from a tenth of the caller's estimate and then bisects its bracket: the highest rate tried that
passed and the lowest one above it, which did not. Of measured runs `satisfaction_curve` tells where they
cross.

Satisfaction need not fall steadily with the rate, so rates near the answer are checked too: one above it that
passes moves the answer up, one below it that fails is shown.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from veltair.serving.loop.ended_queries import ArrivalColumns, EndedQueries

# An estimate further off than this is no estimate: the search ends there and says so.
LOWEST, HIGHEST = 0.01, 100.0
# Where the search starts, as a share of the estimate, and how it grows.
FIRST_SHARE, STEP = 0.1, 2.0


@dataclass(frozen=True, slots=True)
class Satisfaction:
    """The shares of queries on time at one rate: of all, and of the tenant that fares worst.

    `invalid` marks a run that says nothing about the rate, as no query was counted. `complete` is False for a
    run that was stopped once it could not reach the target: the shares are then upper bounds. `queries` are
    the counted ones.
    """

    pooled: float
    minimum: float
    invalid: bool = False
    complete: bool = True
    queries: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.minimum <= self.pooled <= 1.0:
            raise ValueError(
                f"Satisfaction: pooled {self.pooled} and minimum over tenants {self.minimum}; "
                "give 0 <= minimum <= pooled <= 1"
            )


class Criterion(StrEnum):
    """Which satisfaction must reach the target: that of all queries, or of the tenant that fares worst."""

    POOLED = "pooled"
    MINIMUM = "minimum"

    def of(self, satisfaction: Satisfaction) -> float:
        """Return that satisfaction."""
        return satisfaction.pooled if self is Criterion.POOLED else satisfaction.minimum


class Status(StrEnum):
    """How a search ended.

    RESOLVED: the bracket is as narrow as asked. CUT: the range around the estimate ran out first.
    INVALID: the rate above the answer gave no valid run, so the answer is a lower bound. UNSERVABLE: even
    the lowest rate misses the target.
    """

    RESOLVED = "resolved"
    CUT = "cut"
    INVALID = "invalid"
    UNSERVABLE = "unservable"


@dataclass(frozen=True, slots=True)
class CapacitySearch:
    """How to search: until high / low - 1 of the bracket is at most `resolution`.

    `checks` are multiples of the answer that are tried at the end.
    """

    resolution: float
    target: float = 0.95
    checks: tuple[float, ...] = (0.9, 0.97, 1.03)

    def __post_init__(self) -> None:
        if not 0.0 < self.resolution < 1.0:
            raise ValueError(f"CapacitySearch: resolution is {self.resolution}; give a share in (0, 1)")
        if not 0.0 < self.target <= 1.0:
            raise ValueError(f"CapacitySearch: target is {self.target}; give a share in (0, 1]")
        if any(not check > 0.0 for check in self.checks):
            raise ValueError(f"CapacitySearch: checks are {self.checks}; give multiples above 0")


@dataclass(frozen=True, slots=True)
class Trial:
    """One rate, in queries per second, and what came out."""

    qps: float
    satisfaction: Satisfaction


@dataclass(frozen=True, slots=True)
class Capacity:
    """QPS at the target satisfaction: `qps` passed, and no rate from `high_qps` to it did.

    `qps` is 0 where no rate passed, and `high_qps` infinite where none above it failed. `trials` are in the
    order in which they were tried.
    """

    criterion: Criterion
    settings: CapacitySearch
    status: Status
    qps: float
    high_qps: float
    trials: tuple[Trial, ...]

    @property
    def resolution(self) -> float:
        """The relative width of the bracket; infinite where one side of it is open."""
        return self.high_qps / self.qps - 1.0 if self.qps else math.inf

    @property
    def queries(self) -> int:
        """The counted queries of the run that the answer is from; of the last one where none passed."""
        answer = [trial for trial in self.trials if trial.qps == self.qps] or self.trials
        return answer[-1].satisfaction.queries if answer else 0

    @property
    def monotone(self) -> bool:
        """Whether every rate tried below the answer passed too."""
        return all(
            _passes(trial, self.criterion, self.settings) for trial in self.trials if trial.qps < self.qps
        )

    def describe(self) -> str:
        """Return the answer in words, with how sure it is."""
        tried = f"{len(self.trials)} rates tried"
        below = f"below {self.high_qps:.4g} QPS"
        note = "" if self.monotone else ", satisfaction is not monotone"
        if self.status is Status.UNSERVABLE:
            return f"unservable: {below} ({tried})"
        if not self.qps:
            return f"{below} ({self.status}, {tried})"
        if math.isinf(self.high_qps):
            return f"at least {self.qps:.4g} QPS ({self.status}, {tried}{note})"
        return f"{self.qps:.4g} QPS (+{self.resolution:.1%}, {self.status}, {tried}{note})"


Measure = Callable[[float], Satisfaction]


def find_capacity(
    measure: Measure,
    estimate_qps: float,
    settings: CapacitySearch,
    *,
    criterion: Criterion = Criterion.POOLED,
    known: Sequence[Trial] = (),
) -> Capacity:
    """Return the highest rate that reaches the target, searched from an estimate of it.

    `measure` runs a rate. `known` rates are used, not run again. The search never leaves `LOWEST` to
    `HIGHEST` times the estimate. Raises ValueError if that is not above 0.
    """
    if not 0.0 < estimate_qps < math.inf:
        raise ValueError(f"the estimate of the capacity is {estimate_qps} QPS; give a rate above 0")
    trials = list(known)
    while (qps := _next_rate(trials, estimate_qps, settings, criterion)) is not None:
        trials.append(Trial(qps, measure(qps)))
    low, high = _bracket(trials, criterion, settings)
    return Capacity(
        criterion,
        settings,
        _status(low, high, estimate_qps, settings),
        low.qps if low else 0.0,
        high.qps if high else math.inf,
        tuple(trials),
    )


def find_capacities(
    measure: Measure, estimate_qps: float, settings: CapacitySearch
) -> tuple[Capacity, Capacity]:
    """Return the pooled capacity and that of the minimum over tenants, which reuses the rates of the first.

    The second lists all of them.
    """
    pooled = find_capacity(measure, estimate_qps, settings)
    minimum = find_capacity(measure, estimate_qps, settings, criterion=Criterion.MINIMUM, known=pooled.trials)
    return pooled, minimum


def warmup_s(duration_s: float, longest_qos_s: float) -> float:
    """Return how long arrivals are served but not counted: the lesser of 10 % and 50 x the longest QoS.

    Queues settle within tens of service times, so a long run need not give up a tenth of itself, and a
    short one cannot give up more.
    """
    return min(0.1 * duration_s, 50.0 * longest_qos_s)


def satisfaction_of(
    ended: Iterable[EndedQueries],
    arrivals: ArrivalColumns,
    count_from_s: float,
    stop_below: float | None = None,
) -> Satisfaction:
    """Return the shares on time of the queries that arrive from `count_from_s` on.

    `arrivals` are the whole trace: a counted query that never ends is a miss, like one that was rejected or
    left unfinished. The minimum is over the tenants with counted queries; a run without any is invalid. With
    `stop_below`, `ended` are drawn only until the pooled share cannot reach it any more.
    """
    is_counted = arrivals.arrivals_s >= count_from_s
    planned = _by_sender(arrivals, np.flatnonzero(is_counted))
    total = planned.total()
    if not total:
        return Satisfaction(0.0, 0.0, invalid=True)
    on_time, missed = Counter[str](), Counter[str]()
    for some in ended:
        counted, was_on_time = is_counted[some.index], some.on_time(arrivals)
        misses = counted & ~was_on_time
        if stop_below is not None:
            left = (total - (missed.total() + np.cumsum(misses))) / total
            if len(hopeless := np.flatnonzero(misses & (left < stop_below))):
                until = some.index[: hopeless[0] + 1]
                missed += _by_sender(arrivals, until[misses[: hopeless[0] + 1]])
                return _shares(planned - missed, planned, complete=False)
        missed += _by_sender(arrivals, some.index[misses])
        on_time += _by_sender(arrivals, some.index[counted & was_on_time])
    return _shares(on_time, planned, complete=True)


def _by_sender(arrivals: ArrivalColumns, index: NDArray[np.int64]) -> Counter[str]:
    """Return how many of some arrivals each tenant sent; none that sent none."""
    counts = np.bincount(arrivals.sender[index], minlength=len(arrivals.senders)).tolist()
    return Counter({name: count for name, count in zip(arrivals.senders, counts, strict=True) if count})


def _shares(on_time: Counter[str], planned: Counter[str], complete: bool) -> Satisfaction:
    minimum = min(on_time[tenant] / count for tenant, count in planned.items())
    queries = planned.total()
    return Satisfaction(on_time.total() / queries, minimum, complete=complete, queries=queries)


def _next_rate(
    trials: Sequence[Trial], estimate_qps: float, settings: CapacitySearch, criterion: Criterion
) -> float | None:
    """Return the rate to try next, or None once the search is over."""
    if not trials:
        return FIRST_SHARE * estimate_qps
    low, high = _bracket(trials, criterion, settings)
    if low is None or high is None:
        return _outwards(trials, low, estimate_qps)
    if not _narrow(low, high, settings):
        return (low.qps + high.qps) / 2
    return _check(trials, low.qps, settings)


def _passes(trial: Trial, criterion: Criterion, settings: CapacitySearch) -> bool:
    return not trial.satisfaction.invalid and criterion.of(trial.satisfaction) >= settings.target


def _bracket(
    trials: Sequence[Trial], criterion: Criterion, settings: CapacitySearch
) -> tuple[Trial | None, Trial | None]:
    """Return the highest trial that passes and the lowest one above it, which does not."""
    passed = [trial for trial in trials if _passes(trial, criterion, settings)]
    low = max(passed, key=_rate, default=None)
    above = [trial for trial in trials if low is None or trial.qps > low.qps]
    return low, min(above, key=_rate, default=None)


def _rate(trial: Trial) -> float:
    return trial.qps


def _narrow(low: Trial, high: Trial, settings: CapacitySearch) -> bool:
    return high.qps / low.qps - 1.0 <= settings.resolution


def _outwards(trials: Sequence[Trial], low: Trial | None, estimate_qps: float) -> float | None:
    """Return a rate above all trials if one has passed, else one below all; None at the end of the range."""
    if low is not None:
        limit_qps = HIGHEST * estimate_qps
        return min(limit_qps, low.qps * STEP) if low.qps < limit_qps else None
    limit_qps = LOWEST * estimate_qps
    lowest_qps = min(trial.qps for trial in trials)
    return max(limit_qps, lowest_qps / STEP) if lowest_qps > limit_qps else None


def _check(trials: Sequence[Trial], answer_qps: float, settings: CapacitySearch) -> float | None:
    """Return the first rate to check that was not tried yet, to half the resolution."""
    for check in settings.checks:
        qps = check * answer_qps
        if all(abs(trial.qps - qps) > 0.5 * settings.resolution * qps for trial in trials):
            return qps
    return None


def _status(low: Trial | None, high: Trial | None, estimate_qps: float, settings: CapacitySearch) -> Status:
    if high is not None and high.satisfaction.invalid:
        return Status.INVALID
    if high is None:
        return Status.CUT
    if low is None:
        return Status.UNSERVABLE if high.qps <= LOWEST * estimate_qps else Status.CUT
    return Status.RESOLVED if _narrow(low, high, settings) else Status.CUT
