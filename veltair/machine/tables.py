"""A machine's tables in one folder: what was profiled, of which layers, on which machine."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import pandas as pd

from veltair.compiler.model import Layer
from veltair.compiler.tiling import Tiling, traffic_bytes
from veltair.machine.cost import CostTable
from veltair.machine.described import format_machine, read_machine
from veltair.machine.topology import Machine
from veltair.provenance import Provenance, write_atomically, write_parquet

COSTS = "costs.parquet"
LAYERS = "layers.parquet"
VERSIONS = "versions.parquet"
MACHINE = "machine.yaml"
# Levels of a derived table; the formula is smooth in between.
DERIVED_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)

Tilings = Mapping[str, tuple[tuple[Tiling, ...], ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """The layers and the tilings of their versions, by model, and what they cost on a machine."""

    machine: Machine
    layers: Mapping[str, tuple[Layer, ...]]
    tilings: Tilings
    costs: CostTable


def write_tables(folder: Path, tables: Tables, provenance: Provenance) -> None:
    """Write a folder of tables; the costs come last, so a folder with costs is whole."""
    layers = [
        (model, place, layer.name, layer.structure, layer.macs)
        for model, group in tables.layers.items()
        for place, layer in enumerate(group)
    ]
    versions = [
        (model, place, number, tiling.parallelism, tiling.blocking_bytes, tiling.compulsory_bytes)
        for model, group in tables.tilings.items()
        for place, tilings in enumerate(group)
        for number, tiling in enumerate(tilings)
    ]
    columns = ["model", "layer", "version", "parallelism", "blocking_bytes", "compulsory_bytes"]
    write_atomically(
        {
            folder / LAYERS: _parquet(
                pd.DataFrame(layers, columns=["model", "layer", "name", "structure", "macs"])
            ),
            folder / VERSIONS: _parquet(pd.DataFrame(versions, columns=columns)),
            folder / MACHINE: format_machine(tables.machine).encode(),
        }
    )
    write_parquet(folder / COSTS, tables.costs.repeats, provenance)


def read_tables(folder: Path) -> Tables:
    """Return the tables of a folder. Raises LookupError if one is missing or cannot be read."""
    try:
        machine = read_machine(folder / MACHINE)
        layers = pd.read_parquet(folder / LAYERS)
        versions = pd.read_parquet(folder / VERSIONS)
        repeats = pd.read_parquet(folder / COSTS)
    except (OSError, ValueError, KeyError) as error:
        raise LookupError(
            f"the cost tables in {folder} cannot be read: {error}; rerun rule `profile`"
        ) from error
    return Tables(
        machine,
        {
            str(model): tuple(
                Layer(row["name"], row["structure"], row["macs"]) for row in rows.to_dict("records")
            )
            for model, rows in layers.groupby("model", sort=False)
        },
        {
            str(model): tuple(_read_tilings(group) for _, group in rows.groupby("layer"))
            for model, rows in versions.groupby("model", sort=False)
        },
        CostTable(repeats, machine.name),
    )


def derive(host: Tables, machine: Machine) -> Tables:
    """Return modelled tables of a described machine, from those measured on another one.

    A layer takes the longer of computing and of moving its data:
        compute = time on one core there x (peak of a core there / peak of a core here)
                  x ceil(parallelism / cores) / parallelism
        memory  = traffic at its share of the L3 / its share of the DRAM bandwidth
    where a block of c of C cores at pressure p gets the share max(1 - p, c / C) of both. The time on one core
    includes its memory time there, so compute is an upper bound. Nothing measured on such a machine stands
    behind this: it is unvalidated.
    """
    alone = host.costs.repeats
    alone = alone[(alone["cores"] == 1) & (alone["level"] == 0)]
    if alone.empty:
        raise LookupError(
            f"the tables of {host.machine.name} have no times on 1 core; add 1 to `profile.cores` "
            "and rerun `profile`"
        )
    ratio = host.machine.core_peak_flops / machine.core_peak_flops
    parts = [
        _derived_part(alone, host.tilings, machine, ratio, cores, level)
        for cores in machine.core_counts
        for level in DERIVED_LEVELS
        if level == 0 or cores < machine.cores
    ]
    return Tables(
        machine, host.layers, host.tilings, CostTable(pd.concat(parts, ignore_index=True), machine.name)
    )


def _derived_part(
    alone: pd.DataFrame, tilings: Tilings, machine: Machine, ratio: float, cores: int, level: float
) -> pd.DataFrame:
    share = max(1.0 - level, cores / machine.cores)
    rounds: dict[tuple[str, int, int], float] = {}
    traffic: dict[tuple[str, int, int], float] = {}
    for model, layers in tilings.items():
        for layer, versions in enumerate(layers):
            for number, tiling in enumerate(versions):
                key = (model, layer, number)
                rounds[key] = ceil(tiling.parallelism / cores) / tiling.parallelism
                traffic[key] = traffic_bytes(tiling, cores, share * machine.total_l3_bytes)
    keys = list(zip(alone["model"], alone["layer"], alone["version"], strict=True))
    moved = np.array([traffic[key] for key in keys])
    compute_s = alone["seconds"].to_numpy() * ratio * np.array([rounds[key] for key in keys])
    memory_s = moved / (machine.dram_bytes_per_s * share)
    return alone.assign(
        cores=cores, level=level, seconds=np.maximum(compute_s, memory_s), traffic_bytes=moved
    )


def _read_tilings(rows: pd.DataFrame) -> tuple[Tiling, ...]:
    return tuple(
        Tiling(row["parallelism"], row["blocking_bytes"], row["compulsory_bytes"])
        for row in rows.sort_values("version").to_dict("records")
    )


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()
