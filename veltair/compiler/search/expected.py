"""How many candidates the search of a layer measures and about how long that takes, before it starts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from veltair.compiler.recipes.recipes import recipes
from veltair.compiler.search.schedules import MOST_SCHEDULES, count_schedules

# Least squares over the shipped records: what a structure takes beside its candidates, what a candidate takes
# that was written down before, what one that evolution finds, and how many runs of a kernel each costs.
STRUCTURE_S, WRITTEN_S, SEARCHED_S, RUNS = 1.2, 0.16, 0.6, 7.0
# Where few are measured and nothing is searched: few schedules are made, and it counts that workers start.
FEW_STRUCTURE_S, START_S = 0.35, 2.0
# Of candidates on one core, good and bad ones together.
MACS_PER_S = 2e10
# A layer without a sum has no more that evolution could find.
SEARCHED_COPIES = 3


@dataclass(frozen=True, slots=True)
class ExpectedSearch:
    """What is known of a layer's search: its recipes and schedules by hand, whether it sums, its MACs."""

    recipes: int
    schedules: int
    sums: bool
    macs: int

    def candidates(self, trials: int) -> int:
        """Return how many are measured where so many trials are asked for."""
        return self.recipes + self.schedules + self._searched(trials)

    def seconds(self, trials: int) -> float:
        """Return about how long that takes."""
        written = self.recipes + self.schedules
        return STRUCTURE_S + written * WRITTEN_S + self._searched(trials) * SEARCHED_S + self._runs_s(
            self.candidates(trials)
        )  # fmt: skip

    def few_seconds(self, few: int) -> float:
        """Return about how long `few` recipes and `few` schedules take, without a search."""
        count = max(1, min(few, self.recipes) + min(few, self.schedules))
        return FEW_STRUCTURE_S + count * WRITTEN_S + self._runs_s(count)

    def _searched(self, trials: int) -> int:
        left = max(0, trials - self.schedules)
        return left if self.sums else min(left, SEARCHED_COPIES)

    def _runs_s(self, count: int) -> float:
        return RUNS * count * self.macs / MACS_PER_S


def expected_search(function: Any, target: Any, macs: int) -> ExpectedSearch:
    """Return what the search of a layer will be on a target; nothing is built."""
    schedules, sums = count_schedules(function, target)
    try:
        count = len(recipes(function, target))
    except Exception:  # the search leaves out the recipes of such a layer, too
        count = 0
    return ExpectedSearch(count, min(schedules, MOST_SCHEDULES), sums, macs)


def total_s(searches: Iterable[ExpectedSearch], trials: int) -> float:
    """Return about how long some searches take one after the other."""
    return sum(one.seconds(trials) for one in searches)


def few_s(searches: Sequence[ExpectedSearch], few: int) -> float:
    """Return about how long it takes to measure `few` recipes and `few` schedules of each."""
    return START_S + sum(one.few_seconds(few) for one in searches) if searches else 0.0
