"""Where each model's time goes, layer by layer: our layers beside the nodes of ONNX Runtime's own profile."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import pandas as pd

from veltair.compiler.build.build import ModelPlan, read_plan
from veltair.config import Config
from veltair.evaluation.benchmarks.compiler import (
    CHOOSE_S,
    RUNTIME_NAMES,
    check_equal,
    core_sets,
    write_random_samples,
)
from veltair.evaluation.benchmarks.layer_groups import (
    LayerGroup,
    NetworkTimes,
    TimedOperator,
    layer_groups,
)
from veltair.evaluation.benchmarks.layer_operators import plan_operators
from veltair.evaluation.benchmarks.onnx_profile import OnnxProfile, read_profile
from veltair.evaluation.experiment.tables_io import provenance_of, write_csv
from veltair.evaluation.runtimes.paired_latency import SETTLE_S, block_runs, rounds_within, warm_up
from veltair.evaluation.runtimes.timed_process import ONNX_RUNTIME, OURS, PROFILED, TimedProcess
from veltair.machine.topology.described import read_machine

MEASURE_S = 20.0  # for a model on one count of cores, without what chooses versions and warms up
MOST_ROUNDS = 10  # a profile holds every node of every run
COLUMNS = [
    *("model", "cores", "group", "layers", "nodes", "macs"),
    *("ours_s", "onnxruntime_s", "lost_s", "ours_gflops", "onnxruntime_gflops"),
]
Run = TypeVar("Run")
Turn = Callable[[], object]


def write_layer_times(
    config: Config, models: Mapping[str, Path], builds: Mapping[str, Path], machine: Path, output: Path
) -> None:
    """Measure all models on one core and on all, and write a row for each group of layers of each."""
    tables = []
    # On a machine of one core both are the same.
    core_groups = dict.fromkeys(core_sets(read_machine(machine)).values())
    for name, model in models.items():
        for cores in core_groups:
            groups = layer_groups(*network_times(model, builds[name], cores, config.oracle.tolerance))
            tables.append(group_table(name, len(cores), groups))
            ours_s, theirs_s = tables[-1]["ours_s"].sum(), tables[-1]["onnxruntime_s"].sum()
            print(
                f"{name} on {len(cores)} core(s): {1e3 * ours_s:.2f} ms, {RUNTIME_NAMES[ONNX_RUNTIME]} "
                f"{1e3 * theirs_s:.2f} ms, most lost in {groups[0].name} ({1e3 * groups[0].lost_s:.2f} ms)",
                flush=True,
            )
    inputs = [*models.values(), *(path / "plan.json" for path in builds.values()), machine]
    write_csv(output, pd.concat(tables, ignore_index=True), provenance_of(config, inputs))


def network_times(
    model: Path, build: Path, cores: Sequence[int], tolerance: float, budget_s: float = MEASURE_S
) -> tuple[NetworkTimes, NetworkTimes]:
    """Return the times of a built model and of ONNX Runtime, on the same cores and inputs.

    Ours runs, in each layer, the version that was fastest in the network on these cores in runs before. ONNX
    Runtime is profiled in one process, and its latency measured in another one, where nothing is noted.
    Raises ValueError if the answers differ by more than `tolerance`, TimedProcessError if one of them fails.
    """
    with TemporaryDirectory() as folder:
        samples = write_random_samples(build, Path(folder))
        with (
            TimedProcess(OURS, build, samples, cores) as ours,
            TimedProcess(ONNX_RUNTIME, model, samples, cores) as theirs,
            TimedProcess(PROFILED, model, samples, cores) as profiled,
        ):
            ours.choose(min(CHOOSE_S, budget_s))
            check_equal(model.stem, ours, theirs, RUNTIME_NAMES[ONNX_RUNTIME], tolerance)
            return _in_turn(read_plan(build), ours, theirs, profiled, budget_s)


def _in_turn(
    plan: ModelPlan, ours: TimedProcess, theirs: TimedProcess, profiled: TimedProcess, budget_s: float
) -> tuple[NetworkTimes, NetworkTimes]:
    """Run all in turn, only one of them awake at a time, in blocks as `paired_latency.compare` does."""
    run_s = max(warm_up(ours), warm_up(theirs), warm_up(profiled))
    runs = block_runs(run_s)
    rounds = min(MOST_ROUNDS, rounds_within(budget_s, 4 * (runs * run_s + SETTLE_S)))
    ours_s: list[float] = []
    theirs_s: list[float] = []
    layers: list[list[float]] = []
    turns: list[Turn] = [
        lambda: ours_s.append(median(settled(ours.time(runs), runs))),
        lambda: theirs_s.append(median(settled(theirs.time(runs), runs))),
        lambda: layers.extend(settled(ours.layers(runs), runs)),
        lambda: profiled.time(runs),
    ]
    for number in range(rounds):
        for turn in turns if number % 2 == 0 else turns[::-1]:
            time.sleep(SETTLE_S)
            turn()
    profile = read_profile(profiled.profile())
    own = _layers(plan, _medians(layers))
    nodes = _nodes(profile, settled(profile.runs[-rounds * runs :], runs))
    return NetworkTimes(own, median(ours_s)), NetworkTimes(nodes, median(theirs_s))


def settled(found: Sequence[Run], runs: int) -> list[Run]:
    """Return what counts of one or more blocks of `runs`: the first of a block finds the caches of others.

    Where a block has one run only, this counts.
    """
    return [one for number, one in enumerate(found) if runs == 1 or number % runs]


def group_table(model: str, cores: int, groups: Sequence[LayerGroup]) -> pd.DataFrame:
    """Return a row for each group; its columns are defined in results/README.md."""
    rows = [
        {
            **asdict(group),
            "model": model,
            "cores": cores,
            "group": group.name,
            "lost_s": group.lost_s,
            "ours_gflops": group.ours_gflops,
            "onnxruntime_gflops": group.onnxruntime_gflops,
        }
        for group in groups
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _layers(plan: ModelPlan, seconds: Sequence[float]) -> tuple[TimedOperator, ...]:
    operators = plan_operators(plan)
    return tuple(
        TimedOperator(operator, second, layer.macs)
        for operator, second, layer in zip(operators, seconds, plan.layers, strict=True)
    )


def _nodes(profile: OnnxProfile, runs: Sequence[Sequence[float]]) -> tuple[TimedOperator, ...]:
    return tuple(
        TimedOperator(node.operator, second)
        for node, second in zip(profile.nodes, _medians(runs), strict=True)
    )


def _medians(runs: Sequence[Sequence[float]]) -> list[float]:
    """Return the median of each layer or node over all runs."""
    return [float(second) for second in np.median(runs, axis=0)]
