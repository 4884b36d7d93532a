"""How much longer versions take beside co-runners of several kinds, measured in fresh processes.

Run as `python -m veltair.evaluation.versions.interference_sensitivity MACHINE BUILD_DIR SEED OUTPUT
MODEL...`, it is one of them.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from veltair.machine.models.library import Instance, LoadedModel
from veltair.machine.profile.corunner import CoRunner, CoRunnerLoad, conditions
from veltair.machine.profile.profile import time_layers
from veltair.machine.topology.described import read_machine
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.pool import on_cores, use_cores

ROUNDS, WARM_PASSES, PASSES = 3, 1, 2
COLUMNS = ["condition", "model", "layer", "version", "round", "seconds"]


def measure_tolerance(machine: Path, builds: Sequence[Path], build_dir: Path, processes: int) -> pd.DataFrame:
    """Return the seconds of every version of every layer under each condition, from several processes.

    Columns: process, condition, model, layer, version, round, seconds, and of the version structure,
    parallelism and blocking_bytes. Raises RuntimeError if a process fails, ValueError on one core.
    """
    if read_machine(machine).cores < 2:
        raise ValueError("this machine gives one core; a co-runner needs another")
    build_dir.mkdir(parents=True, exist_ok=True)
    frames = []
    for process in range(processes):
        print(f"process {process + 1} of {processes}", flush=True)
        output = build_dir / f"tolerance-{process}.parquet"
        words = [machine, build_dir, process, output, *builds]
        program = [sys.executable, "-m", "veltair.evaluation.versions.interference_sensitivity"]
        done = subprocess.run(
            [*program, *map(str, words)], stderr=subprocess.PIPE, text=True, check=False, errors="replace"
        )
        if done.returncode != 0:
            last = " ".join(done.stderr.strip().splitlines()[-1:])
            raise RuntimeError(f"process {process} ended with exit status {done.returncode}: {last}")
        frames.append(pd.read_parquet(output).assign(process=process))
        output.unlink()
    return pd.concat(frames, ignore_index=True)


def measure_process(machine: Machine, builds: Sequence[Path], build_dir: Path, seed: int) -> pd.DataFrame:
    """Return the same from this process; the order of the conditions is drawn anew in each of three rounds.

    Networks run whole on the machine's first core, with each version in turn; the co-runner has the last.
    """
    models = [LoadedModel(build) for build in builds]
    random = np.random.default_rng(seed)
    known = conditions(machine)
    rows: list[tuple[Any, ...]] = []
    with on_cores(machine.core_ids):  # all at first: TVM's pool keeps the size of its first use
        use_cores(machine.core_ids[:1])
        instances = [model.filled_instance() for model in models]
        for number in range(ROUNDS):
            for name in random.permutation(list(known)):
                with _beside(known[str(name)], machine, build_dir):
                    rows += [(str(name), *row) for row in _measure(instances, number)]
    return pd.DataFrame(rows, columns=COLUMNS).merge(_versions(models), on=["model", "layer", "version"])


def _beside(load: CoRunnerLoad | None, machine: Machine, build_dir: Path) -> Any:
    return nullcontext() if load is None else CoRunner(1.0, machine.core_ids[-1], machine, build_dir, load)


def _measure(instances: Sequence[Instance], number: int) -> Iterator[tuple[str, int, int, int, float]]:
    for repeat in range(-WARM_PASSES, PASSES):
        for instance in instances:
            plan = instance.model.plan
            counts = [len(plan.of(layer)) for layer in range(len(plan.layers))]
            for version in range(max(counts)):
                seconds = time_layers(instance, [min(version, count - 1) for count in counts])
                if repeat >= 0:
                    timed = zip(range(len(counts)), counts, seconds, strict=True)
                    yield from ((plan.model, n, version, number, s) for n, c, s in timed if version < c)


def _versions(models: Sequence[LoadedModel]) -> pd.DataFrame:
    rows = [
        (model.plan.model, layer, number, kind.structure, version.parallelism, version.blocking_bytes)
        for model in models
        for layer, kind in enumerate(model.plan.layers)
        for number, version in enumerate(model.plan.of(layer))
    ]
    columns = ["model", "layer", "version", "structure", "parallelism", "blocking_bytes"]
    return pd.DataFrame(rows, columns=columns)


if __name__ == "__main__":
    _machine, _build_dir, _seed, _output, *_builds = sys.argv[1:]
    _table = measure_process(
        read_machine(Path(_machine)), list(map(Path, _builds)), Path(_build_dir), int(_seed)
    )
    _table.to_parquet(_output, index=False)
