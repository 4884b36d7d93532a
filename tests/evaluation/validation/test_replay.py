from dataclasses import replace

import pandas as pd
import pytest

from tests.support.table_builders import make_config
from tests.support.validation_builders import make_run, pressing_tables
from veltair.evaluation.experiment.scenario import Scenario, policy_maker, scenario_of
from veltair.evaluation.simulation.run import SimulationSettings, beside_loadgen
from veltair.evaluation.validation.replay import replayed, replays, runs_of
from veltair.evaluation.validation.trace_errors import TraceError
from veltair.machine.costs.block_costs import BlockCosts
from veltair.serving.policies.presets import make_policy

SETTINGS = SimulationSettings(queries=1, drain_qos=10.0)
CONFIG = make_config()


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return scenario_of(CONFIG, pressing_tables(), "mix")


def recorded(count: int = 4, **changes: object) -> pd.DataFrame:
    """Return measured queries for the small model, all at almost the same time."""
    given = {"model": "small", "workload": "mix", "policy": "FcfsMin", "gap_s": 1e-4, "first_s": 5.0}
    return make_run([0.5] * count, **(given | changes))  # type: ignore[arg-type]


def test_the_recorded_queries_come_again_at_the_same_times(scenario: Scenario) -> None:
    run = recorded(warm_up=2)
    again = replayed(run, scenario, policy_maker(CONFIG, "FcfsMin"), SETTINGS, seed=1)
    assert again["arrival_s"].to_list() == pytest.approx((run["arrival_s"] - 5.0).to_list())
    assert again["query_id"].to_list() == run["query_id"].to_list()
    assert again["counted"].to_list() == [False, False, True, True]
    assert set(again["backend"]) == {"simulator"} and not again["validated"].any()


def test_without_contention_queries_beside_each_other_are_served_as_fast_as_alone(scenario: Scenario) -> None:
    (contended,), (flat,) = replays(recorded(), scenario, policy_maker(CONFIG, "FcfsMin"), SETTINGS, count=1)
    assert flat["latency_s"].mean() < contended["latency_s"].mean()


def test_each_replay_draws_its_own_noise_and_the_null_model_the_same(scenario: Scenario) -> None:
    simulated, flat = replays(recorded(), scenario, policy_maker(CONFIG, "FcfsMin"), SETTINGS, count=3)
    assert len(simulated) == len(flat) == 3


def test_the_runs_of_a_table_are_checked_one_by_one() -> None:
    records = pd.concat([recorded(), recorded(qps=30.0)], ignore_index=True)
    assert [len(run) for run in runs_of(records)] == [4, 4]
    records.loc[7, "arrival_s"] = 0.0
    with pytest.raises(TraceError, match="out of order"):
        list(runs_of(records))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"machine": "other"}, "measured on other, the cost tables are of toy"),
        ({"workload": "heavy"}, "a run of workload heavy was given for mix"),
        ({"backend": "simulator"}, "comes from backend simulator; give measured runs"),
    ],
)
def test_runs_of_another_machine_workload_or_backend_are_refused(
    scenario: Scenario, changes: dict[str, object], text: str
) -> None:
    with pytest.raises(TraceError, match=text):
        replayed(recorded(**changes), scenario, policy_maker(CONFIG, "FcfsMin"), SETTINGS, seed=1)


def test_a_replay_waits_for_decisions_and_for_loadgen_at_the_pace_of_the_machine(scenario: Scenario) -> None:
    def latency_s(**terms: float) -> float:
        costs = BlockCosts(decision_s=terms.get("decision_s", 0.0))
        other = {"loadgen_cores": terms.get("loadgen_cores", 0.0), "pace": terms.get("pace", 1.0)}
        asked = replace(SETTINGS, costs=costs, contention=0.0, **other)
        alone = recorded(1)
        again = replayed(
            alone,
            scenario,
            lambda context: make_policy("baselines.fcfs_all:FcfsAll", context, "paper", {}),
            asked,
            seed=1,
        )
        return float(again["latency_s"].iloc[0])

    plain_s = latency_s()
    assert latency_s(decision_s=0.001) == pytest.approx(plain_s + 0.001)
    # A block on all 4 cores stands still whenever LoadGen runs: half of the time.
    assert latency_s(loadgen_cores=0.5) == pytest.approx(2 * plain_s)
    assert latency_s(pace=1.25) == pytest.approx(1.25 * plain_s)
    assert latency_s(pace=1.25, loadgen_cores=0.5) == pytest.approx(2.5 * plain_s)


def test_loadgen_takes_less_of_a_block_on_fewer_cores(scenario: Scenario) -> None:
    costs, context = beside_loadgen(scenario.context, 0.5), scenario.context
    slower = costs.model("small").seconds / context.costs.model("small").seconds
    assert slower[0, 0, :, 0] == pytest.approx([1 / (1 - 0.5 * cores / 4) for cores in context.costs.cores])
    assert costs.repeats["seconds"].sum() > context.costs.repeats["seconds"].sum()
    assert costs.model("small").noise.tolist() == context.costs.model("small").noise.tolist()


def test_a_loadgen_that_leaves_no_time_is_refused(scenario: Scenario) -> None:
    with pytest.raises(ValueError, match="LoadGen keeps 1 cores busy"):
        beside_loadgen(scenario.context, 1.0)


def test_a_settings_placement_is_the_simulators(scenario: Scenario) -> None:
    pinned = replace(SETTINGS, placement="nowhere")
    with pytest.raises(ValueError, match="nowhere"):
        replayed(recorded(), scenario, policy_maker(CONFIG, "FcfsMin"), pinned, seed=1)
