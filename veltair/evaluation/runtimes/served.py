"""How many queries Veltair serves in time beside what a user would serve them with today.

Same cores, models, targets, schedule and LoadGen; the same search for QPS at 95 % QoS, rate by rate in turn,
so that all meet the same disturbances.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from veltair.compiler.frontend.samples import Samples
from veltair.config import Config
from veltair.evaluation.experiment.benchmark_file import BenchmarkResult, median_result
from veltair.evaluation.experiment.scenario import Scenario, policy_maker, scenario_of
from veltair.evaluation.loadgen.logs import LoadGenError
from veltair.evaluation.measurement.interference_steps import started_source
from veltair.evaluation.measurement.run import Measurement, load_models, make_samples, measure
from veltair.evaluation.measurement.steps import launch_of, live_search, live_settings, memory_bytes
from veltair.evaluation.metrics.capacity import (
    Capacity,
    CapacitySearch,
    Satisfaction,
    Trial,
    find_capacity,
    next_rate,
)
from veltair.evaluation.runtimes.process import Field, measure_runtime, write_field_samples
from veltair.evaluation.runtimes.query_tracker import RateResult
from veltair.evaluation.runtimes.registry import Runtime, runtimes
from veltair.machine.costs.folder import read_tables
from veltair.machine.interference.source import InterferenceSource

COMMAND = "snakemake --cores all benchmarks_engine"
OURS = "Veltair-FULL-shipped"  # what a user would run: the reading of the paper leaves no room for costs
SEEDS = 3
FIRST_LOAD = 0.4  # the first rate of all, as a share of the rate that on-time queries alone would fill

# Serves one rate (QPS, seed, folder) and says what became of it.
Serve = Callable[[float, int, Path], RateResult]


@dataclass(frozen=True, slots=True)
class ServedFiles:
    """What is served: ONNX files and built models by name, and the cost tables of this machine."""

    models: Mapping[str, Path]
    builds: Mapping[str, Path]
    tables: Path


def served_figures(config: Config, files: ServedFiles) -> dict[str, BenchmarkResult]:
    """Measure our policy and all runtimes that are installed, and return the ratios and every QPS.

    The workload is the first one that the configuration measures. Raises LookupError if the configuration
    lacks the policy, ServedRuntimeError if a runtime fails or answers wrongly.
    """
    if OURS not in config.policies:
        raise LookupError(f"the configuration has no policy {OURS}, which is compared; add it to `policies`")
    scenario = scenario_of(config, read_tables(files.tables), config.measured.workloads[0])
    present = installed(runtimes(scenario.context.machine.cores))
    search = live_search(config)
    estimates = dict.fromkeys([OURS, *(runtime.name for runtime in present)], FIRST_LOAD * scenario.fluid_qps)
    found: list[dict[str, Capacity]] = []
    with TemporaryDirectory() as name, started_source(config, scenario.context.machine) as (source, _):
        serving = _contenders(config, files, scenario, present, source, Path(name))
        for seed in range(config.measured.seed, config.measured.seed + SEEDS):
            found.append(search_in_turn(serving, estimates, search, seed, Path(name) / str(seed)))
            estimates = {who: one.qps or estimates[who] for who, one in found[-1].items()}
    return ratio_figures(found, present) | rate_figures(found, scenario.workload)


def installed(known: Sequence[Runtime]) -> list[Runtime]:
    """Return the runtimes whose package is there; a line says which figure is left out for want of one."""
    for figure, package in dict.fromkeys((one.figure, one.backend) for one in known if not one.installed):
        print(f"{figure} is left out: {package} is not installed (pip install {package})", flush=True)
    return [one for one in known if one.installed]


def search_in_turn(
    serving: Mapping[str, Serve],
    estimates_qps: Mapping[str, float],
    settings: CapacitySearch,
    seed: int,
    folder: Path,
) -> dict[str, Capacity]:
    """Return the capacity of each, all searched side by side: one rate of each, then the next rate of each.

    Each round begins at the other end, so that nobody always comes after the same one.
    """
    trials: dict[str, list[Trial]] = {name: [] for name in serving}
    names = list(serving)
    while asked := {
        name: qps
        for name in names
        if (qps := next_rate(trials[name], estimates_qps[name], settings)) is not None
    }:
        for name, qps in asked.items():
            outcome = serving[name](qps, seed, folder / f"{name}-{len(trials[name])}".replace(" ", "-"))
            print(f"{name}, seed {seed}, {outcome.describe()}", flush=True)
            trials[name].append(Trial(qps, outcome.satisfaction))
        names.reverse()
    return {
        name: find_capacity(_never, estimates_qps[name], settings, known=trials[name]) for name in serving
    }


def ratio_figures(
    found: Sequence[Mapping[str, Capacity]], present: Sequence[Runtime]
) -> dict[str, BenchmarkResult]:
    """Return ours ÷ the best runtime of each figure; samples are of the seeds.

    A seed at which no runtime of a figure served any rate in time gives no ratio; without any the figure is
    left out, and a line says so.
    """
    figures = {}
    for figure in dict.fromkeys(runtime.figure for runtime in present):
        names = [runtime.name for runtime in present if runtime.figure == figure]
        pairs = [(one[OURS].qps, max(one[name].qps for name in names)) for one in found]
        ratios = tuple(ours / best for ours, best in pairs if best)
        if not ratios:
            print(f"{figure} is left out: {', '.join(names)} served no rate in time", flush=True)
            continue
        unit = f"QPS at 95 % QoS, {OURS} ÷ {'the best of ' if len(names) > 1 else ''}{', '.join(names)}"
        figures[figure] = median_result(ratios, unit, COMMAND)
    return figures


def rate_figures(found: Sequence[Mapping[str, Capacity]], workload: str) -> dict[str, BenchmarkResult]:
    """Return everybody's QPS at 95 % QoS, with each seed's answer in words; 0 where no rate passed."""
    figures = {}
    for name in found[0]:
        rates = tuple(one[name].qps for one in found)
        answers = "; ".join(one[name].describe() for one in found)
        unit = f"QPS at 95 % QoS, workload {workload}: {answers}"
        figures[f"served_qps_{name.replace(' ', '_')}"] = median_result(rates, unit, COMMAND)
    return figures


def _contenders(
    config: Config,
    files: ServedFiles,
    scenario: Scenario,
    present: Sequence[Runtime],
    source: InterferenceSource,
    folder: Path,
) -> dict[str, Serve]:
    """Return whoever takes part, ours first: all are given the same samples, cores and targets."""
    models, memory = load_models(files.builds, scenario.weights, memory_bytes(config))
    samples = make_samples(models, scenario, config.measured.seed, memory)
    settings = live_settings(config)
    inputs: list[tuple[Samples, Samples]] = [(sample.values, sample.answer) for _, sample in samples]
    write_field_samples(folder / "samples", inputs)
    field = Field(
        models={name: files.models[name].resolve() for name in scenario.weights},
        samples=folder / "samples",
        sample_models=tuple(name for name, _ in samples),
        qos_s=scenario.qos_s,
        cores=scenario.context.machine.core_ids,
        seconds=settings.seconds,
        drain_s=settings.drain_qos * max(scenario.qos_s.values()),
        tolerance=config.oracle.tolerance,
    )
    make, launch = policy_maker(config, OURS), launch_of(config)
    study = Measurement(scenario, OURS, make, models, samples, settings, launch, source, memory)
    return {
        OURS: partial(_measure_ours, study),
        **{runtime.name: partial(measure_runtime, field, runtime) for runtime in present},
    }


def _measure_ours(study: Measurement, qps: float, seed: int, folder: Path) -> RateResult:
    try:
        run = measure(replace(study, settings=replace(study.settings, seed=seed)), qps, folder)
    except LoadGenError as error:
        return RateResult(qps, 0, 0.0, 0.0, 0.0, str(error))
    shares, delay_s = run.satisfaction, run.summary.issue_delay_p99_s
    problem = run.problem or ("no query was counted" if shares.invalid else "")
    return RateResult(qps, len(run.records), shares.pooled, shares.minimum, delay_s, problem)


def _never(qps: float) -> Satisfaction:
    raise AssertionError(f"the search asked for {qps} QPS though it was over")
