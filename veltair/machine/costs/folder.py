"""A machine's tables in one folder: what was profiled, of which layers, on which machine."""

import io
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from veltair.compiler.footprint.residency import Residency
from veltair.compiler.footprint.traffic import Tiling, curve
from veltair.compiler.frontend.model import Layer
from veltair.machine.costs.block_costs import BlockCosts, block_costs
from veltair.machine.costs.cost_model import (
    LayerCostModel,
    MachineCostModel,
    block_bytes_per_s,
    block_l3_bytes,
    predicted_seconds,
    spread_dram_bytes,
)
from veltair.machine.costs.cost_model_fit import ScaledLayer, compute_seconds, fit_cost_model
from veltair.machine.costs.disturbance import AWAY
from veltair.machine.costs.table import NO_REPEAT, CostTable
from veltair.machine.topology.described import format_machine, read_machine
from veltair.machine.topology.topology import Machine
from veltair.provenance import Provenance, write_atomically, write_parquet

COSTS = "costs.parquet"
LAYERS = "layers.parquet"
VERSIONS = "versions.parquet"
MACHINE = "machine.yaml"
BLOCKS = "block_costs.parquet"
BUSY = "busy_costs.parquet"
# Levels of a derived table; the formula is smooth in between.
DERIVED_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)

