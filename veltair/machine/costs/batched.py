"""Cost tables of versions that serve several queries at once: described by the roofline law, not measured."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from veltair.compiler.footprint.batched import batched
from veltair.compiler.frontend.model import Layer
from veltair.machine.costs.cost_model import (
    LayerCostModel,
    MachineCostModel,
    block_bytes_per_s,
    block_l3_bytes,
    predicted_seconds,
    spread_dram_bytes,
)
from veltair.machine.costs.cost_model_fit import fit_cost_model
from veltair.machine.costs.derivation import cells, machine_cost_model, with_clock_of_all
from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import CostTable
from veltair.machine.topology.topology import Machine

_CELL = ["layer", "version", "cores", "level"]


def batched_name(model: str, queries: int) -> str:
    """Return what a model is called in tables where it serves several queries at once."""
    return f"{model} x{queries}"


def with_batches(tables: Tables, batches: Mapping[str, Sequence[int]]) -> Tables:
    """Return tables that also have some models for several queries at once; `batches` are numbers of queries.

    A version for b queries computes b times as much in b times as many parallel iterations, and moves what
    `batched` says of its tiling. On a described machine its time is that of the cost model, elsewhere that
    measured of one query, times what the cost model fitted there makes of both. Repeats spread alike. Raises
    LookupError for tables that do not say how many bytes of weights a layer has.
    """
    named = [(model, queries) for model, sizes in batches.items() for queries in sizes if queries > 1]
    if not named:
        return tables
    law, layers, tilings = _law_of(tables), dict(tables.layers), dict(tables.tilings)
    models = dict(law.layers)
    for model, queries in named:
        name = batched_name(model, queries)
        layers[name] = tuple(_layer(model, layer, queries) for layer in tables.layers[model])
        models[name] = tuple(
            tuple(_cost_model(one, queries, layer.weight_bytes or 0) for one in versions)
            for layer, versions in zip(layers[model], law.layers[model], strict=True)
        )
        tilings[name] = tuple(tuple(one.tiling for one in versions) for versions in models[name])
    whole, busy = MachineCostModel(law.combine, models), tables.busy_costs
    full = with_clock_of_all(tables.machine)
    return replace(
        tables,
        layers=layers,
        tilings=tilings,
        costs=_with_rows(tables.costs, named, whole, tables.machine),
        cost_model=None if tables.cost_model is None else whole,
        busy_costs=None if busy is None else _with_rows(busy, named, whole, full),
    )


def _law_of(tables: Tables) -> MachineCostModel:
    if tables.cost_model is not None:
        return tables.cost_model
    measured = cells(tables)
    return machine_cost_model(tables, measured, fit_cost_model(measured, tables.machine).exponent, 1.0)


def _layer(model: str, layer: Layer, queries: int) -> Layer:
    if layer.weight_bytes is None:
        raise LookupError(
            f"the tables of {model} do not say how many bytes of weights layer {layer.name} has, as an "
            f"earlier program made them; rerun rule `profile`, or leave `models.{model}.batches` at [1]"
        )
    return replace(layer, structure=f"{layer.structure} x{queries}", macs=queries * layer.macs)


def _cost_model(one: LayerCostModel, queries: int, weight_bytes: int) -> LayerCostModel:
    return LayerCostModel(queries * one.compute_s, batched(one.tiling, queries, weight_bytes))


def _with_rows(
    costs: CostTable, named: Sequence[tuple[str, int]], law: MachineCostModel, machine: Machine
) -> CostTable:
    parts = [costs.repeats]
    for model, queries in named:
        rows = costs.repeats[costs.repeats["model"] == model]
        scales = _scales(rows, law, model, batched_name(model, queries), machine)
        rows = rows.drop(columns="footprint_bytes").merge(scales, on=_CELL)
        parts.append(
            rows.assign(
                model=batched_name(model, queries),
                seconds=rows["seconds"] * rows["slower"],
                traffic_bytes=rows["traffic_bytes"] * rows["more"],
            )[list(costs.repeats.columns)]
        )
    return CostTable(pd.concat(parts, ignore_index=True), costs.machine, costs.kept)


def _scales(
    rows: pd.DataFrame, law: MachineCostModel, model: str, name: str, machine: Machine
) -> pd.DataFrame:
    """Return by cell how many times the seconds and bytes of a query a batch takes, and its footprint."""
    found = []
    for layer, version, cores, level in rows[_CELL].drop_duplicates().itertuples(index=False):
        (one_s, one), (all_s, moved) = (
            _predicted(law.layers[known][layer][version], law, machine, cores, level)
            for known in (model, name)
        )
        touched = float(law.layers[name][layer][version].tiling.compulsory_bytes)
        found.append((layer, version, cores, level, all_s / one_s, moved / one if one else 1.0, touched))
    return pd.DataFrame(found, columns=[*_CELL, "slower", "more", "footprint_bytes"])


def _predicted(
    one: LayerCostModel, law: MachineCostModel, machine: Machine, cores: int, level: float
) -> tuple[float, float]:
    """Return seconds and bytes of a version at a pressure, as `derivation.derive` has them."""
    share = max(1.0 - level, cores / machine.cores)
    moved = spread_dram_bytes(one.tiling, machine, cores, block_l3_bytes(machine, cores, share))
    active = round(cores + level * (machine.cores - cores))
    bytes_per_s = block_bytes_per_s(machine, cores, share)
    return predicted_seconds(one, law, machine, cores, moved, bytes_per_s, active), moved
