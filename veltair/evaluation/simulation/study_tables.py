"""Tables of the many-core study that are not about rates: needs and times of layers, conflicts over time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from veltair.evaluation.experiment.scenario import MakePolicy, Scenario, scenario_columns
from veltair.evaluation.simulation.run import (
    SimulationSettings,
    make_simulator,
    scenario_arrivals,
)
from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import CostTable
from veltair.serving.loop.dispatcher import Dispatcher
from veltair.serving.loop.timeline import BlockSpan, Recorder, serve_recorded
from veltair.serving.policies.blocks import core_needs, qos_budgets
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule

# More blocks than any run of the study starts: the picture of conflicts leaves none out.
ALL_BLOCKS = 10_000_000


def core_need_table(scenario: Scenario, levels: Sequence[float]) -> pd.DataFrame:
    """Return the cores that each layer needs to stay within its budget, a row a model, level and layer.

    Columns: `machine`, `validated`, `model`, `qos_s`, `relaxed`, `level`, `layer`, `name`, `cores` (of the
    machine), `needed_cores`, `met` (False: no count is within the budget, and the need is the fastest one),
    `average_cores` (over the model's layers), `budget_s`. Budgets are those of preset `paper`, versions solo.
    Raises ValueError for a level that was not profiled.
    """
    context = scenario.context
    latencies = LatencyTables(context, VersionRule.SOLO_AT_LEVEL)
    relaxed = dict(zip(scenario.targets["model"], scenario.targets["relaxed"], strict=True))
    rows: list[dict[str, Any]] = []
    for name, model in context.models.items():
        budgets_s = qos_budgets(model, context, 1.0)
        for level in levels:
            seconds = latencies.seconds(name, profiled_level(context.costs, level))
            needs = core_needs(seconds, budgets_s, latencies.counts)
            met = seconds.min(axis=1) <= budgets_s
            rows += [
                {
                    "model": name,
                    "qos_s": model.qos_s,
                    "relaxed": relaxed[name],
                    "level": level,
                    "layer": index,
                    "name": layer.name,
                    "cores": context.machine.cores,
                    "needed_cores": int(needs[index]),
                    "met": bool(met[index]),
                    "average_cores": float(needs.mean()),
                    "budget_s": float(budgets_s[index]),
                }
                for index, layer in enumerate(model.layers)
            ]
    return _named(pd.DataFrame(rows), context.machine.name, context.machine.validated)


def slowdown_table(tables: Tables, levels: Sequence[float]) -> pd.DataFrame:
    """Return the time of each model in each version, by cores and level, beside its times alone.

    Columns: `machine`, `validated`, `kind` (`measured` or `modelled`), `model`, `cores`, `version`, `level`,
    `latency_s`, `alone_s` (the same version at level 0) and `best_alone_s` (the solo versions at level 0).
    Every layer runs version min(v, its last). Counts without times are left out. Raises ValueError for a
    level that was not profiled.
    """
    costs = tables.costs
    rows = [row for name in costs.models for row in _slowdowns(costs, name, levels)]
    table = pd.DataFrame(rows).assign(kind="measured" if tables.cost_model is None else "modelled")
    return _named(table, tables.machine.name, tables.machine.validated)


def _slowdowns(costs: CostTable, name: str, levels: Sequence[float]) -> Iterator[dict[str, Any]]:
    seconds = costs.model(name).seconds
    solo_s = costs.solo_seconds(name).sum(axis=0)
    last = np.array([np.flatnonzero(np.isfinite(layer[:, :, 0]).any(axis=1))[-1] for layer in seconds])
    for version in range(seconds.shape[1]):
        of_version = seconds[np.arange(len(seconds)), np.minimum(version, last)].sum(axis=0)
        for index, cores in enumerate(costs.cores):
            for level in levels:
                latency_s = float(of_version[index, profiled_level(costs, level)])
                if np.isfinite(latency_s):
                    yield {
                        "model": name,
                        "cores": cores,
                        "version": version,
                        "level": level,
                        "latency_s": latency_s,
                        "alone_s": float(of_version[index, 0]),
                        "best_alone_s": float(solo_s[index]),
                    }


def profiled_level(costs: CostTable, level: float) -> int:
    """Return the index of a level in a table. Raises ValueError if it was not profiled."""
    if level not in costs.levels:
        raise ValueError(
            f"level {level} was not profiled on {costs.machine} (the table has {list(costs.levels)}); "
            "change `study.levels` to some of these"
        )
    return costs.levels.index(level)


def _named(table: pd.DataFrame, machine: str, validated: bool) -> pd.DataFrame:
    table.insert(0, "machine", machine)
    table.insert(1, "validated", validated)
    return table


def conflict_table(
    scenario: Scenario,
    makers: Mapping[str, MakePolicy],
    settings: SimulationSettings,
    qps: float,
    seed: int,
    bins: int,
) -> pd.DataFrame:
    """Return block starts, conflicts and held cores over the time of one run of each policy.

    One row a policy and bin, with the columns that name a run and `begin_s`, `end_s`, `starts` and
    `conflicts` (of the bin), `held_cores` (the mean over its time), `cores` and `arrivals` (of the run). Bins
    reach from the first to the last arrival.
    """
    tables = []
    for policy, make in makers.items():
        arrivals = scenario_arrivals(scenario, settings, qps, seed)
        simulator = make_simulator(scenario, settings, arrivals, seed)
        seen = scenario.policy_context
        recorder = Recorder(simulator, seen, settings.placement, limit=ALL_BLOCKS)
        for _ in serve_recorded(Dispatcher(make(seen), seen), recorder):
            pass
        table = binned(recorder.timeline().spans, arrivals[-1].arrival_s, bins)
        run = {
            **scenario_columns(scenario, "simulator", scenario.simulator_validated),
            "policy": policy,
            "qps": qps,
            "seed": seed,
        }
        sizes = {"cores": scenario.context.machine.cores, "arrivals": len(arrivals)}
        tables.append(table.assign(**run, **sizes)[[*run, *table.columns, *sizes]])
    return pd.concat(tables, ignore_index=True)


def binned(spans: Sequence[BlockSpan], end_s: float, bins: int) -> pd.DataFrame:
    """Return `starts`, `conflicts` and `held_cores` of blocks in equal bins of [0, `end_s`)."""
    edges = np.linspace(0.0, end_s, bins + 1)
    start_s = np.array([span.start_s for span in spans])
    in_conflict = np.array([span.in_conflict for span in spans], dtype=bool)
    held = np.array([(one.begin_s, one.end_s) for span in spans for one in span.tenures]).reshape(-1, 2)
    # Core-time held before each edge; its growth over a bin is what was held in it.
    before = np.array([np.clip(edge - held[:, 0], 0.0, held[:, 1] - held[:, 0]).sum() for edge in edges])
    return pd.DataFrame(
        {
            "begin_s": edges[:-1],
            "end_s": edges[1:],
            "starts": np.histogram(start_s, edges)[0],
            "conflicts": np.histogram(start_s[in_conflict], edges)[0],
            "held_cores": np.diff(before) / np.diff(edges),
        }
    )