_LAYER = ["model", "layer", "name", "structure", "macs", "weight_bytes"]
_VERSION = ["model", "layer", "version"]
_TILING = ["parallelism", "blocking_bytes", "compulsory_bytes", "fetched_bytes"]
_RESIDENCY = [field.name for field in fields(Residency)]
Tilings = Mapping[str, tuple[tuple[Tiling, ...], ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """The layers and the tilings of their versions, by model, and what they cost on a machine.

    `cost_model` is the formula behind modelled costs, and `busy_costs` are these at the clock of all cores at
    work, whoever is; None where they were measured. `block_samples` are those of `block_costs.py`; None where
    blocks were not measured.
    """

    machine: Machine
    layers: Mapping[str, tuple[Layer, ...]]
    tilings: Tilings
    costs: CostTable
    cost_model: MachineCostModel | None = None
    block_samples: pd.DataFrame | None = None
    busy_costs: CostTable | None = None

    @property
    def is_resident(self) -> bool:
        """Whether it is known of all versions what they find in their networks."""
        tilings = (tiling for layers in self.tilings.values() for versions in layers for tiling in versions)
        return all(tiling.residency is not None for tiling in tilings)

    @property
    def block_costs(self) -> BlockCosts | None:
        """What the engine adds to the layers of a block; None where nobody measured it."""
        return None if self.block_samples is None else block_costs(self.block_samples)


def table_files(folder: Path) -> list[Path]:
    """Return the files of a folder of tables that results depend on."""
    others = (folder / name for name in (BLOCKS, BUSY))
    return [folder / COSTS, *(path for path in others if path.exists())]


def write_tables(folder: Path, tables: Tables, provenance: Provenance) -> None:
    """Write a folder of tables; the costs come last, so a folder with costs is whole."""
    layers = [
        (model, index, layer.name, layer.structure, layer.macs, layer.weight_bytes)
        for model, group in tables.layers.items()
        for index, layer in enumerate(group)
    ]
    versions = [
        (model, index, number, *(getattr(tiling, name) for name in _TILING))
        for model, group in tables.tilings.items()
        for index, tilings in enumerate(group)
        for number, tiling in enumerate(tilings)
    ]
    frame = pd.DataFrame(versions, columns=[*_VERSION, *_TILING])
    if tables.is_resident:
        frame = frame.assign(**_residency_columns(tables.tilings))
    if tables.cost_model is not None:
        frame = frame.assign(compute_s=_compute_times(tables.cost_model), combine=tables.cost_model.combine)
    write_atomically(
        {
            folder / LAYERS: _parquet(
                pd.DataFrame(layers, columns=_LAYER).astype({_LAYER[-1]: "Int64"})  # some may not be known
            ),
            folder / VERSIONS: _parquet(frame),
            folder / MACHINE: format_machine(tables.machine).encode(),
        }
    )
    if tables.block_samples is not None:
        write_parquet(folder / BLOCKS, tables.block_samples, provenance)
    if tables.busy_costs is not None:
        write_parquet(folder / BUSY, tables.busy_costs.repeats, provenance)
    write_parquet(folder / COSTS, tables.costs.repeats, provenance)


def read_tables(folder: Path) -> Tables:
    """Return the tables of a folder. Raises LookupError if one is missing or cannot be read."""
    try:
        return _read(folder)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise LookupError(
            f"the cost tables in {folder} cannot be read: {error}; rerun rule `profile`"
        ) from error


def _read(folder: Path) -> Tables:
    machine = read_machine(folder / MACHINE)
    layers = _read_layers(pd.read_parquet(folder / LAYERS))
    versions = pd.read_parquet(folder / VERSIONS)
    repeats = pd.read_parquet(folder / COSTS)
    blocks, busy = (
        pd.read_parquet(folder / name) if (folder / name).exists() else None for name in (BLOCKS, BUSY)
    )
    tilings = {
        str(model): tuple(_read_tilings(group) for _, group in rows.groupby("layer"))
        for model, rows in versions.groupby("model", sort=False)
    }
    costs = CostTable(repeats, machine.name)
    _check_same_layers(layers, tilings, costs)
    return Tables(
        machine,
        layers,
        tilings,
        costs,
        _read_cost_model(versions, tilings),
        blocks,
        None if busy is None else CostTable(busy, machine.name),
    )


def _check_same_layers(layers: Mapping[str, tuple[Layer, ...]], tilings: Tilings, costs: CostTable) -> None:
    """Raise ValueError unless layers, versions and costs are of the same models, each of as many layers.

    Tables need no versions where nobody asks what these move.
    """
    known = [
        {model: len(group) for model, group in layers.items()},
        {model: len(group) for model, group in tilings.items()},
        {model: len(costs.model(model).solo) for model in costs.models},
    ]
    if known[0] != known[2] or (tilings and known[0] != known[1]):
        raise ValueError(
            f"{LAYERS}, {VERSIONS} and {COSTS} are of unlike models: their layers are "
            f"{', '.join(map(str, known))}"
        )


def cells(tables: Tables) -> list[ScaledLayer]:
    """Return a cell for each version and core count that was measured alone, from medians over repeats.

    Raises LookupError for tables without times on one core.
    """
    alone = _median_alone(tables)
    solo = alone[alone["cores"] == 1].set_index(_VERSION)["seconds"].to_dict()
    return [
        ScaledLayer(
            row["model"],
            row["layer"],
            row["version"],
            tables.tilings[row["model"]][row["layer"]][row["version"]],
            tables.layers[row["model"]][row["layer"]].macs,
            solo[row["model"], row["layer"], row["version"]],
            row["cores"],
            row["seconds"],
        )
        for row in alone.to_dict("records")
        if (row["model"], row["layer"], row["version"]) in solo
    ]


def derive(host: Tables, machine: Machine) -> Tables:
    """Return modelled tables of a described machine, from those measured on another one.

    They are `predicted_seconds` of each version: its computing time is the measured one on a core there, net
    of its modelled memory time there, x (peak of a core there / peak of a core here, at the width of vectors
    that was run there). The exponent that combines both is fitted on the times measured on several cores. A
    block of c of C cores at pressure p gets the share max(1 - p, c / C) of the L3 and of the DRAM bandwidth,
    and c + p (C - c) cores are at work; in `busy_costs` all are, at any pressure. Level 0 is a model alone,
    one query after another. Repeats spread as they did there, and are kept on the fewest cores at level 0.
    Nothing measured on such a machine stands behind this: it is unvalidated.

    Raises LookupError for tables without times on one core.
    """
    measured = cells(host)
    exponent = fit_cost_model(measured, host.machine).exponent
    cost_model = machine_cost_model(host, measured, exponent, peak_ratio(host.machine, machine))
    alone = _alone(host)
    alone = alone[alone["cores"] == 1]
    once = alone.drop_duplicates(_VERSION).assign(repeat=NO_REPEAT, **{AWAY: nan})
    costs, busy_costs = (
        CostTable(pd.concat(parts, ignore_index=True), machine.name)
        for parts in (
            [_derived_repeats(alone, cost_model, machine), *_derived_parts(once, cost_model, machine)[1:]],
            _derived_parts(once, cost_model, with_clock_of_all(machine)),
        )
    )
    return Tables(machine, host.layers, host.tilings, costs, cost_model, busy_costs=busy_costs)


def with_clock_of_all(machine: Machine) -> Machine:
    """Return the machine as if its cores had the clock of all at work, whoever is."""
    return replace(machine, clock_factors=((1, 1.0),))


def peak_ratio(host: Machine, machine: Machine) -> float:
    """Return how much longer a core of a machine computes than one of the host, running the same kernels.

    Kernels of narrower vectors than a machine has reach that part of its peak. Kernels of wider ones cannot
    run there: their times count as if others reached the same part of the peak, see `derivation_notes`.
    """
    width = min(1.0, host.vector_bits / machine.vector_bits)
    return host.core_peak_flops / (machine.core_peak_flops * width)


def derivation_notes(host: Machine, machine: Machine) -> list[str]:
    """Return what a reader must know of tables derived from one machine for another."""
    notes = [f"every time of {machine.name} is modelled from times on one core of {host.name}"]
    if host.vector_bits > machine.vector_bits:
        notes.append(
            f"the kernels measured on {host.name} use vectors of up to {host.vector_bits} bits; "
            f"{machine.name} is described with {machine.vector_bits}, so that it may be unable to run them: "
            "times were scaled by the peak, as if kernels built for it reached the same part of its own"
        )
    if not (host.launch_s or host.join_s):
        notes.append(
            f"launch and join of {host.name} were not probed, so its times on several cores hold them unknown"
        )
    return notes


def machine_cost_model(
    host: Tables, measured: Sequence[ScaledLayer], exponent: float, ratio: float
) -> MachineCostModel:
    """Return the cost models of all versions of the host's tables, computing times multiplied by a ratio.

    Raises LookupError for a version that was not measured.
    """
    solo = {(cell.model, cell.layer, cell.version): cell for cell in measured}

    def cost_model(model: str, layer: int, version: int) -> LayerCostModel:
        cell = solo.get((model, layer, version))
        if cell is None:
            raise LookupError(
                f"version {version} of layer {layer} of {model} has no time on 1 core of "
                f"{host.machine.name}; rerun rule `profile`"
            )
        compute_s = compute_seconds(cell.tiling, cell.macs, cell.solo_s, host.machine, exponent)
        return LayerCostModel(ratio * compute_s, cell.tiling)

    return MachineCostModel(
        exponent,
        {
            model: tuple(
                tuple(cost_model(model, layer, version) for version in range(len(tilings)))
                for layer, tilings in enumerate(layers)
            )
            for model, layers in host.tilings.items()
        },
    )


def _alone(tables: Tables) -> pd.DataFrame:
    """Return the repeats at level 0. Raises LookupError if none is of one core."""
    alone = tables.costs.repeats
    alone = alone[alone["level"] == 0]
    if not (alone["cores"] == 1).any():
        raise LookupError(
            f"the tables of {tables.machine.name} have no times on 1 core; add 1 to `profile.cores` "
            "and rerun `profile`"
        )
    return alone


def _median_alone(tables: Tables) -> pd.DataFrame:
    return _alone(tables).groupby([*_VERSION, "cores"], sort=False)["seconds"].median().reset_index()


def _derived_parts(once: pd.DataFrame, cost_model: MachineCostModel, machine: Machine) -> list[pd.DataFrame]:
    """Return the rows of all core counts and levels, fewest and lowest first; `once` has a row a version."""
    rows = _indices(once, cost_model)
    return [
        _derived_part(once, rows, cost_model, machine, cores, level)
        for cores in machine.core_counts
        for level in DERIVED_LEVELS
        if level == 0 or cores < machine.cores
    ]


def _derived_repeats(alone: pd.DataFrame, cost_model: MachineCostModel, machine: Machine) -> pd.DataFrame:
    """Return the repeats, spread as they were around their median, on the fewest cores and alone.

    They would spread alike in all cells, so the first one alone holds them.
    """
    spread = alone["seconds"] / alone.groupby(_VERSION)["seconds"].transform("median")
    least = machine.core_counts[0]
    modelled = _derived_part(alone, _indices(alone, cost_model), cost_model, machine, least, 0.0)
    return modelled.assign(seconds=modelled["seconds"] * spread)


def _indices(rows: pd.DataFrame, cost_model: MachineCostModel) -> NDArray[np.intp]:
    """Return which of the cost model's versions each row is of."""
    keys = [key for key, _ in _versions(cost_model)]
    return pd.MultiIndex.from_tuples(keys).get_indexer(pd.MultiIndex.from_frame(rows[_VERSION]))


def _derived_part(
    alone: pd.DataFrame,
    rows: NDArray[np.intp],
    cost_model: MachineCostModel,
    machine: Machine,
    cores: int,
    level: float,
) -> pd.DataFrame:
    """Return the rows of a core count and a level; `rows` are as of `_indices`."""
    share = max(1.0 - level, cores / machine.cores)
    l3_bytes, bytes_per_s = block_l3_bytes(machine, cores, share), block_bytes_per_s(machine, cores, share)
    active = round(cores + level * (machine.cores - cores))
    models = [one for _, one in _versions(cost_model)]
    moved = [spread_dram_bytes(one.tiling, machine, cores, l3_bytes) for one in models]
    seconds = [
        predicted_seconds(one, cost_model, machine, cores, amount, bytes_per_s, active)
        for one, amount in zip(models, moved, strict=True)
    ]
    return alone.assign(
        cores=cores,
        level=level,
        seconds=np.array(seconds)[rows],
        traffic_bytes=np.array(moved)[rows],
        footprint_bytes=np.array([float(one.tiling.compulsory_bytes) for one in models])[rows],
    )


def _versions(cost_model: MachineCostModel) -> Iterator[tuple[tuple[str, int, int], LayerCostModel]]:
    """Yield model, layer and version of each cost model, and the cost model."""
    for model, layers in cost_model.layers.items():
        for layer, versions in enumerate(layers):
            for version, one in enumerate(versions):
                yield (model, layer, version), one


def _read_layers(rows: pd.DataFrame) -> Mapping[str, tuple[Layer, ...]]:
    """Return the layers of each model; tables of an earlier program do not know the bytes of weights."""
    noted = "weight_bytes" in rows.columns
    return {
        str(model): tuple(
            Layer(
                *(row["name"], row["structure"], row["macs"]),
                int(row["weight_bytes"]) if noted and not pd.isna(row["weight_bytes"]) else None,
            )
            for row in group.to_dict("records")
        )
        for model, group in rows.groupby("model", sort=False)
    }


def _residency_columns(tilings: Tilings) -> dict[str, pd.Series]:
    known = [tiling.residency for layers in tilings.values() for versions in layers for tiling in versions]
    return {name: pd.Series([getattr(one, name) for one in known]) for name in _RESIDENCY}


def _read_residency(row: Mapping[Hashable, Any]) -> Residency | None:
    """Return the residency of a version; tables of an earlier program have none."""
    if _RESIDENCY[0] not in row:
        return None
    return Residency(*(tuple(map(int, row[name])) for name in _RESIDENCY))


def _read_tilings(rows: pd.DataFrame) -> tuple[Tiling, ...]:
    return tuple(
        Tiling(
            row["parallelism"],
            row["blocking_bytes"],
            row["compulsory_bytes"],
            # Tables of an earlier program have no such column, or fewer caches.
            fetched_bytes=curve(tuple(map(int, row.get("fetched_bytes", ())))),
            residency=_read_residency(row),
        )
        for row in rows.sort_values("version").to_dict("records")
    )


def _compute_times(cost_model: MachineCostModel) -> list[float]:
    return [one.compute_s for _, one in _versions(cost_model)]


def _read_cost_model(versions: pd.DataFrame, tilings: Tilings) -> MachineCostModel | None:
    """Return the cost model of tables that were modelled; measured ones have no such columns."""
    if "compute_s" not in versions.columns:
        return None
    times = versions.set_index(_VERSION)["compute_s"].to_dict()
    layers = {
        model: tuple(
            tuple(
                LayerCostModel(times[model, layer, version], tiling) for version, tiling in enumerate(group)
            )
            for layer, group in enumerate(groups)
        )
        for model, groups in tilings.items()
    }
    return MachineCostModel(float(versions["combine"].iloc[0]), layers)


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()
