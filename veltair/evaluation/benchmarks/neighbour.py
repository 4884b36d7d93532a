"""What a busy neighbour does to a run: how late LoadGen is, and how much slower kernels are."""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from veltair.evaluation.benchmarks.workers import COMMAND
from veltair.evaluation.experiment.benchmark_file import BenchmarkResult, median_result
from veltair.evaluation.experiment.scenario import Scenario
from veltair.evaluation.measurement.equal_blocks import EqualBlocks
from veltair.evaluation.measurement.loop_in_c import LoopInC
from veltair.evaluation.measurement.run import client_run
from veltair.evaluation.measurement.study import Measurement, MeasurementSettings
from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.models.library import LoadedModel
from veltair.machine.workers.pool import Launch, Sample
from veltair.serving.engine.log_entries import EntryKind

ROUNDS, SECONDS, LOAD = 3, 3.0, 0.3  # of the rate of one query at a time: a neighbour leaves time for all


def neighbour_figures(
    scenario: Scenario,
    models: Mapping[str, LoadedModel],
    samples: Sequence[tuple[str, Sample]],
    launch: Launch,
    settings: MeasurementSettings,
    rounds: int = ROUNDS,
) -> dict[str, BenchmarkResult]:
    """Return what a program that keeps one core busy does to LoadGen's delay and to whole models, in rounds.

    Each round has a run alone and one beside the neighbour, with the same arrivals; blocks hold all cores.
    """
    layers = max(len(model.layers) for model in scenario.context.models.values())
    make = partial(EqualBlocks, layers=layers, cores=scenario.context.machine.cores)
    study = Measurement(
        *(scenario, "EqualBlocks", make, models, samples), settings, launch, ObservedSlowdown()
    )
    delays_us, slowdowns = [], []
    engine = LoopInC(study)
    try:
        engine.warm_up()
        for number in range(rounds):
            one = replace(study, settings=replace(settings, seed=settings.seed + number))
            _, alone_s = _run(engine, one)
            with _neighbour():
                delay_s, beside_s = _run(engine, one)
            delays_us.append(1e6 * delay_s)
            slowdowns.append(beside_s / alone_s)
    finally:
        engine.stop()
    beside = "beside a program that keeps one core busy"
    return {
        "neighbour_delay_p99_us": median_result(
            delays_us, f"µs LoadGen issues late, 99th percentile, {beside}", COMMAND
        ),
        "neighbour_slowdown": median_result(
            slowdowns, f"median block of a whole model {beside} ÷ alone, all cores", COMMAND
        ),
    }


def _run(engine: LoopInC, study: Measurement) -> tuple[float, float]:
    """Return LoadGen's delay at the 99th percentile, and the median seconds of a block, of a run."""
    with TemporaryDirectory() as folder:
        qps = LOAD * study.scenario.sequential_qps
        summary = engine.serve(study, client_run(study, qps, Path(folder))).summary
    ended = [entry.seconds for entry in engine.entries() if entry.kind is EntryKind.BLOCK_ENDED]
    return summary.issue_delay_p99_s, median(ended)


@contextmanager
def _neighbour() -> Iterator[None]:
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        program.kill()
        program.wait()
