"""The measured study: LoadGen's Server scenario against the engine, real kernels on this machine's cores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from veltair.compiler.samples import random_samples
from veltair.evaluation.arrivals import share_samples
from veltair.evaluation.capacity import (
    Capacity,
    Criterion,
    Satisfaction,
    SearchSettings,
    Trial,
    find_capacity,
    satisfaction_of,
    warmup_s,
)
from veltair.evaluation.loadgen import LoadGenProcess, ServerRun
from veltair.evaluation.records import Run, to_frame
from veltair.evaluation.study import MakePolicy, Site, capacity_columns, site_columns
from veltair.evaluation.trace import LoadGenError, LoadGenSummary, join
from veltair.machine.gang import on_cores
from veltair.machine.interference import ObservedSlowdown
from veltair.machine.library import LoadedModel
from veltair.machine.placement import spread
from veltair.serving.dispatcher import Dispatcher, serve
from veltair.serving.engine import Engine, Sample
from veltair.serving.query import QueryRecord

SAMPLES_PER_MODEL = 4
END_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """How one rate is measured: for `seconds`, and how long unfinished queries may still run after it."""

    seconds: float
    seed: int
    drain_qos: float


@dataclass(frozen=True, slots=True, eq=False)
class LiveRun:
    """One rate as measured: its records by LoadGen's clock, LoadGen's own account, and wrong answers."""

    qps: float
    records: tuple[QueryRecord, ...]
    count_from_s: float
    summary: LoadGenSummary
    wrong_answers: int

    @property
    def problem(self) -> str:
        """Why the run says nothing about the rate; empty if it is valid."""
        if self.wrong_answers:
            return f"{self.wrong_answers} wrong answers: build the models anew (rule `build`)"
        return self.summary.problem

    @property
    def satisfaction(self) -> Satisfaction:
        """The shares of queries on time."""
        queries = [record.query for record in self.records]
        shares = satisfaction_of(self.records, queries, self.count_from_s)
        return Satisfaction(shares.pooled, shares.minimum, invalid=shares.invalid or bool(self.problem))


def make_samples(models: Mapping[str, LoadedModel], site: Site, seed: int) -> list[tuple[str, Sample]]:
    """Return inputs and right answers by sample index, the answers from runs of one query alone."""
    sample_models = share_samples(site.weights, SAMPLES_PER_MODEL)
    instances = {name: models[name].instance() for name in site.weights}
    samples = []
    with on_cores(site.context.machine.core_ids):
        for number, name in enumerate(sample_models):
            instance = instances[name]
            values = random_samples(instance.model.plan.inputs, [seed, number])
            instance.set_inputs(values)
            solo = [int(version) for version in site.context.costs.model(name).solo]
            samples.append((name, Sample(values, tuple(instance.run(solo)))))
    return samples


def measure(
    site: Site,
    make: MakePolicy,
    models: Mapping[str, LoadedModel],
    samples: Sequence[tuple[str, Sample]],
    settings: LiveSettings,
    qps: float,
    folder: Path,
) -> LiveRun:
    """Serve one rate and return what became of its queries.

    Raises LoadGenError or EngineError if the run failed.
    """
    qos_s = site.qos_s
    server = ServerRun(
        qps=qps,
        min_duration_ms=round(1000 * settings.seconds),
        min_query_count=1,
        seed=settings.seed,
        sample_models=tuple(name for name, _ in samples),
        target_latency_s=min(qos_s.values()),
        outdir=folder,
    )
    engine = Engine(
        models,
        samples,
        qos_s,
        site.context.costs,
        site.context.machine,
        spread,
        ObservedSlowdown(),
        drain_s=settings.drain_qos * max(qos_s.values()),
    )
    try:
        with LoadGenProcess(server) as loadgen:
            loadgen.start(
                on_ready=engine.warm_up,
                on_arrival=engine.arrive,
                on_flush=engine.flush,
                on_failure=engine.fail,
            )
            records = []
            for record in serve(Dispatcher(make(site.context), site.context), engine):
                loadgen.complete(record.query.id)
                records.append(record)
            summary = loadgen.wait(END_TIMEOUT_S)
    finally:
        engine.stop()
    joined = join(records, summary.trace, server.sample_models, summary.origin_s - engine.zero_s)
    first_s = min(record.query.arrival_s for record in joined)
    last_s = max(record.query.arrival_s for record in joined)
    begin_s = first_s + warmup_s(last_s - first_s, max(qos_s.values()))
    return LiveRun(qps, joined, begin_s, summary, engine.wrong_answers)


def search(
    site: Site,
    make: MakePolicy,
    models: Mapping[str, LoadedModel],
    settings: LiveSettings,
    search_settings: SearchSettings,
    common_qps: float,
    estimate_qps: float,
    folder: Path,
) -> tuple[Capacity, Capacity, list[LiveRun]]:
    """Return a policy's capacity, pooled and by the minimum over models, and every run.

    The first rate, `common_qps`, is one that all policies are measured at; it counts towards `max_rates`.
    The second is `estimate_qps`, unless the first one tells that it cannot be the answer. A rate at which
    LoadGen fails is an invalid trial, not the end.
    """
    samples = make_samples(models, site, settings.seed)
    runs: list[LiveRun] = []

    def trial(qps: float) -> Satisfaction:
        try:
            run = measure(site, make, models, samples, settings, qps, folder / f"{len(runs)}-{qps:.4g}qps")
        except LoadGenError as error:
            print(f"{qps:.4g} QPS failed: {error}", flush=True)
            return Satisfaction(0.0, 0.0, invalid=True)
        runs.append(run)
        print(
            f"{qps:.4g} QPS: {len(run.records)} queries, {run.satisfaction.pooled:.1%} on time, "
            f"issue delay p99 {1e3 * run.summary.issue_delay_p99_s:.2f} ms {run.problem}",
            flush=True,
        )
        return run.satisfaction

    known = [Trial(common_qps, trial(common_qps))]
    passed = known[0].satisfaction.pooled >= search_settings.target
    if passed == (estimate_qps > common_qps) and search_settings.max_rates != 1:
        known.append(Trial(estimate_qps, trial(estimate_qps)))
    pooled = find_capacity(trial, estimate_qps, search_settings, known=known)
    minimum = find_capacity(
        trial, estimate_qps, search_settings, criterion=Criterion.MINIMUM, known=pooled.trials
    )
    return pooled, minimum, runs


def live_frame(site: Site, policy: str, runs: Sequence[LiveRun], seed: int) -> pd.DataFrame:
    """Return the records of a policy's runs in one table."""
    frames = []
    for run in runs:
        what = Run(**site_columns(site, "engine", True), policy=policy, qps=run.qps, seed=seed)
        frames.append(to_frame(run.records, what, run.count_from_s))
    return pd.concat(frames, ignore_index=True)


def run_rows(policy: str, runs: Sequence[LiveRun]) -> list[dict[str, Any]]:
    """Return what LoadGen said of each run."""
    return [
        {
            "policy": policy,
            "qps": run.qps,
            "problem": run.problem,
            "queries": len(run.records),
            "wrong_answers": run.wrong_answers,
            "issue_delay_p50_s": run.summary.issue_delay_p50_s,
            "issue_delay_p99_s": run.summary.issue_delay_p99_s,
            "delivery_p99_s": run.summary.delivery_p99_s,
            "loadgen_valid": run.summary.verdict.valid,
            "loadgen_reason": run.summary.verdict.reason,
        }
        for run in runs
    ]


def live_capacity_row(
    site: Site, policy: str, seed: int, common_qps: float, pooled: Capacity, minimum: Capacity
) -> dict[str, Any]:
    """Return a row of the capacity table of measured runs; all policies were run at `common_qps`."""
    return {
        **site_columns(site, "engine", True),
        **capacity_columns(site, policy, seed, pooled, minimum),
        "common_qps": common_qps,
    }
