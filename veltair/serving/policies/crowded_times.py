"""What a query still takes on a crowded machine, and how crowded it has proved to be.

A block that is timed alone has all of the cache and of the bandwidth, at the clock of a quiet machine. In
company a layer takes longer by a part of what the most pressure adds: the *crowding*, one number from 0 to 1
for all models, learned from the blocks that were watched. It begins at 1, the cautious end. On all cores
nobody else runs, so nothing is added there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from veltair.serving.loop.policy import Context
from veltair.serving.policies.latency_tables import LatencyTables, Row

# The part of what was learned that is left after the next observation: it is gone after some hundred.
FADING = 0.98
# Predictions follow the crowding in steps, so that most of them are known when they are asked for.
STEPS = 32


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a query takes from a layer to its end: `seconds` and `work`, in core-seconds, by core count.

    `least_s` is the least of the first. `efficient` is the index of the widest count whose work is at most
    `1 + tolerance` of the least: on fewer cores it would take longer and save next to nothing.
    """

    seconds: Row
    work: Row
    least_s: float
    efficient: int


def predict(seconds: Row, counts: Sequence[int], tolerance: float) -> Prediction:
    """Return the prediction of a query that takes `seconds`, by core count; see `Prediction`."""
    work = tuple(count * time_s for count, time_s in zip(counts, seconds, strict=True))
    bound = min(work) * (1 + tolerance)
    efficient = max(index for index, core_s in enumerate(work) if core_s <= bound)
    return Prediction(seconds, work, min(seconds), efficient)


class Crowding:
    """How much of what the most pressure adds to layers was really added, from 0 to 1.

    The ratio of two sums over what was watched: seconds beyond those alone, and seconds that the
    most pressure adds to those. Both fade. They begin equal, at `prior_s`.
    """

    def __init__(self, prior_s: float) -> None:
        self._added_s = self._most_s = prior_s
        self.value = 1.0

    def learn(self, added_s: float, most_s: float) -> None:
        """Take into account what was added to some layers, and what the most pressure adds to them."""
        self._added_s = FADING * self._added_s + added_s
        self._most_s = FADING * self._most_s + most_s
        if self._most_s <= 0:
            return
        value = min(1.0, max(0.0, self._added_s / self._most_s))
        # Whole steps away only, or a value between two of them would go to and fro.
        if abs(value - self.value) * STEPS >= 1:
            self.value = round(value * STEPS) / STEPS


class CrowdedTimes:
    """Predictions for all queries of a run.

    `tolerance` is that of `predict`. Without `learns` the crowding stays 1.
    """

    def __init__(self, context: Context, tables: LatencyTables, *, tolerance: float, learns: bool) -> None:
        self._counts, self._tolerance, self._learns = tables.counts, tolerance, learns
        self._quiet: dict[str, list[Row]] = {}
        self._added: dict[str, list[Row]] = {}
        top = tables.levels()[-1]
        for name, model in context.models.items():
            firsts = range(len(model.layers) + 1)
            quiet = [tables.remaining_s(name, first, 0) for first in firsts]
            crowded = [tables.remaining_s(name, first, top) for first in firsts]
            self._quiet[name] = quiet
            self._added[name] = [_excess(more, less) for more, less in zip(crowded, quiet, strict=True)]
        self._index = {count: index for index, count in enumerate(tables.counts)}
        # As if one query of a mean model had met the most pressure.
        self.crowding = Crowding(mean(max(rows[0]) for rows in self._quiet.values()))
        self._known: dict[tuple[str, int], Prediction] = {}
        self._known_at = self.crowding.value

    def __call__(self, model: str, first: int) -> Prediction:
        """Return what a query of a model takes from layer `first` to its end."""
        crowding = self.crowding.value
        if crowding != self._known_at:
            self._known.clear()
            self._known_at = crowding
        prediction = self._known.get((model, first))
        if prediction is None:
            parts = zip(self._quiet[model][first], self._added[model][first], strict=True)
            seconds = tuple(quiet + crowding * added for quiet, added in parts)
            prediction = predict(seconds, self._counts, self._tolerance)
            self._known[model, first] = prediction
        return prediction

    def learn(self, model: str, first: int, stop: int, cores: int, seconds: float) -> None:
        """Take into account that layers [first, stop) took so long on so many cores."""
        if not self._learns or stop <= first:
            return
        index, quiet, added = self._index[cores], self._quiet[model], self._added[model]
        quiet_s = quiet[first][index] - quiet[stop][index]
        most_s = added[first][index] - added[stop][index]
        # Where the most pressure adds many times a layer's time, one block would else outweigh all others.
        weight = quiet_s / (quiet_s + most_s) if quiet_s > 0 else 0.0
        self.crowding.learn(weight * (seconds - quiet_s), weight * most_s)


def _excess(more: Row, less: Row) -> Row:
    return tuple(max(0.0, one - other) for one, other in zip(more, less, strict=True))
