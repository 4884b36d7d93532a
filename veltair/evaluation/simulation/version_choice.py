"""What choosing versions by pressure gains on a machine, by its cost tables alone: no run, no seed.

A policy that follows the pressure cannot gain more than this: it knows the pressure exactly and at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import CostTable

SMALLEST = 0.02  # a gain of less than 2 % is not worth a second version
SHOWN_LAYERS = 3  # of each class


def policy_costs(tables: Tables) -> CostTable:
    """Return times in which pressure changes caches and bandwidth only: those at the clock of all cores."""
    return tables.costs if tables.busy_costs is None else tables.busy_costs


def choice_table(costs: CostTable) -> pd.DataFrame:
    """Return how often pressure changes which version of a layer is fastest, and what following it gains.

    One row a model, core count and pressure above 0; a count that leaves nobody any core has none. Columns:
    `model`, `cores`, `level`, `layers` (that have several versions), `changed` (of these, whose fastest
    version is another one than alone on the same cores), `gaining` (changed, and faster by `SMALLEST` or
    more), `gain_most` (of one layer), `gain` (of the whole model), `gain_over_solo` (the same over the
    versions that are fastest alone on any count of cores, as a policy of one version has them) and
    `slowdown` (the model in the versions that are fastest alone, at the level over alone). A gain is time
    kept ÷ time at best, less 1, both under the pressure.
    """
    return pd.DataFrame([row for name in costs.models for row in _choices(costs, name)])


def _choices(costs: CostTable, name: str) -> Iterator[dict[str, Any]]:
    of = costs.model(name)
    every = np.arange(len(of.seconds))
    for place, cores in _shared_counts(costs):
        alone_s = of.seconds[:, :, place, 0]
        several, fastest = np.isfinite(alone_s).sum(axis=1) > 1, alone_s.argmin(axis=1)
        for index, level in enumerate(costs.levels[1:], start=1):
            here_s = of.seconds[:, :, place, index]
            kept_s, least_s, solo_s = here_s[every, fastest], here_s.min(axis=1), here_s[every, of.solo]
            gains = kept_s / least_s - 1
            yield {
                "model": name,
                "cores": cores,
                "level": level,
                "layers": int(several.sum()),
                "changed": int((gains > 0).sum()),
                "gaining": int((gains >= SMALLEST).sum()),
                "gain_most": float(gains.max()),
                "gain": float(kept_s.sum() / least_s.sum() - 1),
                "gain_over_solo": float(solo_s.sum() / least_s.sum() - 1),
                "slowdown": float(kept_s.sum() / alone_s[every, fastest].sum()),
            }


def layer_table(tables: Tables, classes: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return the times of all versions of some layers of each class of models, by cores and pressure.

    Of each class there are the `SHOWN_LAYERS`, no two of one structure, that save the largest part of their
    model's time by another version under the highest pressure, on average over core counts. Columns:
    `workload`, `model`, `layer`, `name`, `saved` (that part), `version`, `parallelism`, `blocking_bytes`,
    `cores`, `level`, `seconds`.
    """
    rows = []
    for workload, models in classes.items():
        for saved, model, layer in _most_saving(tables, models):
            found = {"workload": workload, "model": model, "layer": layer, "saved": saved}
            rows += [{**found, **row} for row in _versions(tables, model, layer)]
    return pd.DataFrame(rows)


def _most_saving(tables: Tables, models: Sequence[str]) -> list[tuple[float, str, int]]:
    ranked = [
        (float(share), model, layer)
        for model in models
        for layer, share in enumerate(_saved_shares(policy_costs(tables), model))
    ]
    chosen: dict[str, tuple[float, str, int]] = {}
    for one in sorted(ranked, key=lambda one: (-one[0], *one[1:])):
        chosen.setdefault(tables.layers[one[1]][one[2]].structure, one)
    return list(chosen.values())[:SHOWN_LAYERS]


def _saved_shares(costs: CostTable, model: str) -> NDArray[np.float64]:
    """Return what part of a model's time each layer saves by another version, under the most pressure."""
    seconds = costs.model(model).seconds
    every, shares = np.arange(len(seconds)), []
    for place, _ in _shared_counts(costs):
        kept_s = seconds[every, seconds[:, :, place, 0].argmin(axis=1), place, -1]
        shares.append((kept_s - seconds[:, :, place, -1].min(axis=1)) / kept_s.sum())
    found: NDArray[np.float64] = np.mean(shares, axis=0)
    return found


def _versions(tables: Tables, model: str, layer: int) -> Iterator[dict[str, Any]]:
    costs, tilings = policy_costs(tables), tables.tilings[model][layer]
    seconds = costs.model(model).seconds[layer]
    keys = product(range(len(seconds)), _shared_counts(costs), enumerate(costs.levels))
    for version, (place, cores), (index, level) in keys:
        if np.isfinite(seconds[version, place, 0]):
            yield {
                "name": tables.layers[model][layer].name,
                "version": version,
                "parallelism": tilings[version].parallelism,
                "blocking_bytes": tilings[version].blocking_bytes,
                "cores": cores,
                "level": level,
                "seconds": float(seconds[version, place, index]),
            }


def _shared_counts(costs: CostTable) -> list[tuple[int, int]]:
    """Return place and number of the core counts beside which others can run."""
    return list(enumerate(costs.cores))[:-1] or [(0, costs.cores[0])]
