"""How many queries Veltair serves in time beside what a user would serve them with today.

Same cores, models, targets, schedules and LoadGen; policies of ours and other runtimes are measured at the
same rates in the same rounds, so that all meet the same disturbances and ratios are paired.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from veltair.compiler.frontend.samples import Samples
from veltair.config import Config
from veltair.evaluation.experiment.benchmark_file import BenchmarkResult
from veltair.evaluation.experiment.scenario import Scenario, policy_maker, scenario_of
from veltair.evaluation.measurement.interference_steps import started_source
from veltair.evaluation.measurement.rounds import Attempt, Server, attempt_rows, kept_records
from veltair.evaluation.measurement.run import (
    PolicyServer,
    load_models,
    make_samples,
    open_engine,
)
from veltair.evaluation.measurement.steps import launch_of, live_settings, measured_rounds, memory_bytes
from veltair.evaluation.measurement.study import Measurement
from veltair.evaluation.metrics.bounds import Reach
from veltair.evaluation.metrics.measured_tables import measured_workloads, slot_counts
from veltair.evaluation.metrics.resampling import BoundedEstimate, Resampled, best
from veltair.evaluation.runtimes.process import Field, write_field_samples
from veltair.evaluation.runtimes.registry import Runtime, runtimes
from veltair.evaluation.runtimes.server import RuntimeServer
from veltair.machine.costs.folder import read_tables

COMMAND = "snakemake --cores all benchmarks_engine"
# Those of ours that are compared, as far as the configuration has them; ratios are of the best.
OURS = ("Veltair-FULL-shipped", "Veltair-FULL", "Veltair-AC", "PreemptiveEdf", "Planaria")


@dataclass(frozen=True, slots=True)
class ServedFiles:
    """What is served: ONNX files and built models by name, and the cost tables of this machine."""

    models: Mapping[str, Path]
    builds: Mapping[str, Path]
    tables: Path


def served_figures(config: Config, files: ServedFiles) -> dict[str, BenchmarkResult]:
    """Measure policies of ours and all runtimes that are installed, and return the ratios and every QPS.

    The workload is the first one that the configuration measures. Raises LookupError if the configuration
    lacks all of the policies, ServedRuntimeError if a runtime fails or answers wrongly.
    """
    ours = [name for name in OURS if name in config.policies]
    if not ours:
        raise LookupError(f"the configuration has none of {', '.join(OURS)}; add one to `policies`")
    scenario = scenario_of(config, read_tables(files.tables), config.measured.workloads[0])
    present = installed(runtimes(scenario.context.machine.cores))
    with (
        TemporaryDirectory() as name,
        opened(config, files, scenario, ours, present, Path(name)) as servers,
    ):
        # As many rounds as a run of the policies alone has in its time.
        times = len(servers) / len(config.policies if config.compared is None else config.compared)
        attempts = measured_rounds(config, scenario, Path(name), times).measure(servers)
    found = crossings(config, scenario, attempts)
    lows_qps, highs_qps = (end(config.measured.shares) * scenario.sequential_qps for end in (min, max))
    told = f"workload {scenario.workload}, rates from {lows_qps:.3g} to {highs_qps:.3g} queries/s"
    return ratio_figures(found, ours, present, told) | rate_figures(found, told)


def installed(known: Sequence[Runtime]) -> list[Runtime]:
    """Return the runtimes whose package is there; a line says which figure is left out for want of one."""
    missing = {(figure, one.backend) for one in known if not one.installed for figure in one.figures}
    for figure, package in sorted(missing):
        print(f"{figure} is left out: {package} is not installed (pip install {package})", flush=True)
    return [one for one in known if one.installed]


@contextmanager
def opened(
    config: Config,
    files: ServedFiles,
    scenario: Scenario,
    ours: Sequence[str],
    present: Sequence[Runtime],
    folder: Path,
) -> Iterator[dict[str, Server]]:
    """Give whoever takes part, by name and ready: all have the same samples, cores and targets."""
    models, memory = load_models(files.builds, scenario.weights, memory_bytes(config))
    samples = make_samples(models, scenario, config.measured.seed, memory)
    # Runtimes are asked by one LoadGen, and so is the engine.
    settings = replace(live_settings(config), loadgen_per_model=False, timeline=False)
    inputs: list[tuple[Samples, Samples]] = [(sample.values, sample.answer) for _, sample in samples]
    write_field_samples(folder / "samples", inputs)
    field = Field(
        models={name: files.models[name].resolve() for name in scenario.weights},
        samples=folder / "samples",
        sample_models=tuple(name for name, _ in samples),
        qos_s=scenario.qos_s,
        cores=scenario.context.machine.core_ids,
        seconds=settings.seconds,
        queries=settings.queries,
        drain_s=settings.drain_qos * max(scenario.qos_s.values()),
        tolerance=config.oracle.tolerance,
        machine=scenario.context.machine.name,
        validated=scenario.context.machine.validated,
        workload=scenario.workload,
    )
    with ExitStack() as stack:
        source, _ = stack.enter_context(started_source(config, scenario.context.machine))
        studies = [
            Measurement(
                *(scenario, name, policy_maker(config, name), models, samples),
                *(settings, launch_of(config), source, memory),
            )
            for name in ours
        ]
        engine = stack.enter_context(open_engine(studies[0]))
        servers: dict[str, Server] = {study.policy: PolicyServer(study, engine) for study in studies}
        for runtime in present:
            home = folder / runtime.name.replace(" ", "-")
            servers[runtime.name] = stack.enter_context(RuntimeServer(field, runtime, home))
        yield servers


def crossings(config: Config, scenario: Scenario, attempts: Sequence[Attempt]) -> dict[str, Resampled]:
    """Return the QPS at 95 % QoS of everybody, all by the same resamples of the rounds."""
    slots = pd.DataFrame([{"workload": scenario.workload, **row} for row in attempt_rows(attempts)])
    counts, generator = (
        slot_counts(kept_records(attempts), slots),
        np.random.default_rng(config.measured.seed),
    )
    (found,) = measured_workloads(counts, scenario.satisfaction, generator)
    return dict(found.crossings)


def ratio_figures(
    found: Mapping[str, Resampled], ours: Sequence[str], present: Sequence[Runtime], told: str
) -> dict[str, BenchmarkResult]:
    """Return our best ÷ the best runtime of each figure, and each policy of ours ÷ it, paired by round.

    A figure that nothing is known of is left out, and a line says so.
    """
    figures = {}
    for figure in dict.fromkeys(figure for runtime in present for figure in runtime.figures):
        names = [runtime.name for runtime in present if figure in runtime.figures]
        theirs = best([found[name] for name in names])
        of = {figure: best([found[name] for name in ours])}
        of |= {f"{figure}_{name}": found[name] for name in ours}
        for key, own in of.items():
            who = "the best of ours" if key == figure else key.removeprefix(f"{figure}_")
            unit = f"QPS at 95 % QoS, {who} ÷ {'the best of ' * (len(names) > 1)}{', '.join(names)}, {told}"
            if (result := bounded_result(own.over(theirs).estimate, unit)) is None:
                print(f"{key} is left out: both are on one side of the rates that were measured", flush=True)
            else:
                figures[key] = result
    return figures


def rate_figures(found: Mapping[str, Resampled], told: str) -> dict[str, BenchmarkResult]:
    """Return everybody's QPS at 95 % QoS, or the end of the rates that it is beyond."""
    figures = {}
    for name, own in found.items():
        if result := bounded_result(own.estimate, f"QPS at 95 % QoS, {told}"):
            figures[f"served_qps_{name.replace(' ', '_')}"] = result
    return figures


def bounded_result(estimate: BoundedEstimate, unit: str) -> BenchmarkResult | None:
    """Return a number with its interval, whose unit says where it is a bound; None if nothing is known."""
    reach, ends = estimate.found.reach, (estimate.low, estimate.high)
    if reach is Reach.UNKNOWN:
        return None
    bound = {Reach.BELOW: "at most; ", Reach.ABOVE: "at least; "}.get(reach, "")
    low, high = (end if isfinite(end) else None for end in ends)
    text = f"{bound}{unit}, {estimate.rounds} rounds"
    return BenchmarkResult(estimate.found.value, text, (estimate.found.value,), COMMAND, (low, high))
