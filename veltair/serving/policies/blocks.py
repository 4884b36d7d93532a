"""Layer blocks: QoS budgets, core needs, and which layers run together on one allocation.

Source: Liu et al., VELTAIR, ASPLOS 2022. The order of merging, the split of budgets among layers without
multiply-accumulates, slack feedback and coalescing are decisions of ours, as the paper states none of them.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from operator import add
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from veltair.compiler.frontend.model import LayerBlock, Model
from veltair.serving.loop.policy import Context
from veltair.serving.loop.query import Query
from veltair.serving.policies.discipline import Proposal, QueueOptions, round_down
from veltair.serving.policies.latency_tables import LatencyTables

# Sums of times and of budgets that are equal on paper differ in their last bits.
TOLERANCE = 1e-9

BudgetShare = Annotated[float, Field(gt=0, le=1)]
"""alpha: the share of the QoS target that budgets may use."""

CoalesceLayers = Annotated[int, Field(ge=1)]
"""How many layers neighbouring blocks of equal need may make up when they are merged; 1: never merged."""


class BudgetRule(StrEnum):
    """What becomes of a query's budgets while it is served."""

    STATIC = "static"
    """They stay as they are, however late the query is."""
    SLACK_FEEDBACK = "slack_feedback"
    """Those of the layers not yet started follow the time that is left."""


class BudgetBasis(StrEnum):
    """What the budgets of a query's layers are in proportion to."""

    MACS = "macs"
    """Their multiply-accumulates; layers without any share by their time alone."""
    TIME = "time"
    """Their time alone."""


class Threshold(StrEnum):
    """Whose average core needs share the machine when a model's dynamic threshold is computed."""

    ACTIVE_QUERIES = "active_queries"
    """Those of the queries in the system, running or waiting."""
    RUNNING_QUERIES = "running_queries"
    """Those of the queries that run, and of the one that is to start."""
    LOADED_MODELS = "loaded_models"
    """Those of all models served, each once: the threshold does not follow the load."""


@dataclass(frozen=True, slots=True)
class BlockOptions(QueueOptions):
    """Options of policies that form layer blocks; see `Budgets`, `BlockFormer` and `growth.fill`."""

    alpha: BudgetShare
    budgets: BudgetRule
    budget_basis: BudgetBasis
    threshold: Threshold
    coalesce_layers: CoalesceLayers
    growth: bool


# Eight steps an octave: a budget is rounded down by 4 % on average, and what was decided once is remembered.
SCALES = tuple(2.0 ** (step / 8) for step in range(-8, 17))
UNSCALED = SCALES.index(1.0)


class Budgets:
    """The seconds that each layer of a query may take, in all alpha x QoS.

    With slack feedback the budgets of the layers not yet started are multiplied, each time their blocks are
    formed, by alpha x (time to the deadline) / (their static sum), rounded down to one of `SCALES`. So they
    add up to a share alpha of the time that is left; but a late query never asks for more than twice its
    static speed (least scale 1/2: what is lost already must not take the cores of queries that can still be
    on time), and an early one not for less than a quarter of it (largest scale 4).
    """

    def __init__(
        self,
        context: Context,
        alpha: BudgetShare,
        rule: BudgetRule,
        basis: BudgetBasis = BudgetBasis.MACS,
    ) -> None:
        self._alpha = alpha
        self._follows_slack = rule is BudgetRule.SLACK_FEEDBACK
        self._static = {
            name: qos_budgets(model, context, alpha, basis) for name, model in context.models.items()
        }
        self._left = {name: budgets[::-1].cumsum()[::-1].tolist() for name, budgets in self._static.items()}

    @property
    def alpha(self) -> float:
        """The share of the QoS target that budgets may use."""
        return self._alpha

    @property
    def follows_slack(self) -> bool:
        """Whether budgets follow the time that is left."""
        return self._follows_slack

    def left_s(self, model: str) -> list[float]:
        """Return the static budgets of a model's layers from each one to the last."""
        left: list[float] = self._left[model]
        return left

    def step(self, query: Query, next_layer: int, time_s: float) -> int:
        """Return which of `SCALES` the budgets of a query's layers from `next_layer` on have now."""
        if not self._follows_slack:
            return UNSCALED
        left_s = self._alpha * (query.deadline_s - time_s)
        scale = left_s / self._left[query.model][next_layer]
        return max(bisect_right(SCALES, scale * (1 + TOLERANCE)) - 1, 0)

    def of(self, model: str, step: int = UNSCALED) -> NDArray[np.float64]:
        """Return the budgets of a model's layers at one of `SCALES`, shape (layers,)."""
        scaled: NDArray[np.float64] = self._static[model] * SCALES[step]
        return scaled


@dataclass(frozen=True, slots=True)
class _Layers:
    """A model at a level and a scale of budgets: times by core count, budget and need of each layer."""

    times: list[list[float]]
    budgets_s: list[float]
    needs: list[int]


