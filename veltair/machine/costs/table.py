"""Cost tables: how long each version of each layer takes, by cores and pressure level."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from veltair.machine.costs.disturbance import KeptRepeats, away_shares, noise_factors

KEY = ("model", "layer", "version", "cores", "level", "repeat")
COLUMNS = (*KEY, "seconds", "traffic_bytes", "footprint_bytes")
MOST_BYTES = 1e18  # that a layer moves: what is more was not measured
_WHOLE = ("layer", "version", "cores", "repeat")
NO_REPEAT = -1  # in `repeat`, of a row that is a modelled time: it is its cell's, and no noise

_RANGES = {
    "layer": (0, 2**16),
    "version": (0, 2**8),
    "cores": (1, 2**16),
    "level": (0.0, 1.0),
    "repeat": (NO_REPEAT, 2**31),
    "traffic_bytes": (0.0, MOST_BYTES),
    "footprint_bytes": (0.0, MOST_BYTES),
}


@dataclass(frozen=True)
class ModelCosts:
    """The costs of one model.

    `seconds` and `traffic_bytes` have shape (layers, versions, core counts, levels): the median over
    repeats; a version that a layer does not have is infinite. `noise` holds repeats divided by their cell's
    median, flat: the spread of service times around the table. `footprint_bytes` has shape (layers,
    versions). `solo` has shape (layers,): the version that is fastest alone, over all core counts.
    """

    seconds: NDArray[np.float64]
    traffic_bytes: NDArray[np.float64]
    footprint_bytes: NDArray[np.float64]
    noise: NDArray[np.float64]
    solo: NDArray[np.int64]


class CostTable:
    """Seconds and traffic by layer, version, cores and pressure level, made from a table of repeats.

    `cores` are the profiled core counts and `levels` the profiled pressures, both ascending, levels[0] = 0.
    `machine` names the machine the table belongs to. `kept` says which repeats count as noise.
    """

    def __init__(self, repeats: pd.DataFrame, machine: str, kept: KeptRepeats = "all") -> None:
        """Index the repeats: one row each, with the columns of `COLUMNS`, and `AWAY` where it was noted.

        A row at level 0 is required wherever a version was profiled. A missing higher level reads as the
        nearest lower one (a block on all cores has no co-runner). Raises ValueError on missing columns, on
        non-positive or NaN seconds, a bad `AWAY`, or on a hole at level 0.
        """
        missing = [column for column in COLUMNS if column not in repeats.columns]
        if missing:
            raise ValueError(f"cost table of {machine}: columns {missing} are missing")
        if repeats.empty:
            raise ValueError(f"cost table of {machine} is empty; rerun rule `profile`")
        _check_numbers(repeats, machine)
        bad = ~(repeats["seconds"] > 0) | ~np.isfinite(repeats["seconds"])
        if bad.any():
            row = repeats[bad].iloc[0]
            raise ValueError(
                f"cost table of {machine}: layer {row['layer']} of {row['model']} takes {row['seconds']} s; "
                "times are positive: rerun rule `profile`"
            )
        self.machine = machine
        self.repeats = repeats
        self.kept = kept
        self.cores: tuple[int, ...] = tuple(int(c) for c in sorted(repeats["cores"].unique()))
        self.levels: tuple[float, ...] = tuple(float(p) for p in sorted(repeats["level"].unique()))
        if self.levels[0] != 0.0:
            raise ValueError(f"cost table of {machine}: no level 0; profile each version alone first")
        self._core_index = {cores: index for index, cores in enumerate(self.cores)}
        self._factors: dict[str, NDArray[np.float64]] = {}
        self._away: dict[str, NDArray[np.float64]] = {}
        self._models = {
            str(name): self._index_model(str(name), rows)
            for name, rows in repeats.groupby("model", sort=False)
        }

    def _index_model(self, name: str, rows: pd.DataFrame) -> ModelCosts:
        layers, versions = int(rows["layer"].max()) + 1, int(rows["version"].max()) + 1
        if rows["layer"].nunique() < layers:
            hole_at = min(set(range(layers)).difference(rows["layer"]))
            raise ValueError(
                f"cost table of {self.machine}: layer {hole_at} of {name} has no row at level 0; rerun "
                "rule `profile`"
            )
        shape = (layers, versions, len(self.cores), len(self.levels))
        index = (
            rows["layer"].to_numpy(),
            rows["version"].to_numpy(),
            np.searchsorted(self.cores, rows["cores"].to_numpy()),
            np.searchsorted(self.levels, rows["level"].to_numpy()),
        )
        cell = pd.Series(np.ravel_multi_index(index, shape), index=rows.index)
        medians = rows.groupby(cell)[["seconds", "traffic_bytes"]].median()
        seconds = np.full(shape, np.nan)
        traffic = np.full(shape, np.nan)
        seconds.ravel()[medians.index] = medians["seconds"]
        traffic.ravel()[medians.index] = medians["traffic_bytes"]
        pressed_only = np.isnan(seconds[..., 0]) & ~np.isnan(seconds).all(axis=3)
        if pressed_only.any():
            layer, version, position = (int(index) for index in np.argwhere(pressed_only)[0])
            raise ValueError(
                f"cost table of {self.machine}: version {version} of layer {layer} of {name} on "
                f"{self.cores[position]} cores has no row at level 0; rerun rule `profile`"
            )
        repeated = (rows["repeat"] != NO_REPEAT).to_numpy()
        factors = (rows["seconds"] / cell.map(medians["seconds"])).to_numpy(dtype=np.float64)
        # Where all is modelled and nothing repeated, there is no noise.
        self._factors[name] = factors[repeated] if repeated.any() else np.ones(1)
        self._away[name] = away_shares(rows)[repeated] if repeated.any() else np.zeros(1)
        for level in range(1, shape[3]):
            for values in (seconds, traffic):
                hole = np.isnan(values[..., level])
                values[..., level][hole] = values[..., level - 1][hole]
        footprint = np.zeros(shape[:2])
        footprint[index[0], index[1]] = rows["footprint_bytes"].to_numpy()
        seconds[np.isnan(seconds)] = np.inf
        traffic[np.isnan(traffic)] = 0.0
        alone = seconds[..., 0].min(axis=2)
        if not np.isfinite(alone.min(axis=1)).all():
            hole_at = int(np.flatnonzero(~np.isfinite(alone.min(axis=1)))[0])
            raise ValueError(
                f"cost table of {self.machine}: layer {hole_at} of {name} has no row at level 0; "
                "rerun rule `profile`"
            )
        return ModelCosts(seconds, traffic, footprint, self._noise(name), alone.argmin(axis=1))

    def _noise(self, name: str) -> NDArray[np.float64]:
        return noise_factors(self._factors[name], self._away[name], self.kept)

    @cached_property
    def models(self) -> tuple[str, ...]:
        """The models it covers."""
        return tuple(self._models)

    def model(self, name: str) -> ModelCosts:
        """Return the costs of a model. Raises LookupError if it was not profiled."""
        try:
            return self._models[name]
        except KeyError:
            raise LookupError(
                f"model {name} was not profiled on {self.machine} (the table has {', '.join(self._models)}); "
                "add it to `models` and rerun rule `profile`"
            ) from None

    def core_index(self, cores: int) -> int:
        """Return the place of a core count in the table. Raises LookupError if it was not profiled."""
        try:
            return self._core_index[cores]
        except KeyError:
            raise LookupError(
                f"{cores} cores were not profiled on {self.machine} (the table has {self.cores}); "
                f"add {cores} to `profile.cores` and rerun rule `profile`"
            ) from None

    def solo_seconds(self, name: str, level: int = 0) -> NDArray[np.float64]:
        """Return seconds of the solo versions, shape (layers, core counts), at a level index."""
        costs = self.model(name)
        return costs.seconds[np.arange(len(costs.solo)), costs.solo, :, level]

    def isolated_latency_s(self, name: str) -> float:
        """Return the least time of a query alone: the solo versions on the core count that suits best."""
        return float(self.solo_seconds(name).sum(axis=0).min())

    def with_noise(self, kept: KeptRepeats) -> "CostTable":
        """Return the same table with other repeats as noise."""
        table = copy(self)
        table.kept = kept
        table._models = {
            name: replace(costs, noise=table._noise(name)) for name, costs in self._models.items()
        }
        return table

    def stretched(self, factors: Sequence[float]) -> "CostTable":
        """Return the table with all times on each of the core counts multiplied by its factor."""
        table, by_cores = copy(self), np.asarray(factors, dtype=np.float64)
        column = by_cores[np.searchsorted(self.cores, self.repeats["cores"].to_numpy())]
        table.repeats = self.repeats.assign(seconds=self.repeats["seconds"] * column)
        table._models = {
            name: replace(costs, seconds=costs.seconds * by_cores[:, None])
            for name, costs in self._models.items()
        }
        return table

    @classmethod
    def joined(cls, tables: Mapping[str, "CostTable"]) -> "CostTable":
        """Return tables of one model each as one, the models under the names that are given.

        Nothing is indexed anew. Raises ValueError where there is none, one has several models, or they are of
        different machines, core counts or levels.
        """
        if not tables:
            raise ValueError("no cost tables to join; give one at least")
        table = copy(first := next(iter(tables.values())))
        for name, one in tables.items():
            if len(one._models) != 1:
                raise ValueError(
                    f"the cost table for {name} is of {', '.join(one._models)}; give one model's"
                )
            if (one.machine, one.cores, one.levels) != (first.machine, first.cores, first.levels):
                raise ValueError(
                    f"the cost table for {name} is of {one.machine}, cores {one.cores}, levels {one.levels}; "
                    f"another is of {first.machine}, cores {first.cores}, levels {first.levels}: profile "
                    "both alike"
                )
        parts = {name: next(iter(one._models)) for name, one in tables.items()}
        table._models = {name: tables[name]._models[part] for name, part in parts.items()}
        table._factors = {name: tables[name]._factors[part] for name, part in parts.items()}
        table._away = {name: tables[name]._away[part] for name, part in parts.items()}
        table.repeats = pd.concat(
            [tables[name].repeats.assign(model=name) for name in tables], ignore_index=True
        )
        table.__dict__.pop("models", None)  # cached, of the first
        return table

    def select(self, models: Sequence[str]) -> "CostTable":
        """Return the table of some of the models only."""
        for name in models:
            self.model(name)
        return CostTable(self.repeats[self.repeats["model"].isin(models)], self.machine, self.kept)


def _check_numbers(repeats: pd.DataFrame, machine: str) -> None:
    """Raise ValueError for a column of other numbers than it may have."""
    for column in ("seconds", *_RANGES):
        if not is_numeric_dtype(repeats[column]) or is_bool_dtype(repeats[column]):
            raise ValueError(f"cost table of {machine}: {column} has no numbers; rerun rule `profile`")
    for column, (least, most) in _RANGES.items():
        values = repeats[column]
        is_whole = column not in _WHOLE or (values % 1 == 0).all()
        if not (is_whole and values.between(least, most).all()):
            kind = "a whole number" if column in _WHOLE else "a number"
            raise ValueError(
                f"cost table of {machine}: {column} is not {kind} from {least} to {most} in all rows; rerun "
                "rule `profile`"
            )
