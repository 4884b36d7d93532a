"""Candidates -> the few versions worth keeping: the Pareto front of parallelism and locality. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log

from veltair.compiler.version import Candidate


@dataclass(frozen=True, slots=True)
class Selection:
    """How many versions to keep (`count`) and how much slower than the best one may be (`slack`, a ratio)."""

    slack: float
    count: int

    def __post_init__(self) -> None:
        if not self.slack >= 1:
            raise ValueError(f"select.slack is {self.slack}; give a ratio of 1 or more")
        if self.count < 1:
            raise ValueError(f"select.count is {self.count}; give 1 or more")


def select(candidates: Sequence[Candidate], selection: Selection) -> tuple[Candidate, ...]:
    """Return the kept candidates, most local (largest blocking) first; the fastest is always one of them.

    Kept are those within `slack` of the fastest median; of these the Pareto front over (parallelism, blocking
    bytes), larger being better in both; of the front its two ends and points evenly spaced in the
    logarithm of blocking bytes. Does not depend on the order of its input. Raises ValueError if none ran.
    Source: Liu et al., ASPLOS 2022, section 4 for the idea; the spacing is this project's.
    """
    ran = [candidate for candidate in candidates if isfinite(candidate.median_seconds)]
    if not ran:
        name = candidates[0].structure if candidates else "a layer"
        raise ValueError(f"no candidate of {name} ran; search it anew with more trials (`search.trials`)")
    fastest = min(ran, key=_by_speed)
    kept = [one for one in ran if one.median_seconds <= selection.slack * fastest.median_seconds]
    chosen = _spread(pareto_front(kept), selection.count)
    if fastest not in chosen:
        chosen = _admit(chosen, fastest, selection.count)
    return tuple(sorted(chosen, key=_by_locality))


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that no other beats in both metrics, most local first; of equals the fastest."""
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=_by_locality):
        if not front or candidate.tiling.parallelism > front[-1].tiling.parallelism:
            front.append(candidate)
    return front


def _spread(front: list[Candidate], count: int) -> list[Candidate]:
    """Return at most `count` of a front: both ends and evenly spaced ones between."""
    if len(front) <= count:
        return front
    if count == 1:
        return [min(front, key=_by_speed)]
    first, last = _locality(front[0]), _locality(front[-1])
    chosen = [front[0], front[-1]]
    for place in range(1, count - 1):
        wanted = first + (last - first) * place / (count - 1)
        rest = [candidate for candidate in front if candidate not in chosen]
        chosen.append(min(rest, key=lambda one: (abs(_locality(one) - wanted), _by_speed(one))))
    return sorted(chosen, key=_by_locality)


def _admit(chosen: list[Candidate], fastest: Candidate, count: int) -> list[Candidate]:
    """Add the fastest; where there is no room it replaces the nearest, an end only if none lies between."""
    if len(chosen) < count:
        return [*chosen, fastest]
    replaceable = chosen[1:-1] or chosen
    nearest = min(replaceable, key=lambda one: (abs(_locality(one) - _locality(fastest)), _by_speed(one)))
    return [fastest if candidate is nearest else candidate for candidate in chosen]


def _locality(candidate: Candidate) -> float:
    return log(max(1, candidate.tiling.blocking_bytes))


def _by_speed(candidate: Candidate) -> tuple[float, int]:
    return candidate.median_seconds, candidate.index


def _by_locality(candidate: Candidate) -> tuple[int, int, float, int]:
    tiling = candidate.tiling
    return -tiling.blocking_bytes, -tiling.parallelism, candidate.median_seconds, candidate.index
