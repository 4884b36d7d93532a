"""Tables of a machine under other assumptions than those that were written down: for sensitivity.

Nothing here is measured. Each function returns tables in which one thing is taken to be otherwise and all
else follows from it, what policies see and what the simulator charges alike.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.select.select import Selection
from veltair.config import Config
from veltair.config.study_keys import Simulated
from veltair.machine.costs.derivation import derive, with_clock_of_all
from veltair.machine.costs.folder import Tables
from veltair.machine.costs.residency import with_cold_weights, without_residency
from veltair.machine.costs.table import CostTable
from veltair.machine.topology.described import described, is_described
from veltair.machine.topology.topology import Machine
from veltair.serving.loop.policy import Context
from veltair.serving.policies.blocks import core_needs, qos_budgets
from veltair.serving.policies.presets import check_policy, preset_options

# Halvings of the search for a budget share: to a millionth.
HALVINGS = 20
_VERSION = ["model", "layer", "version"]


def selection_of(config: Config) -> Selection:
    """Return how versions are chosen."""
    return Selection(**config.select.model_dump())


def changes_machine(simulated: Simulated) -> bool:
    """Return whether the tables of a described machine have to be derived anew."""
    switches = (simulated.clock, simulated.links, simulated.residency, simulated.warm_weights)
    unlike = (simulated.core_unit is not None, not all(switches))
    return any(unlike) or (simulated.steepness, simulated.link_bandwidth) != (1.0, 1.0)


def derive_assumed(host: Tables, machine: Machine, simulated: Simulated) -> Tables:
    """Return the tables of a described machine under the assumptions of the configuration.

    Raises ValueError for a core unit that does not divide the machine's cores.
    """
    if simulated.core_unit is not None:
        machine = replace(machine, core_unit=simulated.core_unit)
    if not simulated.clock:
        machine = with_clock_of_all(machine)
    machine = replace(machine, link_bytes_per_s=simulated.link_bandwidth * machine.link_bytes_per_s)
    if not simulated.links:
        machine = replace(machine, link_groups=len(machine.cache_groups), link_bytes_per_s=float("inf"))
    if not simulated.residency:
        host = without_residency(host)
    elif not simulated.warm_weights:
        host = with_cold_weights(host)
    return derive(replace(host, tilings=_steepened(host, simulated.steepness)), machine)


def _steepened(host: Tables, steepness: float) -> Mapping[str, tuple[tuple[Tiling, ...], ...]]:
    return {
        model: tuple(
            tuple(replace(tiling, steepness=steepness) for tiling in versions) for versions in layers
        )
        for model, layers in host.tilings.items()
    }


def with_assumed_noise(tables: Tables, simulated: Simulated) -> Tables:
    """Return tables with the noise that is assumed of a described machine; measured ones as they are."""
    if tables.cost_model is None:
        return tables
    return replace(tables, costs=tables.costs.with_noise(simulated.noise))


def with_fewer_versions(tables: Tables, count: int) -> Tables:
    """Return the tables of at most `count` versions a layer, whichever clock they are at."""
    costs, busy = fewer_versions(tables.costs, count), tables.busy_costs
    if busy is not None:
        kept = pd.MultiIndex.from_frame(costs.repeats[_VERSION].drop_duplicates())
        rows = busy.repeats[pd.MultiIndex.from_frame(busy.repeats[_VERSION]).isin(kept)]
        busy = CostTable(rows, busy.machine)
    return replace(tables, costs=costs, busy_costs=busy)


def fewer_versions(costs: CostTable, count: int) -> CostTable:
    """Return the table of at most `count` versions a layer: the solo one, and others evenly spaced.

    Versions are ordered from the most local to the most parallel one, and both ends are kept first. They keep
    their numbers.
    """
    if count < 1:
        raise ValueError(f"{count} versions; give 1 or more")
    rows = costs.repeats
    numbers = rows[["model", "layer", "version"]].drop_duplicates()
    kept = {
        (str(model), int(str(layer)), version)
        for (model, layer), group in numbers.groupby(["model", "layer"], sort=False)
        for version in _kept(
            sorted(group["version"]), int(costs.model(str(model)).solo[int(str(layer))]), count
        )
    }
    keys = zip(rows["model"], rows["layer"], rows["version"], strict=True)
    return CostTable(rows[[key in kept for key in keys]], costs.machine, costs.kept)


def _kept(versions: list[int], solo: int, count: int) -> list[int]:
    if count >= len(versions):
        return versions
    others = [version for version in versions if version != solo]
    indices = np.linspace(0, len(others) - 1, count - 1).round().astype(int).tolist()
    return sorted({solo, *(others[index] for index in indices)})


def assumed_options(config: Config, policy: str, context: Context) -> Mapping[str, object]:
    """Return a policy's options on a machine, whose core unit may be assumed to be another one.

    Only a described machine's unit is assumed; on any other the options are those of the configuration.
    """
    served, name = config.policies[policy], context.machine.name
    if not is_described(name) or config.simulated.core_unit is None:
        return served.options
    preset = served.preset or config.preset
    baseline = {**preset_options(served.path, preset), **served.options}.get("alpha", 1.0)
    share = equal_headroom_alpha(context, described(name).core_unit)
    options = {**served.options, "alpha": share * float(str(baseline))}
    try:
        check_policy(served.path, options, preset)
    except ValueError:
        return served.options  # it has no budgets that could be lowered
    return options


def equal_headroom_alpha(context: Context, described_unit: int) -> float:
    """Return the share of the QoS that budgets may use so that rounding leaves as much headroom as ever.

    A core need is rounded up to the core unit, so its layer ends before its budget: headroom that nobody
    asked for, and the more the larger the unit. Headroom here is 1 - (time of all layers on their needs) /
    QoS, the mean over models, at level 0. The share returned gives the context's own core unit the headroom
    that `described_unit` has with the whole QoS; 1 where the own one is as large.
    """
    counts = context.costs.cores
    described = [index for index, cores in enumerate(counts) if cores % described_unit == 0]
    own = [index for index, cores in enumerate(counts) if cores % context.machine.core_unit == 0]
    if not described:
        raise ValueError(
            f"no core count of {context.machine.name} is a multiple of {described_unit} cores; "
            "give core units that divide the described one"
        )
    wanted, low, high = _used(context, described, 1.0), 0.0, 1.0
    if _used(context, own, high) <= wanted:
        return high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _used(context, own, middle) <= wanted else (low, middle)
    return low or high


def _used(context: Context, indices: list[int], alpha: float) -> float:
    """Return the share of the QoS that layers take on their needs among some core counts."""
    counts = [context.costs.cores[index] for index in indices]
    shares = []
    for name, model in context.models.items():
        seconds = context.costs.solo_seconds(name)[:, indices]
        needs = core_needs(seconds, qos_budgets(model, context, alpha), counts)
        taken = seconds[np.arange(len(needs)), np.searchsorted(counts, needs)]
        shares.append(float(taken.sum()) / model.qos_s)
    return float(np.mean(shares))
