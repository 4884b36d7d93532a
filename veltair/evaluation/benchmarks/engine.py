"""The engine's own speed: how soon a block starts, how long a decision takes, what it costs when idle."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from veltair.compiler.frontend.model import Layer, LayerBlock, Model
from veltair.config import Config
from veltair.evaluation.benchmarks.decisions import decision_figures
from veltair.evaluation.benchmarks.native_engine import ARRIVALS, arrival_figure, native_gaps_us
from veltair.evaluation.benchmarks.workers import (
    COMMAND,
    REST_S,
    ROUNDS,
    ListedCalls,
    bare_seconds,
    ratio_figures,
    worker_figures,
)
from veltair.evaluation.experiment.benchmark_file import BenchmarkResult, write_benchmark
from veltair.evaluation.experiment.layout import Layout
from veltair.evaluation.experiment.scenario import Scenario, scenario_of
from veltair.evaluation.measurement.pool_recorder import recording
from veltair.evaluation.measurement.run import make_samples, measure
from veltair.evaluation.measurement.steps import launch_of, live_settings
from veltair.evaluation.measurement.study import Measurement
from veltair.evaluation.runtimes.served import ServedFiles, served_figures
from veltair.machine.costs.folder import COSTS, read_tables
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.placement import spread
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.native_pool import NullKernel
from veltair.machine.workers.pool import Ended, Launch, Sample, Servable, WorkerPool
from veltair.serving.engine.engine import Engine
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import Allocation, Answer, Context, Snapshot, Wake
from veltair.serving.loop.query import NEVER_S
from veltair.serving.policies.presets import make_policy

FCFS = "baselines.fcfs_min:FcfsMin"
DISPATCHES, IDLE_S = 3000, 3.0
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
    figures |= native_figures(launch, context.machine, native)
    figures |= busy_figures(config, scenario, models, samples, launch)
    figures |= worker_figures(models, solo, context.machine, native)
    figures |= block_figures(models, samples, context, launch)
    figures |= decision_figures(config, scenario)
    figures["idle_core_fraction"] = idle_figure(launch, context.machine, native)
    return figures


# Dispatch.


@dataclass(frozen=True, slots=True)
class NullModel:
    """A model of one layer whose kernel computes nothing."""

    kernel: NullKernel

    def instance(self) -> ListedCalls:
        """Return buffers for one query."""
        return ListedCalls([[(self.kernel, ())]])


def dispatch_figures(
    launch: Launch, machine: Machine, build_dir: Path, queries: int = DISPATCHES
) -> dict[str, BenchmarkResult]:
    """Return the time from the end of a block to the start of the next, with one query waiting.

    Blocks hold all cores and compute nothing, for longer than a decision takes: the query that waits next
    arrives while they run. The policy is FcfsMin, in Python, as a policy without a native spec would be.
    """
    ends: list[Ended] = []
    with null_engine(recording(launch, ends), machine, build_dir) as (engine, context):
        policy = make_policy(FCFS, context, "paper", {})
        for query_id in range(2):
            engine.arrive(query_id, 0, time.monotonic())
        for record in serve(Dispatcher(policy, context), engine):
            following = record.query.id + 2
            if following < queries:
                engine.arrive(following, 0, time.monotonic())
            elif following == queries:
                engine.flush()
    gaps = gaps_us(ends)
    unit = f"µs from an end to the next start, FcfsMin in Python, kernels that do nothing, {len(gaps)} blocks"
    return _percentiles("dispatch_python", gaps, unit)


def native_figures(
    launch: Launch, machine: Machine, build_dir: Path, queries: int = DISPATCHES, arrivals: int = ARRIVALS
) -> dict[str, BenchmarkResult]:
    """Return the same of the loop in C, and how soon an idle engine starts a block."""
    context, model = _null_context(machine), NullModel(NullKernel(build_dir, passes_time=True))
    gaps = native_gaps_us(context, model, FCFS, launch, build_dir, queries)
    unit = f"µs from an end to the next start, FcfsMin in C, kernels that do nothing, {len(gaps)} blocks"
    figures = _percentiles("dispatch", gaps, unit)
    figures["arrival_ratio"] = arrival_figure(context, model, FCFS, launch, build_dir, arrivals)
    return figures


def gaps_us(ends: Sequence[Ended]) -> list[float]:
    """Return the microseconds from each end to the start of the next block led by the same core.

    A start is when the first layer begins, so blocks that copy a sample in first do not count.
    """
    last: dict[int, float] = {}
    gaps = []
    for end in ends:
        core = end.block.grant.cores[0]
        copied = end.block.put_in is not None and end.block.put_in.values
        if core in last and not copied:
            gaps.append(1e6 * (end.monotonic_s - end.busy_s - last[core]))
        last[core] = end.monotonic_s
    return gaps


class OneCoreEach:
    """Gives each core the next layer of the oldest query that waits."""

    def __init__(self, context: Context) -> None:
        self._solo = {name: tuple(map(int, context.costs.model(name).solo)) for name in context.models}

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        """Return an allocation for each free core, as far as queries go."""
        answers: list[Answer] = []
        for entry in snapshot.pending[: snapshot.free_cores]:
            layer, name = entry.next_layer, entry.query.model
            versions = self._solo[name][layer : layer + 1]
            answers.append(Allocation(entry.query.id, LayerBlock(name, layer, layer + 1), versions, 1))
        return answers


def busy_figures(
    config: Config,
    scenario: Scenario,
    models: Mapping[str, LoadedModel],
    samples: Sequence[tuple[str, Sample]],
    launch: Launch,
    seconds: float = BUSY_S,
) -> dict[str, BenchmarkResult]:
    """Return the time from an end to the next start while real kernels keep every core and LoadGen asks."""
    ends: list[Ended] = []
    settings = replace(
        live_settings(config), seconds=seconds, drain_qos=1.0, loadgen_per_model=False, timeline=False
    )
    study = Measurement(
        scenario,
        "OneCoreEach",
        OneCoreEach,
        models,
        samples,
        settings,
        recording(launch, ends),
        ObservedSlowdown(),
    )
    with TemporaryDirectory() as folder:
        measure(study, OVERLOAD * scenario.fluid_qps, Path(folder))
    gaps = gaps_us(ends)
    unit = f"µs from an end to the next start, every core busy, LoadGen beside, {len(gaps)} blocks of a layer"
    return _percentiles("dispatch_busy", gaps, unit)


def _percentiles(name: str, gaps: Sequence[float], unit: str) -> dict[str, BenchmarkResult]:
    quarters = np.array_split(np.array(gaps), 4)
    figures = {}
    for share in (50, 99):
        samples = tuple(float(np.percentile(part, share)) for part in quarters)
        value = float(np.percentile(gaps, share))
        figures[f"{name}_p{share}_us"] = BenchmarkResult(
            value, f"{unit}; samples: its quarters", samples, COMMAND
        )
        print(f"{name}, p{share}: {value:.1f} µs", flush=True)
    return figures


# Whole models.


class AllCores:
    """Gives the oldest query all cores for its whole model, once they are free."""

    def __init__(self, context: Context) -> None:
        self._cores = context.machine.cores
        self._solo = {name: tuple(map(int, context.costs.model(name).solo)) for name in context.models}

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        """Return one allocation, or nothing."""
        if not snapshot.pending or snapshot.free_cores < self._cores:
            return []
        query = snapshot.pending[0].query
        versions = self._solo[query.model]
        return [Allocation(query.id, LayerBlock(query.model, 0, len(versions)), versions, self._cores)]


def block_figures(
    models: Mapping[str, LoadedModel],
    samples: Sequence[tuple[str, Sample]],
    context: Context,
    launch: Launch,
    rounds: int = ROUNDS,
) -> dict[str, BenchmarkResult]:
    """Return a query's latency through the engine ÷ its bare list of kernels, on all cores, by model.

    The engine copies the sample in and compares the answer; the bare list does neither.
    """
    unit = "latency through the engine ÷ bare kernels on the same workers, all cores"
    ratios = {}
    for name, model in models.items():
        sample = next(one for one in samples if one[0] == name)
        with _engine({name: model}, [sample], context, launch) as engine:
            workers = launch(context.machine.core_ids)
            try:
                ratios[name] = list(_block_ratios(engine, workers, model, sample[1], context, rounds))
            finally:
                workers.stop()
    return ratio_figures("block_ratio", unit, ratios)


def _block_ratios(
    engine: Engine, workers: WorkerPool, model: LoadedModel, sample: Sample, context: Context, rounds: int
) -> Iterator[float]:
    instance, policy = model.instance(), AllCores(context)
    instance.set_inputs(sample.values)
    versions = tuple(map(int, context.costs.model(model.plan.model).solo))
    records = serve(Dispatcher(policy, context), engine)
    for number in range(rounds + 1):
        time.sleep(REST_S)
        bare_s = bare_seconds(workers, instance, versions, context.machine.core_ids)
        time.sleep(REST_S)
        engine.arrive(number, 0, time.monotonic())
        latency_s = next(records).latency_s
        if number:  # the first one warms up
            yield latency_s / bare_s


def idle_figure(
    launch: Launch, machine: Machine, build_dir: Path, seconds: float = IDLE_S
) -> BenchmarkResult:
    """Return the CPU time of this process, its workers included, over the time that its engine waits."""
    with null_engine(launch, machine, build_dir) as (engine, _):
        engine.do(Wake(engine.now_s() + seconds))
        cpu_s, start_s = time.process_time(), time.monotonic()
        engine.wait()
        share = (time.process_time() - cpu_s) / (time.monotonic() - start_s)
    return BenchmarkResult(share, "cores busy while nothing runs", (share,), COMMAND)


@contextmanager
def null_engine(launch: Launch, machine: Machine, build_dir: Path) -> Iterator[tuple[Engine, Context]]:
    """Give an engine that serves a model of one kernel which does nothing, but needs all cores."""
    context = _null_context(machine)
    sample = Sample((), ())
    with _engine(
        {"null": NullModel(NullKernel(build_dir, passes_time=True))}, [("null", sample)], context, launch
    ) as engine:
        yield engine, context


def _null_context(machine: Machine) -> Context:
    rows = [("null", 0, 0, cores, 0.0, 0, 1e-6 / cores, 0.0, 0.0) for cores in machine.core_counts]
    costs = CostTable(pd.DataFrame(rows, columns=list(COLUMNS)), machine.name)
    # No count of cores meets the target, so FcfsMin takes the fastest.
    return Context({"null": Model("null", (Layer("null", "null", 1),), 1e-9)}, costs, machine)


@contextmanager
def _engine(
    models: Mapping[str, Servable],
    samples: Sequence[tuple[str, Sample]],
    context: Context,
    launch: Launch,
) -> Iterator[Engine]:
    qos_s = {name: context.models[name].qos_s for name in models}
    scenario = (context.costs, context.machine, spread, ObservedSlowdown())
    engine = Engine(models, samples, qos_s, *scenario, NEVER_S, launch)
    try:
        yield engine
    finally:
        engine.stop()
