"""Layer blocks: QoS budgets, core needs, and which layers run together on one allocation.

Source: Liu et al., VELTAIR, ASPLOS 2022. The order of merging and the split of budgets among layers without
multiply-accumulates are decisions of ours, as the paper states neither.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from veltair.compiler.model import LayerBlock, Model
from veltair.serving.discipline import Proposal, round_down
from veltair.serving.policy import Context

# Sums of times and of budgets that are equal on paper differ in their last bits.
TOLERANCE = 1e-9

BudgetShare = Annotated[float, Field(gt=0, le=1)]
"""alpha: the share of the QoS target that budgets may use."""


class Reading(StrEnum):
    """Which times a policy reads from the cost tables."""

    SOLO_ALONE = "solo_alone"
    """The solo version without interference: blind to pressure."""
    SOLO_AT_LEVEL = "solo_at_level"
    """The solo version at the current pressure level."""
    FASTEST_AT_LEVEL = "fastest_at_level"
    """The version that is fastest at the current level on each core count."""


class Timetables:
    """What a policy expects each layer of each model to take, under its reading of the cost tables.

    `counts` are the core counts that can be granted, ascending: multiples of the core unit at which every
    layer of every model has a time. Levels are indices, from `level`. Raises ValueError if there is no count.
    """

    def __init__(self, context: Context, reading: Reading) -> None:
        self._costs = context.costs
        self._level_blind = reading is Reading.SOLO_ALONE
        unit, cores = context.machine.core_unit, context.machine.cores
        tables = {name: _read(context, name, reading) for name in context.models}
        grantable = [
            index
            for index, count in enumerate(context.costs.cores)
            if count % unit == 0
            and count <= cores
            and all(np.isfinite(seconds[..., index]).all() for seconds, _ in tables.values())
        ]
        if not grantable:
            raise ValueError(
                f"cost table of {context.costs.machine}: of its core counts {context.costs.cores} none is a "
                f"multiple of the core unit {unit}, within {cores} cores and profiled for each layer of "
                f"{', '.join(context.models)}; set `profile.cores` to such counts and rerun rule `profile`"
            )
        self.counts: tuple[int, ...] = tuple(context.costs.cores[index] for index in grantable)
        self._seconds = {name: seconds[..., grantable] for name, (seconds, _) in tables.items()}
        self._versions = {name: versions[..., grantable] for name, (_, versions) in tables.items()}
        self._remaining = {name: _suffix_sums(seconds) for name, seconds in self._seconds.items()}
        self._least = {name: left.min(axis=2).tolist() for name, left in self._remaining.items()}
        self._version_memo: dict[tuple[LayerBlock, int, int], tuple[int, ...]] = {}

    def level(self, pressure: float) -> int:
        """Return the level to read at a pressure in [0, 1]."""
        return 0 if self._level_blind else self._costs.level_index(pressure)

    def levels(self) -> range:
        """Return all levels."""
        return range(1 if self._level_blind else len(self._costs.levels))

    def seconds(self, model: str, level: int) -> NDArray[np.float64]:
        """Return seconds of a model's layers, shape (layers, core counts)."""
        seconds: NDArray[np.float64] = self._seconds[model][level]
        return seconds

    def remaining_s(self, model: str, level: int) -> NDArray[np.float64]:
        """Return seconds from each layer to the end of the model, shape (layers + 1, core counts)."""
        remaining: NDArray[np.float64] = self._remaining[model][level]
        return remaining

    def least_remaining_s(self, model: str, first: int, level: int) -> float:
        """Return seconds from layer `first` to the end on the core count that suits that best."""
        least: float = self._least[model][level][first]
        return least

    def best_cores(self, model: str, level: int) -> int:
        """Return the core count on which the whole model is fastest: not always the largest."""
        return self.counts[int(self._remaining[model][level][0].argmin())]

    def versions(self, block: LayerBlock, level: int, cores: int) -> tuple[int, ...]:
        """Return the version of each layer of a block on one of the core counts."""
        key = (block, level, cores)
        if key not in self._version_memo:
            table = self._versions[block.model][level, block.start : block.stop, self.counts.index(cores)]
            self._version_memo[key] = tuple(table.tolist())
        return self._version_memo[key]


@dataclass(frozen=True, slots=True)
class _Run:
    """Layers [start, stop) while blocks are formed: times by core count, budget, and core need."""

    start: int
    stop: int
    seconds: NDArray[np.float64]
    budget_s: float
    need: int

    def slack_s(self, index: int) -> float:
        """Return what its budget leaves on the core count at `index`."""
        return self.budget_s - float(self.seconds[index])


