"""Tables of a described machine, modelled from those that were measured on another one."""

from collections.abc import Sequence
from dataclasses import replace
from math import nan

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
from veltair.machine.costs.folder import VERSION_KEY, Tables
from veltair.machine.costs.table import NO_REPEAT, CostTable
from veltair.machine.topology.topology import Machine

# Levels of a derived table; the formula is smooth in between.
DERIVED_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


def cells(tables: Tables) -> list[ScaledLayer]:
    """Return a cell for each version and core count that was measured alone, from medians over repeats.

    Raises LookupError for tables without times on one core.
    """
    alone = _median_alone(tables)
    solo = alone[alone["cores"] == 1].set_index(VERSION_KEY)["seconds"].to_dict()
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
    once = alone.drop_duplicates(VERSION_KEY).assign(repeat=NO_REPEAT, **{AWAY: nan})
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
    return _alone(tables).groupby([*VERSION_KEY, "cores"], sort=False)["seconds"].median().reset_index()


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
    spread = alone["seconds"] / alone.groupby(VERSION_KEY)["seconds"].transform("median")
    least = machine.core_counts[0]
    modelled = _derived_part(alone, _indices(alone, cost_model), cost_model, machine, least, 0.0)
    return modelled.assign(seconds=modelled["seconds"] * spread)


def _indices(rows: pd.DataFrame, cost_model: MachineCostModel) -> NDArray[np.intp]:
    """Return which of the cost model's versions each row is of."""
    keys = [key for key, _ in cost_model.versions()]
    return pd.MultiIndex.from_tuples(keys).get_indexer(pd.MultiIndex.from_frame(rows[VERSION_KEY]))


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
    models = [one for _, one in cost_model.versions()]
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
