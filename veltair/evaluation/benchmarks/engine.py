"""The engine's own speed: how soon a block starts, how long a decision takes, what it costs when idle."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from veltair.config import Config
from veltair.evaluation.benchmarks.arena import arena_figures
from veltair.evaluation.benchmarks.decisions import decision_figures
from veltair.evaluation.benchmarks.native_engine import (
    dispatch_figures,
    gaps_us,
    idle_figure,
    opened,
    percentile_figures,
)
from veltair.evaluation.benchmarks.neighbour import SECONDS as NEIGHBOUR_S
from veltair.evaluation.benchmarks.neighbour import neighbour_figures
from veltair.evaluation.benchmarks.workers import (
    REST_S,
    ROUNDS,
    bare_seconds,
    ratio_figures,
    worker_figures,
)
from veltair.evaluation.experiment.benchmark_file import BenchmarkResult, write_benchmark
from veltair.evaluation.experiment.layout import Layout
from veltair.evaluation.experiment.scenario import Scenario, scenario_of
from veltair.evaluation.measurement.equal_blocks import EqualBlocks
from veltair.evaluation.measurement.loop_in_c import LoopInC
from veltair.evaluation.measurement.run import client_run, make_samples
from veltair.evaluation.measurement.steps import launch_of, live_settings
from veltair.evaluation.measurement.study import Measurement
from veltair.evaluation.runtimes.served import ServedFiles, served_figures
from veltair.machine.costs.folder import COSTS, read_tables
from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.models.library import LoadedModel
from veltair.machine.workers.pool import Launch, Sample, WorkerPool
from veltair.serving.engine.native_engine import NativeEngine
from veltair.serving.loop.policy import Context

BUSY_S, OVERLOAD = 5.0, 1.5  # of the rate that no policy passes: a query is always waiting


@dataclass(frozen=True, slots=True)
class EngineFiles:
    """What is measured: ONNX files and built models by name, this machine's cost tables, and this machine."""

    models: Mapping[str, Path]
    builds: Mapping[str, Path]
    tables: Path
    machine: Path


def write_engine(config: Config, files: EngineFiles, output: Path) -> None:
    """Measure all figures and write them."""
    figures = engine_figures(config, files)
    figures |= served_figures(config, ServedFiles(files.models, files.builds, files.tables))
    plans = [folder / "plan.json" for folder in files.builds.values()]
    write_benchmark(output, figures, config, [files.tables / COSTS, *plans, files.machine])


def engine_figures(config: Config, files: EngineFiles) -> dict[str, BenchmarkResult]:
    """Measure what needs the engine only: on this machine, with the workers that the configuration names."""
    launch, native = launch_of(config), Layout(config).native
    scenario = scenario_of(config, read_tables(files.tables), next(iter(config.workloads)))
    context = scenario.context
    models = {name: LoadedModel(files.builds[name]) for name in scenario.weights}
    solo = {name: tuple(map(int, context.costs.model(name).solo)) for name in models}
    samples = make_samples(models, scenario, config.measured.seed)
    figures = dispatch_figures(launch, context.machine, native)
    figures |= busy_figures(config, scenario, models, samples, launch)
    given = replace(live_settings(config), seconds=NEIGHBOUR_S, drain_qos=4.0, loadgen_per_model=False)
    figures |= neighbour_figures(scenario, models, samples, launch, replace(given, timeline=False))
    figures |= worker_figures(models, solo, context.machine, native)
    figures |= arena_figures(models, solo, context.machine, native)
    figures |= block_figures(models, samples, context, launch)
    figures |= decision_figures(config, scenario)
    figures["idle_core_fraction"] = idle_figure(launch, context.machine, native)
    return figures


def busy_figures(
    config: Config,
    scenario: Scenario,
    models: Mapping[str, LoadedModel],
    samples: Sequence[tuple[str, Sample]],
    launch: Launch,
    seconds: float = BUSY_S,
) -> dict[str, BenchmarkResult]:
    """Return the time from an end to the next start while real kernels keep every core and LoadGen asks."""
    settings = replace(
        live_settings(config), seconds=seconds, drain_qos=1.0, loadgen_per_model=False, timeline=False
    )
    study = Measurement(
        scenario,
        "EqualBlocks",
        partial(EqualBlocks, layers=1, cores=1),
        models,
        samples,
        settings,
        launch,
        ObservedSlowdown(),
    )
    engine = LoopInC(study)
    try:
        engine.warm_up()
        with TemporaryDirectory() as folder:
            engine.serve(study, client_run(study, OVERLOAD * scenario.fluid_qps, Path(folder)))
    finally:
        engine.stop()
    gaps = gaps_us(engine.entries(), copies=True)
    unit = f"µs from an end to the next start, every core busy, LoadGen beside, {len(gaps)} blocks of a layer"
    return percentile_figures("dispatch_busy", gaps, unit)


# Whole models.


def block_figures(
    models: Mapping[str, LoadedModel],
    samples: Sequence[tuple[str, Sample]],
    context: Context,
    launch: Launch,
    rounds: int = ROUNDS,
) -> dict[str, BenchmarkResult]:
    """Return a query's latency as one block ÷ its bare list of kernels, and as blocks of a layer ÷ as one.

    All on all cores, by model. The engine copies the sample in and compares the answer; the bare list does
    neither.
    """
    by_bare, by_layer = dict[str, list[float]](), dict[str, list[float]]()
    for name, model in models.items():
        sample = next(one for one in samples if one[0] == name)
        with opened(_of(context, name), {name: model}, [sample], launch) as engine:
            workers = launch(context.machine.core_ids)
            try:
                engine.warm_up()
                times = [_block_times(engine, workers, model, sample[1], context) for _ in range(rounds)]
            finally:
                workers.stop()
        by_bare[name] = [block_s / bare_s for bare_s, block_s, _ in times]
        by_layer[name] = [layers_s / block_s for _, block_s, layers_s in times]
    unit = "latency through the engine ÷ bare kernels on the same workers, all cores"
    layers = "latency as blocks of one layer ÷ as one block, all cores"
    return ratio_figures("block_ratio", unit, by_bare) | ratio_figures("layerwise_ratio", layers, by_layer)


def _of(context: Context, name: str) -> Context:
    return replace(context, models={name: context.models[name]})


def _block_times(
    engine: NativeEngine, workers: WorkerPool, model: LoadedModel, sample: Sample, context: Context
) -> tuple[float, float, float]:
    """Return the seconds of the bare kernels, of a query as one block, and as blocks of one layer."""
    name, cores = model.plan.model, context.machine.cores
    versions = tuple(map(int, context.costs.model(name).solo))
    instance = model.instance()
    instance.set_inputs(sample.values)
    time.sleep(REST_S)
    bare_s = bare_seconds(workers, instance, versions, context.machine.core_ids)

    def latency_s(layers: int) -> float:
        engine.begin(EqualBlocks(_of(context, name), layers, cores))
        time.sleep(REST_S)
        engine.arrive(0, 0, time.monotonic())
        engine.flush()
        (record,) = engine.serve()
        return record.latency_s

    return bare_s, latency_s(len(versions)), latency_s(1)