class BlockFormer:
    """Forms the blocks of each query's remaining layers and remembers them: microseconds once seen.

    `alpha` is the share of the QoS target that budgets may use.
    """

    def __init__(self, context: Context, tables: Timetables, alpha: BudgetShare) -> None:
        self._cores = context.machine.cores
        self._tables = tables
        self._budgets = {name: qos_budgets(model, context, alpha) for name, model in context.models.items()}
        self._averages = [
            {
                name: float(core_needs(tables.seconds(name, level), budgets, tables.counts).mean())
                for name, budgets in self._budgets.items()
            }
            for level in tables.levels()
        ]
        self._memo: dict[tuple[str, int, int, int], Proposal] = {}

    def average_cores(self, model: str, level: int) -> float:
        """Return Avg_C: the plain mean of the core needs of a model's single layers at a level."""
        return self._averages[level][model]

    def limits(self, active: Iterable[str], level: int) -> dict[str, int]:
        """Return each model's dynamic threshold: a block that needs more cores is merged away.

        `active` names the model of each query in the system, running or waiting.
        """
        averages, counts = self._averages[level], self._tables.counts
        # Above this sum each limit is the smallest count anyway: a long queue costs no more to look at.
        enough = self._cores * max(averages.values()) / counts[1] * (1 + 2 * TOLERANCE) if counts[1:] else 0.0
        total = 0.0
        for model in active:
            total += averages[model]
            if total > enough:
                break
        return {
            model: dynamic_limit(self._cores, average, total, counts) for model, average in averages.items()
        }

    def next_block(self, model: str, first: int, limit: int, level: int) -> Proposal:
        """Return the first of the blocks that layers [first, end) of a model form, and its core need."""
        key = (model, first, limit, level)
        if key not in self._memo:
            seconds, budgets = self._tables.seconds(model, level)[first:], self._budgets[model][first:]
            length, need = form_blocks(seconds, budgets, self._tables.counts, limit)[0]
            self._memo[key] = Proposal(LayerBlock(model, first, first + length), need)
        return self._memo[key]


def qos_budgets(model: Model, context: Context, alpha: BudgetShare) -> NDArray[np.float64]:
    """Return the seconds that each layer of a model may take, shape (layers,); they add up to alpha x QoS.

    A layer without multiply-accumulates (MACs) gets the part of alpha x QoS that its isolated time is of the
    model's (solo versions, no interference, on the core count on which the whole model is fastest). What
    those layers leave is split among the others by MACs.
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
    if macs.any():
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
    seconds: NDArray[np.float64], budgets_s: NDArray[np.float64], counts: Sequence[int], limit: int
) -> tuple[tuple[int, int], ...]:
    """Return the blocks that layers form, in order, as (number of layers, core need).

    Blocks begin as single layers. While one needs more than `limit` and there are two or more, the neediest
    (the first of equals) merges with the neighbour that has most slack on `limit` cores (of equals, the one
    that follows it). `seconds` has shape (layers, core counts); `limit` is one of the core counts.
    """
    at_limit = list(counts).index(limit)
    needs = core_needs(seconds, budgets_s, counts).tolist()
    runs = [
        _Run(layer, layer + 1, seconds[layer], float(budgets_s[layer]), need)
        for layer, need in enumerate(needs)
    ]
    while len(runs) > 1:
        neediest = max(range(len(runs)), key=lambda place: runs[place].need)
        if runs[neediest].need <= limit:
            break
        neighbours = [place for place in (neediest + 1, neediest - 1) if 0 <= place < len(runs)]
        roomiest = max(neighbours, key=lambda place: runs[place].slack_s(at_limit))
        left = min(neediest, roomiest)
        runs[left : left + 2] = [_merge(runs[left], runs[left + 1], counts)]
    return tuple((run.stop - run.start, run.need) for run in runs)


def _merge(left: _Run, right: _Run, counts: Sequence[int]) -> _Run:
    seconds, budget_s = left.seconds + right.seconds, left.budget_s + right.budget_s
    need = int(core_needs(seconds, budget_s, counts))
    return _Run(left.start, right.stop, seconds, budget_s, need)


def _read(context: Context, model: str, reading: Reading) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return seconds and versions, both of shape (levels, layers, profiled core counts)."""
    costs = context.costs.model(model)
    by_level = costs.seconds.transpose(3, 0, 1, 2)
    if reading is Reading.SOLO_ALONE:
        by_level = by_level[:1]
    if reading is Reading.FASTEST_AT_LEVEL:
        versions = by_level.argmin(axis=2)
    else:
        versions = np.broadcast_to(costs.solo[None, :, None], by_level[:, :, 0].shape)
    seconds = np.take_along_axis(by_level, versions[:, :, None], axis=2)[:, :, 0]
    return seconds, versions


def _suffix_sums(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sums over the layers from each one to the last, and 0 after it."""
    sums = seconds[:, ::-1].cumsum(axis=1)[:, ::-1]
    return np.concatenate([sums, np.zeros_like(sums[:, :1])], axis=1)
