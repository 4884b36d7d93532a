"""A machine's tables in one folder: what was profiled, of which layers, on which machine."""

import io
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from veltair.compiler.footprint.residency import Residency
from veltair.compiler.footprint.traffic import Tiling, curve
from veltair.compiler.frontend.model import Layer
from veltair.machine.costs.block_costs import BlockCosts, block_costs
from veltair.machine.costs.cost_model import (
    LayerCostModel,
    MachineCostModel,
)
from veltair.machine.costs.table import CostTable
from veltair.machine.topology.described import format_machine, read_machine
from veltair.machine.topology.topology import Machine
from veltair.provenance import Provenance, write_atomically, write_parquet

COSTS = "costs.parquet"
LAYERS = "layers.parquet"
VERSIONS = "versions.parquet"
MACHINE = "machine.yaml"
BLOCKS = "block_costs.parquet"
BUSY = "busy_costs.parquet"

_LAYER = ["model", "layer", "name", "structure", "macs", "weight_bytes"]
VERSION_KEY = ["model", "layer", "version"]
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
    frame = pd.DataFrame(versions, columns=[*VERSION_KEY, *_TILING])
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
    tilings = _read_tilings(versions)
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


def _read_tilings(versions: pd.DataFrame) -> Tilings:
    """Return the tilings of tables: models as they come, layers and versions by number."""
    found: dict[str, dict[int, dict[int, Tiling]]] = {}
    # All at once: a frame for each layer takes seconds.
    for row in versions.to_dict("records"):
        found.setdefault(str(row["model"]), {}).setdefault(row["layer"], {})[row["version"]] = _read_tiling(
            row
        )
    return {
        model: tuple(tuple(one for _, one in sorted(layers[layer].items())) for layer in sorted(layers))
        for model, layers in found.items()
    }


def _read_tiling(row: Mapping[Hashable, Any]) -> Tiling:
    return Tiling(
        row["parallelism"],
        row["blocking_bytes"],
        row["compulsory_bytes"],
        # Tables of an earlier program have no such column, or fewer caches.
        fetched_bytes=curve(tuple(map(int, row.get("fetched_bytes", ())))),
        residency=_read_residency(row),
    )


def _compute_times(cost_model: MachineCostModel) -> list[float]:
    return [one.compute_s for _, one in cost_model.versions()]


def _read_cost_model(versions: pd.DataFrame, tilings: Tilings) -> MachineCostModel | None:
    """Return the cost model of tables that were modelled; measured ones have no such columns."""
    if "compute_s" not in versions.columns:
        return None
    times = versions.set_index(VERSION_KEY)["compute_s"].to_dict()
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
