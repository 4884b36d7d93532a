import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from baselines.fcfs_min import FcfsMin
from tests.support.compiler.unscheduled import unscheduled_versions
from tests.support.onnx_builders import run_onnx
from tests.support.serving.pool_builders import launch_workers
from tests.support.tiny import tiny, tiny_words
from veltair.compiler.build.build import build
from veltair.compiler.frontend.importer import import_model
from veltair.compiler.frontend.model import Layer
from veltair.compiler.search.target import cpu_target
from veltair.evaluation.experiment.scenario import MakePolicy, Scenario, make_scenario
from veltair.evaluation.experiment.timeline_data import TIMELINE, read_recorded
from veltair.evaluation.loadgen.arrivals import server_queries
from veltair.evaluation.loadgen.client import Limits, LoadGenProcess
from veltair.evaluation.loadgen.client_runs import OWN_CLIENT, ServerRun
from veltair.evaluation.loadgen.logs import MIXED, LoadGenError, LoadGenSummary
from veltair.evaluation.loadgen.tenants import TenantLoad, tenant_queries
from veltair.evaluation.measurement import loop_in_c
from veltair.evaluation.measurement.core_use import CoreUse
from veltair.evaluation.measurement.run import (
    RUN_LOG,
    SAMPLES_PER_MODEL,
    MeasuredRun,
    PolicyServer,
    live_frame,
    load_models,
    make_samples,
    measure,
    open_engine,
    policy_verdicts,
    run_rows,
)
from veltair.evaluation.measurement.slots import Slot
from veltair.evaluation.measurement.study import Measurement, MeasurementSettings
from veltair.evaluation.measurement.write_run import QUERIES
from veltair.evaluation.metrics.records import read_records, to_records
from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.native_pool import NativePool
from veltair.serving.engine import native_engine
from veltair.serving.engine.run_log import replay_run_log
from veltair.serving.loop.policy import Answer, Context, Rejection, Snapshot
from veltair.serving.loop.query import Ending
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions
from veltair.serving.policies.presets import PolicySource, make_policy

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]
QOS_S = 10.0  # so wide that no machine misses it
SETTINGS = MeasurementSettings(seconds=1.0, seed=7, drain_qos=4.0)
QPS = 40.0


class RejectAll:
    """Gives every query up at once."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        return [Rejection(entry.query.id, "no") for entry in snapshot.pending]


def fcfs(context: Context) -> FcfsMin:
    return FcfsMin(context, QueueOptions(Order.FCFS, Conflict.WAIT, DropLate.NEVER), alpha=1.0)


@pytest.fixture(scope="module")
def models(tiny_loaded: LoadedModel) -> dict[str, LoadedModel]:
    return {"tiny": tiny_loaded}


@pytest.fixture(scope="module")
def scenario(models: dict[str, LoadedModel]) -> Scenario:
    """Return the tiny network, served alone on the cores there are."""
    return scenario_of(models)


def scenario_of(models: dict[str, LoadedModel]) -> Scenario:
    """Return a machine of the cores there are that serves the models alike, with a table made up."""
    rows = [
        (name, layer, version, cores, 0.0, 0, 1e-4 * (1 + version) / cores, 1.0, 1.0)
        for name, model in models.items()
        for layer in range(len(model.plan.layers))
        for version in range(len(model.plan.of(layer)))
        for cores in range(1, len(CORES) + 1)
    ]
    machine = Machine("toy", 1, (CORES,), 2**19, 2**24, 1e11, 1e11, validated=True)
    layers = {
        name: tuple(Layer(layer.name, layer.structure, layer.macs) for layer in model.plan.layers)
        for name, model in models.items()
    }
    costs = CostTable(pd.DataFrame(rows, columns=list(COLUMNS)), "toy")
    shares = dict.fromkeys(models, 1)
    return make_scenario(Tables(machine, layers, {}, costs), dict.fromkeys(models, QOS_S), 1.0, "mix", shares)


def study_of(
    scenario: Scenario, models: dict[str, LoadedModel], make: MakePolicy = fcfs, **settings: Any
) -> Measurement:
    """Return a study of a policy on freshly made samples."""
    samples = make_samples(models, scenario, SETTINGS.seed)
    return Measurement(
        scenario,
        "Fcfs",
        make,
        models,
        samples,
        replace(SETTINGS, **settings),
        launch_workers,
        ObservedSlowdown(),
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which each policy's run has one of its name."""
    return tmp_path_factory.mktemp("loadgen")


