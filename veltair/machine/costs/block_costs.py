"""What a block costs beside its kernels: seconds to start it, and to change its cores."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from math import inf, isfinite
from pathlib import Path
from statistics import mean

import numpy as np
import pandas as pd

from veltair.data import shipped

# Kinds of samples; `first_layer` is what the first layer of a block takes longer than within one.
START, FIRST_LAYER, GRANT, SHRINK, GROW, YIELD = "start", "first_layer", "grant", "shrink", "grow", "yield"
COLUMNS = ("cost", "model", "cores", "sample", "seconds")


@dataclass(frozen=True, slots=True)
class BlockCosts:
    """Seconds that a block costs beside its kernels: as measured on the engine, as charged by the simulator.

    `starts_s` is `start_s` of each model that was measured: their first layers find caches unlike cold.

    `start_s` is from the event that lets a block start to its first layer, and what this layer takes longer
    for it. `grant_s` is from the event that a decision follows to a running block's knowing of its new cores,
    `resize_s` what their adoption adds to the next layer, `join_s` what it adds on top if cores join. Of a
    yield a block knows after `grant_s`, too; `yield_s` is how much longer than its layer it holds its cores.

    `decision_s` is how long a decision about an event takes, during which the next one waits: what follows
    from it begins after that.

    `oversubscription` has points (threads a core, ascending; how much longer layers then take than on an
    equal part of the core), linear in between and constant after the last; without any, sharing is free.
    """

    start_s: float = 0.0
    resize_s: float = 0.0
    grant_s: float = 0.0
    join_s: float = 0.0
    yield_s: float = 0.0
    starts_s: Mapping[str, float] = field(default_factory=dict)
    decision_s: float = 0.0
    oversubscription: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        costs = {
            name: getattr(self, name)
            for name in ("start_s", "resize_s", "grant_s", "join_s", "yield_s", "decision_s")
        }
        costs |= {f"starts_s of {model}": start_s for model, start_s in self.starts_s.items()}
        for name, value in costs.items():
            if not (value >= 0 and isfinite(value)):
                raise ValueError(f"BlockCosts: {name} is {value}; give a finite number of seconds, 0 or more")
        threads = [point[0] for point in self.oversubscription]
        longer = [point[1] for point in self.oversubscription]
        if threads != sorted(set(threads)) or not all(1 <= one < inf for one in (*threads, *longer)):
            raise ValueError(
                f"BlockCosts: oversubscription is {self.oversubscription}; give threads a core from 1 on, "
                "ascending, and with each how much longer layers take, 1 or more"
            )

    def start_of(self, model: str) -> float:
        """Return what a start of a block of a model costs."""
        return self.starts_s.get(model, self.start_s)

    def stretch(self, threads: int, cores: int) -> float:
        """Return how many times as long layers take if so many threads take turns on some cores."""
        a_core = threads / cores
        if a_core <= 1:
            return 1.0
        if not self.oversubscription:
            return a_core
        points, longer = zip(*self.oversubscription, strict=True)
        return a_core * float(np.interp(a_core, points, longer))


FREE = BlockCosts()
"""A block costs nothing but its kernels."""

# Of the engine whose loop is in C, on the machine that its provenance names: rule `native_block_costs`.
RECORDED = shipped("engine") / "block_costs.parquet"


@cache
def recorded_block_costs(path: Path = RECORDED) -> BlockCosts:
    """Return what blocks were measured to cost where nobody measured them: of described machines.

    Raises LookupError if there is no such record.
    """
    try:
        return block_costs(pd.read_parquet(path))
    except OSError as error:
        raise LookupError(
            f"what blocks cost was not recorded in {path} ({error}); run rule `native_block_costs` and copy "
            "its result there, or give numbers for `simulated.*_cost_us`"
        ) from error


def block_costs(samples: pd.DataFrame) -> BlockCosts:
    """Return the costs that samples amount to: the mean over models and core counts of the medians.

    `samples` has `COLUMNS`; what is below 0 is noise, and counts as 0. Changes of cores cost nothing where
    none was measured (on one core), nor do yields (in older samples). Raises LookupError without a sample of
    a start.
    """
    medians = samples.groupby(["cost", "model", "cores"])["seconds"].median()
    means = {str(cost): mean(group) for cost, group in medians.groupby(level="cost")}
    if START not in means:
        raise LookupError("no start of a block was measured; rerun rule `profile`")
    resize_s = max(0.0, means.get(SHRINK, 0.0))
    by_model = medians.groupby(level=["cost", "model"]).mean()
    return BlockCosts(
        start_s=max(0.0, means[START]) + max(0.0, means.get(FIRST_LAYER, 0.0)),
        resize_s=resize_s,
        grant_s=max(0.0, means.get(GRANT, 0.0)),
        join_s=max(0.0, means.get(GROW, 0.0) - resize_s),
        yield_s=max(0.0, means.get(YIELD, 0.0)),
        starts_s={
            str(model): max(0.0, float(seconds)) + max(0.0, float(by_model.get((FIRST_LAYER, model), 0.0)))
            for model, seconds in by_model[START].items()
        },
    )