class BlockFormer:
    """Forms the blocks of each query's remaining layers and remembers them: microseconds once seen."""

    def __init__(
        self,
        context: Context,
        tables: LatencyTables,
        budgets: Budgets,
        *,
        coalesce_layers: CoalesceLayers,
        threshold: Threshold,
    ) -> None:
        if coalesce_layers < 1:
            raise ValueError(f"coalesce_layers is {coalesce_layers}; give 1 (never merge) or more")
        self._cores = context.machine.cores
        self._tables = tables
        self._budgets = budgets
        self._coalesce_layers = coalesce_layers
        self._averages = [
            {
                name: float(core_needs(tables.seconds(name, level), budgets.of(name), tables.counts).mean())
                for name in context.models
            }
            for level in tables.levels()
        ]
        self._counts_waiting = threshold is not Threshold.RUNNING_QUERIES
        loaded = threshold is Threshold.LOADED_MODELS
        self._loaded = [sum(averages.values()) for averages in self._averages] if loaded else None
        self._enough = [self._enough_to_know(averages) for averages in self._averages]
        self._layers: dict[tuple[str, int, int], _Layers] = {}
        self._memo: dict[tuple[str, int, int, int, int], Proposal] = {}

    def average_cores(self, model: str, level: int) -> float:
        """Return Avg_C: the plain mean of the core needs of a model's single layers at a level."""
        return self._averages[level][model]

    @property
    def coalesce_layers(self) -> int:
        """How many layers neighbouring blocks of equal need may make up when they are merged."""
        return self._coalesce_layers

    @property
    def counts_waiting(self) -> bool:
        """Whether queries that wait are among those that share the machine."""
        return self._counts_waiting

    @property
    def loaded_averages(self) -> list[float] | None:
        """What `total_average` returns by level where it does not follow the load; None where it does."""
        return self._loaded

    @property
    def enough_averages(self) -> list[float]:
        """The sum by level beyond which `total_average` looks no further."""
        return self._enough

    def total_average(self, active: Iterable[str], level: int) -> float:
        """Return the sum of Avg_C that the machine is shared by.

        `active` names the model of each query in the system, those that wait only where `counts_waiting`. The
        sum ends early once every limit is the smallest count anyway: a long queue costs no more to look at.
        """
        if self._loaded is not None:
            return self._loaded[level]
        averages, enough, total = self._averages[level], self._enough[level], 0.0
        for model in active:
            total += averages[model]
            if total > enough:
                break
        return total

    def limit(self, model: str, total_average: float, level: int) -> int:
        """Return a model's dynamic threshold: a block that needs more cores is merged away."""
        average = self._averages[level][model]
        own = 0.0 if self._counts_waiting else average
        return dynamic_limit(self._cores, average, total_average + own, self._tables.counts)

    def next_block(self, model: str, first: int, limit: int, level: int, step: int = UNSCALED) -> Proposal:
        """Return the first of the blocks that layers [first, end) of a model form, and its core need.

        `step` is the index of the budgets' scale in `SCALES`.
        """
        key = (model, first, limit, level, step)
        proposal = self._memo.get(key)
        if proposal is None:
            proposal = self._memo[key] = self._first_block(model, first, limit, level, step)
        return proposal

    def _first_block(self, model: str, first: int, limit: int, level: int, step: int) -> Proposal:
        layers, counts = self._layers_at(model, level, step), self._tables.counts
        times, budgets_s = layers.times[first:], layers.budgets_s[first:]
        formed = form_blocks(times, budgets_s, counts, limit, layers.needs[first:])
        length, need = coalesce(formed, times, budgets_s, counts, self._coalesce_layers)
        return Proposal(LayerBlock(model, first, first + length), need)

    def _layers_at(self, model: str, level: int, step: int) -> _Layers:
        key = (model, level, step)
        if key not in self._layers:
            seconds, budgets_s = self._tables.seconds(model, level), self._budgets.of(model, step)
            needs = core_needs(seconds, budgets_s, self._tables.counts)
            self._layers[key] = _Layers(seconds.tolist(), budgets_s.tolist(), needs.tolist())
        return self._layers[key]

    def _enough_to_know(self, averages: Mapping[str, float]) -> float:
        counts = self._tables.counts
        return self._cores * max(averages.values()) / counts[1] * (1 + 2 * TOLERANCE) if counts[1:] else 0.0


def qos_budgets(
    model: Model, context: Context, alpha: BudgetShare, basis: BudgetBasis = BudgetBasis.MACS
) -> NDArray[np.float64]:
    """Return the seconds that each layer of a model may take, shape (layers,); they add up to alpha x QoS.

    By `MACS` a layer without multiply-accumulates (MACs) gets the part of alpha x QoS that its isolated time
    is of the model's (solo versions, no interference, on the core count on which the whole model is fastest).
    What those layers leave is split among the others by MACs. By `TIME` every layer gets its part so.
    """
    if not 0 < alpha <= 1:
        raise ValueError(
            f"alpha is {alpha}; give the share of the QoS target that budgets may use, in (0, 1]"
        )
    solo = context.costs.solo_seconds(model.name)
    if len(solo) != len(model.layers):
        raise ValueError(
            f"model {model.name} has {len(model.layers)} layers, its cost table on "
            f"{context.costs.machine} has {len(solo)}; rerun rule `profile`"
        )
    isolated = solo[:, solo.sum(axis=0).argmin()]
    macs = np.array([layer.macs for layer in model.layers], dtype=np.float64)
    shares = isolated / isolated.sum()
    if basis is BudgetBasis.MACS and macs.any():
        shares = np.where(macs == 0, shares, shares[macs > 0].sum() * macs / macs.sum())
    budgets: NDArray[np.float64] = alpha * model.qos_s * shares
    return budgets


