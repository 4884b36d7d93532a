import re
from dataclasses import replace
from math import nan

import pandas as pd
import pytest

from tests.support.evaluation.traffic_tables import traffic_table
from tests.support.evaluation.validation_builders import make_run, make_targets
from veltair.evaluation.metrics.policies_table import NONE
from veltair.evaluation.validation.anchors import Anchor
from veltair.evaluation.validation.goals import GOALS, Finding, by_policy
from veltair.evaluation.validation.report import Evidence, validation_markdown, verdict_lines
from veltair.evaluation.validation.trace_errors import PairOrder, run_metrics, trace_errors

ANCHORS = (
    Anchor("a", "ResNet-50 on the whole CPU", "ms", 6.0, 7.5),
    Anchor("b", "4 GoogLeNets on 16 cores each", "times", 1.8, reason="profile it"),
)


def plain(text: str) -> str:
    """Return a page without the spaces that line up its tables."""
    return re.sub(" +", " ", text)


@pytest.fixture(scope="module")
def found() -> Evidence:
    measured, simulated = (
        run_metrics(make_run([seconds] * 4), make_targets(), 2) for seconds in (0.010, 0.012)
    )
    errors = trace_errors(measured, [simulated], [measured])
    co_runs = pd.DataFrame(
        {
            "corun": [0, 1],
            "held_out": [False, True],
            "measured_slowdown": [1.2, 1.4],
            "unfitted_error": [0.0, 0.25],
        }
    )
    findings = [
        Finding(GOALS["p50_error"], 0.2, 0.0, (0.2,), "runs"),
        Finding(GOALS["ranking_tau"], nan, nan, (), "pairs of 1", "measure longer"),
    ]
    pairs = [PairOrder("Ours", "Theirs", -0.002, 0.001, 0.0, 0.001)]
    return Evidence("toy", 2, findings, errors, by_policy(errors), pairs, co_runs, 1.5, ANCHORS)


def test_the_first_line_says_whether_the_machine_may_be_labelled(found: Evidence) -> None:
    line = plain(validation_markdown(found)).splitlines()[2]
    assert "toy (2 cores) may not be labelled validated" in line and "16 or more are asked for" in line


def test_each_number_stands_beside_the_null_models_its_goal_and_its_verdict(found: Evidence) -> None:
    row = "| `p50_error` | median latency, mean of runs | 0.2 | 0 | ≤ 0.08 | **missed** | 1 runs |"
    assert row in plain(validation_markdown(found))


def test_a_number_that_is_not_computed_is_shown_with_its_reason(found: Evidence) -> None:
    text = plain(validation_markdown(found))
    assert "**not computed**" in text and "`ranking_tau` is not computed: measure longer." in text


def test_a_pair_that_the_simulator_turns_around_is_named(found: Evidence) -> None:
    assert "- Ours less Theirs: mean latency -2.00 ms measured, +1.00 ms simulated" in validation_markdown(
        found
    )


def test_the_run_that_is_furthest_off_is_named(found: Evidence) -> None:
    text = plain(validation_markdown(found))
    assert "p50_error: 0.2: Ours on load at 20 queries/s, measured 0.01, simulated 0.012, 4 queries" in text


def test_what_was_fitted_is_said_with_the_error_of_what_runs(found: Evidence) -> None:
    text = plain(validation_markdown(found))
    assert "the scale of demand, 1.5. The simulator runs with 1, which errs by 0.25" in text


def test_published_numbers_stand_beside_the_model_and_its_gaps(found: Evidence) -> None:
    text = plain(validation_markdown(found))
    assert f"| ResNet-50 on the whole CPU | 6 ms | 7.5 ms | {NONE} | +25 % |" in text
    assert (
        f"| 4 GoogLeNets on 16 cores each | 1.8 times | not computed: profile it | {NONE} | {NONE} |" in text
    )


def test_traffic_has_a_section_where_it_was_compared(found: Evidence) -> None:
    table = traffic_table((4, 2), (1, 2))
    assert "## Traffic" not in plain(validation_markdown(found))
    assert "## Traffic\n\nModelled ÷ simulated bytes" in validation_markdown(replace(found, traffic=table))


def test_a_line_a_goal_ends_a_run(found: Evidence) -> None:
    assert verdict_lines(found.findings) == [
        "p50_error: 0.2 (goal ≤ 0.08): missed; without contention 0, n = 1",
        f"ranking_tau: {NONE} (goal ≥ 0.9): not computed; without contention {NONE}, n = 0; measure longer",
    ]
