"""How many versions are enough, where candidates lie, and which a machine gets: tables behind figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import geometric_mean

import pandas as pd

from veltair.compiler.build.build import ModelPlan
from veltair.compiler.footprint.version import Candidate
from veltair.compiler.select.select import Costs, Selection, pareto_front, ratios, select
from veltair.compiler.select.store import MOST_VERSIONS
from veltair.machine.costs.folder import Tilings
from veltair.machine.costs.table import CostTable

Candidates = Mapping[str, Sequence[Candidate]]
MODELLED, MEASURED = "modelled", "measured"
SATURATION = ["model", "kind", "cores", "level", "versions", "latency_s", "best_s"]
SCATTER = ["model", "layer", "structure", "candidate", "origin", "parallelism", "blocking_bytes"]
SETS = ["model", "machine", "structure", "candidate", "parallelism", "blocking_bytes", "shared"]


@dataclass(frozen=True, slots=True)
class CostedMachine:
    """A machine with the costs that its versions are chosen by."""

    machine: str
    costs: Costs


def modelled_saturation(
    plans: Mapping[str, ModelPlan],
    candidates: Candidates,
    selection: Selection,
    judged: Costs,
    cores: Sequence[int],
) -> pd.DataFrame:
    """Return each model's latency with 1 … 8 versions a layer, by the times of the search.

    The latency is the sum over layers of the version that is best on so many cores; `best_s` is the same of
    all candidates. `judged` are the costs that the versions are chosen by. Columns: `SATURATION`.
    """
    chosen = {
        (structure, count): select(group, replace(selection, count=count), judged)
        for structure, group in candidates.items()
        for count in range(1, MOST_VERSIONS + 1)
    }
    rows = [
        (
            model,
            MODELLED,
            count,
            0.0,
            versions,
            sum(_best(chosen[layer.structure, versions], count) for layer in plan.layers),
            sum(_best(candidates[layer.structure], count) for layer in plan.layers),
        )
        for model, plan in plans.items()
        for count in cores
        for versions in range(1, MOST_VERSIONS + 1)
    ]
    return pd.DataFrame(rows, columns=SATURATION)


def measured_saturation(costs: CostTable, tilings: Tilings) -> pd.DataFrame:
    """Return each model's latency with 1, 2, … of the versions that were profiled: `SATURATION`.

    It is given on the least core count at each level, and on all cores, where nothing runs beside. The
    versions are chosen among those built, by their times on the least count; `best_s` is with all of them.
    """
    last = len(costs.cores) - 1
    cells = [(0, level) for level in range(len(costs.levels))] + ([(last, 0)] if last else [])
    rows = []
    for model, layers in tilings.items():
        seconds = costs.model(model).seconds
        groups = [
            [
                Candidate(str(layer), number, tiling, (float(seconds[layer, number, 0, 0]),), None)
                for number, tiling in enumerate(versions)
            ]
            for layer, versions in enumerate(layers)
        ]
        for count in range(1, max(map(len, groups)) + 1):
            asked = Selection(slack=inf, count=count)
            chosen = [[one.index for one in select(group, asked, _by_median)] for group in groups]
            for cores, level in cells:
                cell = seconds[:, :, cores, level]
                latency_s = sum(float(cell[layer, kept].min()) for layer, kept in enumerate(chosen))
                best_s = float(cell.min(axis=1).sum())
                index = (costs.cores[cores], costs.levels[level])
                rows.append((model, MEASURED, *index, count, latency_s, best_s))
    return pd.DataFrame(rows, columns=SATURATION)


def scatter(
    plans: Mapping[str, ModelPlan],
    candidates: Candidates,
    chosen: Candidates,
    selection: Selection,
    costs: Costs,
) -> pd.DataFrame:
    """Return all candidates that ran of one layer of each model: `SCATTER`, relative, front, chosen.

    It is the layer with most multiply-accumulates. `relative` is the geometric mean, over core counts, of
    the ratio to the best; `front` the Pareto front of those within the slack, and `chosen` what was built.
    """
    parts = []
    for model, plan in plans.items():
        layer = max(plan.layers, key=lambda layer: layer.macs)
        ran = [one for one in candidates[layer.structure] if one.run_seconds]
        table = ratios(ran, costs)
        kept = [one for one, row in zip(ran, table, strict=True) if min(row) <= selection.slack]
        front = {one.index for one in pareto_front(kept, costs, selection.metric)}
        built = {one.index for one in chosen[layer.structure]}
        parts += [
            (
                *(model, layer.name, layer.structure, one.index, one.origin),
                *(one.tiling.parallelism, one.tiling.blocking_bytes),
                *(geometric_mean(row), one.index in front, one.index in built),
            )
            for one, row in zip(ran, table, strict=True)
        ]
    return pd.DataFrame(parts, columns=[*SCATTER, "relative", "front", "chosen"])


def version_sets(
    plans: Mapping[str, ModelPlan],
    candidates: Candidates,
    selection: Selection,
    machines: Sequence[CostedMachine],
) -> pd.DataFrame:
    """Return what each machine chooses of the same candidates, a row for each version: `SETS`.

    `shared` tells whether the first machine, this one, chooses it too. A structure counts in every model that
    has it, once; one without candidates does not.
    """
    rows = []
    for model, plan in plans.items():
        for structure in dict.fromkeys(layer.structure for layer in plan.layers):
            if structure not in candidates:
                continue
            sets = [select(candidates[structure], selection, judged.costs) for judged in machines]
            here = {one.index for one in sets[0]}
            rows += [
                (
                    *(model, judged.machine, structure, one.index),
                    *(one.tiling.parallelism, one.tiling.blocking_bytes, one.index in here),
                )
                for judged, group in zip(machines, sets, strict=True)
                for one in group
            ]
    return pd.DataFrame(rows, columns=SETS)


def _best(candidates: Sequence[Candidate], cores: int) -> float:
    return min(one.seconds_on(cores) for one in candidates)


def _by_median(candidate: Candidate) -> Sequence[float]:
    return [candidate.median_seconds]