@pytest.fixture(scope="module")
def measured(
    scenario: Scenario, models: dict[str, LoadedModel], folders: Path
) -> Callable[[MakePolicy], MeasuredRun]:
    """Return one second of the real LoadGen against a policy; measured once for each."""
    runs: dict[MakePolicy, MeasuredRun] = {}
    study = study_of(scenario, models)

    def run(make: MakePolicy) -> MeasuredRun:
        if make not in runs:
            runs[make] = measure(replace(study, make=make), QPS, folders / make.__name__)
        return runs[make]

    return run


Measured = Callable[[MakePolicy], MeasuredRun]


@pytest.fixture(scope="module")
def words_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a network of words, built."""
    folder = tmp_path_factory.mktemp("words")
    imported = import_model("words", tiny_words(), QOS_S)
    build(imported, unscheduled_versions(imported), cpu_target(4), folder)
    return folder


@pytest.fixture(scope="module")
def both(tiny_loaded: LoadedModel, words_folder: Path) -> dict[str, LoadedModel]:
    """A network of images and one of words."""
    return {"tiny": tiny_loaded, "words": LoadedModel(words_folder)}


def test_samples_have_the_right_answers(scenario: Scenario, models: dict[str, LoadedModel]) -> None:
    samples = make_samples(models, scenario, seed=3)
    assert [name for name, _ in samples] == ["tiny"] * SAMPLES_PER_MODEL
    for _, sample in samples:
        assert np.allclose(sample.answer[0], run_onnx(tiny(), *sample.values)[0], atol=1e-4)
    assert len({sample.values[0].tobytes() for _, sample in samples}) == SAMPLES_PER_MODEL


def test_models_of_words_and_of_images_are_served_side_by_side(
    both: dict[str, LoadedModel], tmp_path: Path
) -> None:
    study = study_of(scenario_of(both), both)
    for name, sample in study.samples:
        if name == "words":
            assert np.allclose(sample.answer[0], run_onnx(tiny_words(), *sample.values)[0], atol=1e-5)
    run = measure(study, QPS, tmp_path)
    assert {record.query.model for record in run.records} == {"tiny", "words"}
    assert run.wrong_answers == 0
    (row,) = policy_verdicts("Fcfs", [run])
    assert (row["tenant"], row["queries"], row["loadgen_valid"]) == (MIXED, len(run.records), None)


def test_validation_gives_each_model_a_verdict_of_its_own(
    both: dict[str, LoadedModel], tmp_path: Path
) -> None:
    study = study_of(scenario_of(both), both, loadgen_per_model=True)
    run = measure(study, 2 * QPS, tmp_path)
    rows = policy_verdicts("Fcfs", [run])
    assert [(row["policy"], row["qps"], row["tenant"]) for row in rows] == [
        ("Fcfs", 2 * QPS, "tiny"),
        ("Fcfs", 2 * QPS, "words"),
    ]
    assert all(type(row["loadgen_valid"]) is bool for row in rows)
    assert sum(row["queries"] for row in rows) == len(run.records)
    assert (run.wrong_answers, {record.ending for record in run.records}) == (0, {Ending.SERVED})


def test_bursts_are_measured_by_our_own_client_and_said_so(
    scenario: Scenario, models: dict[str, LoadedModel], tmp_path: Path
) -> None:
    tenants = (
        TenantLoad("shop", "tiny", 1.5, QOS_S),
        TenantLoad("batch", "tiny", 1.0, QOS_S, cv=4.0),
    )
    study = study_of(replace(scenario, tenants=tenants), models, seconds=0.5)
    run = measure(study, QPS, tmp_path)
    planned = tenant_queries(tenants, QPS, 500, 1, SETTINGS.seed)
    assert [record.query.sender for record in run.records] == [query.sender for query in planned]
    arrivals_s = np.array([record.query.arrival_s for record in run.records])
    planned_s = np.array([query.arrival_s for query in planned])
    assert (arrivals_s - arrivals_s[0]).tolist() == pytest.approx(
        (planned_s - planned_s[0]).tolist(), abs=1e-8
    )
    assert (run.wrong_answers, {record.ending for record in run.records}) == (0, {Ending.SERVED})
    assert run.quality.client == OWN_CLIENT
    (row,) = policy_verdicts("Fcfs", [run])
    assert (row["loadgen_valid"], row["loadgen_reason"]) == (None, OWN_CLIENT)


def test_a_run_leaves_its_records_as_one_table(measured: Measured, folders: Path) -> None:
    run = measured(fcfs)
    frame = read_records(folders / "fcfs" / QUERIES)
    assert tuple(to_records(frame)) == run.records
    assert frame["counted"].sum() == sum(record.query.arrival_s >= run.count_from_s for record in run.records)
    assert (set(frame["policy"]), set(frame["qps"])) == ({"Fcfs"}, {QPS})


@pytest.mark.parametrize(("make", "served"), [(fcfs, True), (RejectAll, False)])
def test_a_run_can_leave_a_timeline_of_its_blocks_and_draws_nothing(
    scenario: Scenario, models: dict[str, LoadedModel], tmp_path: Path, make: MakePolicy, served: bool
) -> None:
    run = measure(study_of(scenario, models, make, seconds=0.2, timeline=True), QPS, tmp_path)
    recorded = read_recorded(tmp_path / TIMELINE)
    assert recorded.timeline.cores_from == "granted by the backend"
    assert recorded.run.qps == QPS
    queries = {span.query.id for span in recorded.timeline.spans}
    assert len(queries) == served * len(run.records)
    assert list(tmp_path.glob("*.png")) == []


def test_models_that_do_not_fit_together_are_loaded_when_a_query_needs_them(
    both: dict[str, LoadedModel], tiny_folder: Path, words_folder: Path, tmp_path: Path
) -> None:
    scenario = scenario_of(both)
    largest = max(model.bytes_needed() for model in both.values())
    models, memory = load_models({"tiny": tiny_folder, "words": words_folder}, scenario.weights, largest)
    assert memory is not None
    samples, launch = make_samples(models, scenario, 7, memory), partial(NativePool, build_dir=tmp_path)
    settings = replace(SETTINGS, seconds=0.5)
    study = Measurement(scenario, "Fcfs", fcfs, models, samples, settings, launch, ObservedSlowdown(), memory)
    run = measure(study, QPS, tmp_path / "run")
    assert (run.wrong_answers, {record.ending for record in run.records}) == (0, {Ending.SERVED})
    assert memory.counts.evictions > 4
    assert len(memory.resident) == 1


def test_no_run_leaves_a_model_in_use_for_the_next(
    tiny_folder: Path, models: dict[str, LoadedModel], scenario: Scenario, tmp_path: Path
) -> None:
    loaded, memory = load_models({"tiny": tiny_folder}, scenario.weights, models["tiny"].bytes_needed())
    assert memory is not None
    study = replace(study_of(scenario, models, RejectAll, seconds=0.1), models=loaded, memory=memory)
    memory.acquire("tiny")  # as a block that runs when the time is up
    measure(study, QPS, tmp_path)
    with pytest.raises(LookupError, match="nobody uses it"):
        memory.release("tiny")


def test_cores_are_placed_as_the_configuration_says(
    scenario: Scenario, models: dict[str, LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placements, layout = [], native_engine.core_layout

    def written_down(machine: Machine, placement: str, arrays: Any) -> Any:
        placements.append(placement)
        return layout(machine, placement, arrays)

    monkeypatch.setattr(native_engine, "core_layout", written_down)
    measure(study_of(scenario, models, seconds=0.1, placement="pinned"), QPS, tmp_path)
    assert placements == ["pinned"]


def test_what_one_run_taught_of_the_pressure_is_forgotten_before_the_next(
    scenario: Scenario, models: dict[str, LoadedModel], tmp_path: Path
) -> None:
    study = study_of(scenario, models, seconds=0.1)
    study.interference.observe(2.0, 1.0, 2.0)
    assert study.interference.pressure() > 0
    # No block of this table can teach anything: pressure has no effect in it.
    measure(study, QPS, tmp_path)
    assert study.interference.pressure() == 0.0


def test_every_query_of_loadgen_has_one_record_in_the_order_of_issue(
    measured: Measured, scenario: Scenario
) -> None:
    run = measured(fcfs)
    planned = server_queries(
        QPS, 1000, 1, 7, sample_models=("tiny",) * SAMPLES_PER_MODEL, qos_s=scenario.qos_s
    )
    assert len(run.records) == len(run.summary.log) == run.summary.verdict.query_count == len(planned) > 1
    assert [record.query.id for record in run.records] == list(range(len(planned)))
    arrivals_s = np.array([record.query.arrival_s for record in run.records])
    assert (arrivals_s - arrivals_s[0]).tolist() == pytest.approx([query.arrival_s for query in planned])


def test_every_query_is_served_right_and_on_time(measured: Measured) -> None:
    run = measured(fcfs)
    assert {record.ending for record in run.records} == {Ending.SERVED}
    assert all(record.latency_s > 0 and record.core_s > 0 for record in run.records)
    assert run.wrong_answers == 0
    assert all(record.on_time for record in run.records)


def test_warm_up_is_a_tenth_of_the_time_from_the_first_arrival_to_the_last(measured: Measured) -> None:
    # The engine's clock ran while LoadGen started: that time is none of the run's.
    run = measured(fcfs)
    first_s, last_s = (run.records[index].query.arrival_s for index in (0, -1))
    assert first_s > 0
    assert run.count_from_s == pytest.approx(first_s + 0.1 * (last_s - first_s))


def test_records_are_on_the_clock_of_the_engine(
    scenario: Scenario, models: dict[str, LoadedModel], tmp_path: Path
) -> None:
    begin_s = time.monotonic()
    run = measure(study_of(scenario, models, seconds=0.1), QPS, tmp_path)
    took_s = time.monotonic() - begin_s
    assert all(0 < record.query.arrival_s < record.end_s < took_s for record in run.records)


def test_a_policy_that_rejects_everything_misses_everything_though_loadgen_sees_fast_answers(
    measured: Measured,
) -> None:
    run = measured(RejectAll)
    assert {record.ending for record in run.records} == {Ending.REJECTED}
    assert not any(record.on_time for record in run.records)
    assert run.summary.verdict.late_count == 0


def test_wrong_answers_spoil_a_run(measured: Measured) -> None:
    run = replace(measured(fcfs), wrong_answers=2)
    assert run.quality.problem == "2 wrong answers: build the models anew (rule `build`)"


def test_a_late_loadgen_spoils_a_run_and_so_do_others_on_its_cores(measured: Measured) -> None:
    run = measured(fcfs)
    assert isinstance(run.summary, LoadGenSummary)
    disturbed = replace(run, summary=replace(run.summary, problem=""), use=CoreUse(0.5, 0.0))
    assert disturbed.quality.problem.startswith("others used 50.0% of the cores")
    late = replace(disturbed, summary=replace(run.summary, problem="late"))
    assert late.quality.problem == "late"


def test_runs_are_told_with_what_loadgen_said(measured: Measured) -> None:
    run = measured(fcfs)
    (row,) = run_rows("Fcfs", [run])
    assert (row["policy"], row["qps"], row["queries"]) == ("Fcfs", QPS, len(run.records))
    assert row["decision_s"] > 0 and 0 < row["loadgen_cores"] < 1
    (row,) = policy_verdicts("Fcfs", [run])
    assert (row["tenant"], row["loadgen_valid"]) == ("tiny", run.summary.verdict.valid)


def test_records_of_several_runs_make_one_table(
    measured: Measured, scenario: Scenario, models: dict[str, LoadedModel]
) -> None:
    run = measured(fcfs)
    frame = live_frame(study_of(scenario, models), [run, replace(run, qps=80.0)])
    assert frame.groupby("qps").size().to_dict() == {40.0: len(run.records), 80.0: len(run.records)}
    assert set(frame["backend"]) == {"engine"}
    counted = sum(record.query.arrival_s >= run.count_from_s for record in run.records)
    assert frame["counted"].sum() == 2 * counted < 2 * len(run.records)


class Stopped(LoadGenProcess):
    """A LoadGen that is suspended as soon as its clock runs."""

    def __init__(self, run: ServerRun) -> None:
        super().__init__(run, Limits(stall_s=0.2))

    def go(self) -> None:
        super().go()
        os.kill(self.pids[0], signal.SIGSTOP)


def test_a_loadgen_that_hangs_is_a_loadgen_error(
    scenario: Scenario, models: dict[str, LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_in_c, "LoadGenProcess", Stopped)
    with pytest.raises(LoadGenError, match="LoadGen hangs: query"):
        measure(study_of(scenario, models), QPS, tmp_path)


def test_the_log_of_a_run_can_be_decided_again(
    scenario: Scenario, models: dict[str, LoadedModel], tmp_path: Path
) -> None:
    source = PolicySource("baselines.fcfs_min:FcfsMin", "paper", {"drop_late": "never"})
    study = replace(
        study_of(
            scenario, models, lambda context: make_policy(source.path, context, "paper", source.options)
        ),
        source=source,
        settings=replace(SETTINGS, seconds=0.2, timeline=True),
    )
    measure(study, QPS, tmp_path)
    assert replay_run_log(tmp_path / RUN_LOG) == ""


class Killed(LoadGenProcess):
    """A LoadGen that dies as soon as its clock runs."""

    def go(self) -> None:
        super().go()
        os.kill(self.pids[0], signal.SIGKILL)


def test_a_loadgen_that_dies_is_a_loadgen_error(
    scenario: Scenario, models: dict[str, LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_in_c, "LoadGenProcess", Killed)
    with pytest.raises(LoadGenError, match="killed by signal 9"):
        measure(study_of(scenario, models), QPS, tmp_path)


def test_an_engine_serves_one_policy_after_another_and_none_leaves_anything_to_the_next(
    scenario: Scenario, models: dict[str, LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(scenario, models, seconds=0.2)
    rejecting = replace(study, policy="RejectAll", make=RejectAll)
    made = count_instances(monkeypatch)
    with open_engine(study) as engine:
        before, slots = made(), [Slot(number, 0.5, QPS, seed) for number, seed in enumerate((5, 6, 5))]
        served = [
            PolicyServer(study, engine).serve(slots[0], tmp_path / "0"),
            PolicyServer(rejecting, engine).serve(slots[1], tmp_path / "1"),
            PolicyServer(study, engine).serve(slots[2], tmp_path / "2"),
        ]
    assert made() == before
    frames = [one.records for one in served]
    assert [set(frame["ending"]) for frame in frames] == [{"served"}, {"rejected"}, {"served"}]
    assert [set(frame["seed"]) for frame in frames] == [{5}, {6}, {5}]
    assert [set(frame["policy"]) for frame in frames] == [{"Fcfs"}, {"RejectAll"}, {"Fcfs"}]
    # One schedule, whenever it is served, and on the clock of its own run.
    first, again = (frame["arrival_s"] - frame["arrival_s"].iloc[0] for frame in (frames[0], frames[2]))
    assert np.allclose(first, again)
    assert frames[2]["arrival_s"].iloc[0] < 10.0
    assert [row["tenant"] for one in served for row in one.verdicts] == ["tiny"] * 3


def count_instances(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return what tells how many instances of models were made since."""
    counted, make = [0], LoadedModel.instance

    def instance(model: LoadedModel) -> Any:
        counted[0] += 1
        return make(model)

    # Of the class: models are shared by all tests, and one that was patched itself would keep an attribute.
    monkeypatch.setattr(LoadedModel, "instance", instance)
    return lambda: counted[0]


def test_an_engine_goes_on_after_a_loadgen_that_died(
    scenario: Scenario, models: dict[str, LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(scenario, models, seconds=0.2)
    with open_engine(study) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(loop_in_c, "LoadGenProcess", Killed)
            with pytest.raises(LoadGenError):
                measure(study, QPS, tmp_path / "dead", engine)
        run = measure(study, QPS, tmp_path / "alive", engine)
    assert {record.ending for record in run.records} == {Ending.SERVED}


def test_a_run_has_at_least_as_many_queries_as_asked(
    scenario: Scenario, models: dict[str, LoadedModel], tmp_path: Path
) -> None:
    run = measure(study_of(scenario, models, seconds=0.01, queries=30), 10 * QPS, tmp_path)
    assert len(run.records) == 30


def test_a_run_tells_what_others_used_of_its_cores(measured: Measured) -> None:
    use = measured(fcfs).use
    assert 0.0 <= use.steal <= use.others <= 1.0
