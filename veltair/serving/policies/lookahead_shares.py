"""Who gets how many cores, looking ahead to all deadlines: the ideas of `Lookahead`, each a pure function.

Core counts are given as indices of the ascending `counts`; -1 is none.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from veltair.serving.loop.policy import Running
from veltair.serving.loop.query import Query
from veltair.serving.policies.crowded_times import Prediction
from veltair.serving.policies.latency_tables import Row

# A query starts on fewer cores than it should have only where its work is at most so many times its least.
WASTE = 1.5
# Growth has to save so much of the time, or it would take cores for next to nothing.
WORTHWHILE = 0.05


@dataclass(slots=True, eq=False)
class Claim:
    """What a query asks for, and gets: `wanted`, `floor` and `given` are indices of the counts.

    `first` is the layer that it begins with, or that is under way in its block `running`. `left_s` is the
    time to its deadline. `floor` is the least that it can be given.
    """

    query: Query
    first: int
    deadline_s: float
    prediction: Prediction
    left_s: float = 0.0
    wanted: int = -1
    running: Running | None = None
    floor: int = -1
    given: int = -1


def wanted_index(prediction: Prediction, left_s: float, margin: float) -> int:
    """Return the efficient count, or if that is too slow the next one that takes `margin` of the time left.

    Where none does, it is the fastest count. Source: a decision of ours. Fewer cores than the efficient count
    would hold them for longer, and the query be nearer to its deadline; more would do less with each.
    """
    seconds, limit_s = prediction.seconds, margin * left_s
    for index in range(prediction.efficient, len(seconds)):
        if seconds[index] <= limit_s:
            return index
    return seconds.index(prediction.least_s)


def shed(left_s: Sequence[float], works: Sequence[float], cores: int) -> set[int]:
    """Return the indices of those who are given up, so that as many as possible are on time.

    Queries come by deadline. While the work up to a deadline exceeds what all cores do until then, the one
    of most work is shed; of equal ones the latest. Source: Moore, Management Science 1968 (algorithm of
    Hodgson), which is optimal for one machine; here all cores together are that machine.
    """
    # By work, of equal ones by deadline: whole numbers are soon compared.
    ascending = sorted(range(len(works)), key=works.__getitem__)
    ranks = [0] * len(works)
    for rank, index in enumerate(ascending):
        ranks[index] = -rank
    largest: list[int] = []
    given_up: set[int] = set()
    total = 0.0
    for time_s, work, rank in zip(left_s, works, ranks, strict=True):
        heappush(largest, rank)
        total += work
        limit = cores * time_s
        while total > limit and largest:
            index = ascending[-heappop(largest)]
            total -= works[index]
            given_up.add(index)
    return given_up


def share_out(claims: Sequence[Claim], cores: int, counts: Sequence[int]) -> int:
    """Give each claim in its turn what it wants, or what is left where that is no waste; return the rest.

    Who has a floor keeps that, whoever comes before.
    """
    for claim in claims:
        claim.given = claim.floor
        if claim.floor >= 0:
            cores -= counts[claim.floor]
    smallest = counts[0]
    for claim in claims:
        if cores < smallest:
            break
        has = counts[claim.given] if claim.given >= 0 else 0
        index = min(claim.wanted, bisect_right(counts, has + cores) - 1)
        if index > claim.given and (index == claim.wanted or _is_frugal(claim.prediction, index)):
            claim.given = index
            cores -= counts[index] - has
    return cores


def _is_frugal(prediction: Prediction, index: int) -> bool:
    return prediction.work[index] <= WASTE * min(prediction.work)


def grow(claims: Sequence[Claim], cores: int, counts: Sequence[int]) -> int:
    """Give cores that are to spare to those who have some; return what nobody gains by.

    The next step goes to whom it speeds up most for a core, in least times of the query a second.
    """
    growing = [claim for claim in claims if claim.given >= 0]
    while cores >= counts[0] and growing:
        best: Claim | None = None
        best_gain, best_index = 0.0, -1
        for claim in growing:
            index = _next_worthwhile(claim.prediction.seconds, claim.given)
            step = counts[index] - counts[claim.given] if index >= 0 else 0
            if not 0 < step <= cores:
                continue
            seconds = claim.prediction.seconds
            gain = claim.prediction.work[0] * (1 / seconds[index] - 1 / seconds[claim.given]) / step
            if gain > best_gain:
                best, best_gain, best_index = claim, gain, index
        if best is None:
            break
        cores -= counts[best_index] - counts[best.given]
        best.given = best_index
    return cores


def _next_worthwhile(seconds: Row, index: int) -> int:
    """Return the next count that saves enough of the time; -1 if there is none."""
    limit_s = seconds[index] * (1 - WORTHWHILE)
    for wider in range(index + 1, len(seconds)):
        if seconds[wider] < limit_s:
            return wider
    return -1
