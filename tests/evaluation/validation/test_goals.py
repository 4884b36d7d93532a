from math import isnan, nan

import pandas as pd
import pytest

from tests.support.evaluation.validation_builders import make_run, make_targets
from veltair.evaluation.validation.goals import (
    GOALS,
    LEAST_CORES,
    Finding,
    Goal,
    GoalStatus,
    by_policy,
    co_run_finding,
    cost_finding,
    may_be_validated,
    ranking_finding,
    trace_findings,
)
from veltair.evaluation.validation.trace_errors import PairOrder, run_metrics, trace_errors

LOW, HIGH = Goal("error", "an error", "share", 0.1), Goal("tau", "an order", "τ", 0.9, at_least=True)


def finding(name: str, value: float, note: str = "") -> Finding:
    return Finding(GOALS[name], value, nan, (), "runs", note)


def all_met() -> list[Finding]:
    return [finding(name, 1.0 if goal.at_least else 0.0) for name, goal in GOALS.items()]


def errors_of(*policies: str, simulated_s: float = 0.012) -> pd.DataFrame:
    runs, again, null = (
        pd.concat([make_run([seconds] * 4, policy=policy) for policy in policies])
        for seconds in (0.010, simulated_s, 0.005)
    )
    tables = [run_metrics(frame, make_targets(), 2) for frame in (runs, again, null)]
    return trace_errors(tables[0], [tables[1]], [tables[2]])


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        (LOW, 0.1, GoalStatus.MET),
        (LOW, 0.1001, GoalStatus.MISSED),
        (HIGH, 0.9, GoalStatus.MET),
        (HIGH, 0.8999, GoalStatus.MISSED),
        (LOW, nan, GoalStatus.NOT_COMPUTED),
        (HIGH, nan, GoalStatus.NOT_COMPUTED),
    ],
)
def test_a_goal_is_met_up_to_its_limit(goal: Goal, value: float, verdict: GoalStatus) -> None:
    assert goal.verdict(value) is verdict


def test_the_goals_are_those_of_the_project() -> None:
    assert {name: goal.limit for name, goal in GOALS.items()} == {
        "cost_error_median": 0.10,
        "corun_error_median": 0.10,
        "qps_error": 0.05,
        "p50_error": 0.08,
        "p95_error": 0.08,
        "satisfaction_error_points": 2.0,
        "ranking_tau": 0.9,
    }
    assert [name for name, goal in GOALS.items() if goal.at_least] == ["ranking_tau"]


def test_a_number_that_is_not_computed_says_why() -> None:
    with pytest.raises(ValueError, match="say in `note` why"):
        finding("p50_error", nan)


def test_the_cost_models_error_is_the_median_over_held_out_cells() -> None:
    cells = pd.DataFrame(
        {
            "measured_s": [1.0, 1.0, 2.0, 4.0],
            "modelled_s": [9.0, 1.1, 2.6, 4.8],
            "null_s": [9.0, 1.5, 1.0, 3.0],
            "held_out": [False, True, True, True],
        }
    )
    found = cost_finding(cells)
    assert (found.value, found.null) == (pytest.approx(0.2), pytest.approx(0.5))
    assert found.samples == pytest.approx((0.1, 0.3, 0.2))


def test_a_profile_of_one_core_count_tests_no_cost_model() -> None:
    cells = pd.DataFrame({"measured_s": [1.0], "modelled_s": [1.0], "null_s": [1.0], "held_out": [False]})
    found = cost_finding(cells)
    assert found.verdict is GoalStatus.NOT_COMPUTED and "profile more than one core count" in found.note


def test_the_error_of_co_runs_is_the_median_over_those_held_out() -> None:
    co_runs = pd.DataFrame(
        {"held_out": [True, False, True], "error": [0.1, 9.0, 0.3], "null_error": [0.2, 9.0, 0.8]}
    )
    found = co_run_finding(co_runs)
    assert (found.value, found.null, found.verdict) == (
        pytest.approx(0.2),
        pytest.approx(0.5),
        GoalStatus.MISSED,
    )


def test_errors_of_traces_come_with_their_null_models_and_samples() -> None:
    found = {one.goal.name: one for one in trace_findings(errors_of("Ours", "Theirs"), [])}
    median = found["p50_error"]
    assert (median.value, median.null) == (pytest.approx(0.2), pytest.approx(0.5))
    assert len(median.samples) == 2 and median.verdict is GoalStatus.MISSED


def test_runs_that_served_nothing_leave_no_error_and_say_so() -> None:
    errors = errors_of("Ours").assign(error=nan)
    assert {one.verdict for one in trace_findings(errors, [])} == {GoalStatus.NOT_COMPUTED}


def test_the_order_of_policies_counts_significant_pairs_only() -> None:
    pairs = [PairOrder("a", "b", 1.0, 1.0, -1.0, 0.001), PairOrder("a", "c", 1.0, -1.0, 1.0, 0.9)]
    found = ranking_finding(pairs)
    assert (found.value, found.null, len(found.samples)) == (1.0, -1.0, 1)


def test_without_a_significant_pair_there_is_no_order() -> None:
    found = ranking_finding([PairOrder("a", "b", 1.0, 1.0, 1.0, 0.9)])
    assert isnan(found.value) and "none of 1 pairs" in found.note


def test_each_policy_has_its_own_mean_errors() -> None:
    errors = errors_of("Ours", "Theirs")
    errors.loc[(errors["policy"] == "Theirs") & (errors["metric"] == "latency_p50_s"), "error"] = 0.7
    rows = by_policy(errors).set_index("policy")
    assert rows.loc["Ours", "p50_error"] == pytest.approx(0.2)
    assert (rows.loc["Theirs", "p50_error"], rows.loc["Theirs", "runs"]) == (pytest.approx(0.7), 1)


def test_a_machine_of_sixteen_cores_that_meets_all_goals_may_be_called_validated() -> None:
    assert may_be_validated(all_met(), LEAST_CORES) == (True, "")


def test_a_machine_of_fewer_cores_may_not() -> None:
    allowed, why = may_be_validated(all_met(), 15)
    assert not allowed and why == "it has 15 cores, 16 or more are asked for"


@pytest.mark.parametrize("name", GOALS)
def test_each_goal_that_is_missed_forbids_the_label(name: str) -> None:
    missed = -1.0 if GOALS[name].at_least else 9.0
    found = [finding(name, missed) if one.goal.name == name else one for one in all_met()]
    assert may_be_validated(found, 64) == (False, f"missed: {name}")


@pytest.mark.parametrize("name", GOALS)
def test_a_number_that_is_missing_or_not_computed_forbids_the_label(name: str) -> None:
    others = [one for one in all_met() if one.goal.name != name]
    assert may_be_validated(others, 64) == (False, f"{name} was not looked at")
    assert may_be_validated([*others, finding(name, nan, "too short")], 64) == (
        False,
        f"not computed: {name}",
    )