def core_needs(
    seconds: NDArray[np.float64], budgets_s: NDArray[np.float64] | float, counts: Sequence[int]
) -> NDArray[np.int64]:
    """Return the fewest cores whose time is within the budget, else the count with the least time.

    `seconds` has shape (..., core counts), `budgets_s` and the result have shape (...). More cores are never
    assumed to be faster: each count is looked at on its own.
    """
    within = seconds <= np.asarray(budgets_s)[..., None] * (1 + TOLERANCE)
    index = np.where(within.any(axis=-1), within.argmax(axis=-1), seconds.argmin(axis=-1))
    needs: NDArray[np.int64] = np.asarray(counts, dtype=np.int64)[index]
    return needs


def dynamic_limit(cores: int, average: float, total_average: float, counts: Sequence[int]) -> int:
    """Return cores x Avg_C(m) / (sum of Avg_C over active queries), rounded down to one of the core counts.

    It is at least the smallest count; without active queries it is the largest.
    """
    if total_average <= 0:
        return counts[-1]
    return max(round_down(cores * average / total_average * (1 + TOLERANCE), counts), counts[0])


def form_blocks(
    times: Sequence[Sequence[float]],
    budgets_s: Sequence[float],
    counts: Sequence[int],
    limit: int,
    needs: Sequence[int] | None = None,
) -> list[tuple[int, int]]:
    """Return the blocks that layers form, in order, as (number of layers, core need).

    Blocks begin as single layers. While one needs more than `limit` and there are two or more, the neediest
    (the first of equals) merges with the neighbour that has most slack on `limit` cores (of equals, the one
    that follows it). `times` has one row by core count for each layer; `limit` is one of the core counts;
    `needs`, of the single layers, are worked out where they are not given.
    """
    at_limit = counts.index(limit)
    lengths, rows, budgets = [1] * len(times), list(times), list(budgets_s)
    needs = (
        [_need(row, budget, counts) for row, budget in zip(rows, budgets, strict=True)]
        if needs is None
        else list(needs)
    )
    while len(needs) > 1 and (most := max(needs)) > limit:
        left = needs.index(most)
        if left + 1 == len(needs) or (
            left and _slack(rows, budgets, left - 1, at_limit) > _slack(rows, budgets, left + 1, at_limit)
        ):
            left -= 1
        lengths[left : left + 2] = [lengths[left] + lengths[left + 1]]
        rows[left : left + 2] = [list(map(add, rows[left], rows[left + 1]))]
        budgets[left : left + 2] = [budgets[left] + budgets[left + 1]]
        needs[left : left + 2] = [_need(rows[left], budgets[left], counts)]
    return list(zip(lengths, needs, strict=True))


def coalesce(
    blocks: Sequence[tuple[int, int]],
    times: Sequence[Sequence[float]],
    budgets_s: Sequence[float],
    counts: Sequence[int],
    most_layers: int,
) -> tuple[int, int]:
    """Return the first of the blocks after neighbours of equal need have merged into it.

    It takes in the block that follows as long as that one needs as many cores as it did itself, and both
    together have at most `most_layers` layers. The need stays what it was: on fewer cores each of them
    exceeds its budget, on so many each keeps to it. Only where layers exceed their budgets on every count it
    may change, and where it would grow nothing merges. `times` and `budgets_s` have an entry for each layer.
    """
    length, need = blocks[0]
    for more, next_need in blocks[1:]:
        if next_need != need or length + more > most_layers:
            break
        length += more
    if length == blocks[0][0]:
        return length, need
    # Plain sums, one after the other: `sum` compensates rounding on some versions of Python.
    merged = _need(
        [reduce(add, column) for column in zip(*times[:length], strict=True)],
        reduce(add, budgets_s[:length]),
        counts,
    )
    return (length, merged) if merged <= need else blocks[0]


def _need(times: Sequence[float], budget_s: float, counts: Sequence[int]) -> int:
    """Return the core need of one block, as `core_needs` does of many."""
    bound_s = budget_s * (1 + TOLERANCE)
    for count, time in zip(counts, times, strict=True):
        if time <= bound_s:
            return count
    return counts[times.index(min(times))]


def _slack(
    rows: Sequence[Sequence[float]], budgets_s: Sequence[float], position: int, at_limit: int
) -> float:
    return budgets_s[position] - rows[position][at_limit]
