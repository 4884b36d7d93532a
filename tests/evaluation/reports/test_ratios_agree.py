"""Summary, figures and claims say the same of a capacity ratio, in every case."""

import math
from dataclasses import dataclass

import pandas as pd
import pytest
from matplotlib.axes import Axes

from tests.support.evaluation.claim_tables import SOURCE, claim
from tests.support.evaluation.figure_texts import texts
from tests.support.evaluation.plot_tables import rate_table, seed_table, target_table, unservable
from veltair.evaluation.claims.rules import Verdict
from veltair.evaluation.claims.values import ClaimTables, JudgedClaim, judge_from_tables
from veltair.evaluation.figures.policy_plots import paper_ratio_figure
from veltair.evaluation.figures.sensitivity_plots import paper_scale_figure, paper_sensitivity_figure
from veltair.evaluation.figures.style import PolicyStyle
from veltair.evaluation.metrics.policies_table import PolicyOrder
from veltair.evaluation.reports.summary import summary_markdown

FULL, PLANARIA = "Veltair-FULL", "Planaria"
OPEN, CUT, INVALID = {"high_qps": math.inf}, {"cut": True}, {"invalid": "late"}
ORDER = PolicyOrder(styles=[PLANARIA, FULL])
UNKNOWN = {"qps_at_95": 0.0, "cut": True, "high_qps": 3.0}


@dataclass(frozen=True)
class Case:
    """Two seeds of Veltair-FULL over Planaria, and what all say: a number that is drawn, a text, a claim."""

    full: tuple[float, float] = (15.0, 34.0)
    planaria: tuple[float, float] = (10.0, 20.0)
    full_changes: dict[str, object] | None = None  # of its first seed
    planaria_changes: dict[str, object] | None = None
    drawn: float | None = None
    text: str = ""
    judged: float | None = None
    reason: str = ""


CASES = {
    "both served": Case(drawn=1.6, text="1.6 [0.329, 2.87]", judged=1.6),
    "numerator unservable": Case((0, 0), text="unservable", judged=0.0, reason="unservable (counted as 0)"),
    "numerator unservable with a seed": Case(
        (0, 34),
        text="unservable, 1 of 2 seeds",
        judged=0.85,
        reason="unservable, 1 of 2 seeds (counted as 0)",
    ),
    "numerator open": Case(
        full_changes=OPEN, drawn=1.6, text="≥ 1.6 [0.329, 2.87]", judged=1.6, reason="a lower bound"
    ),
    "numerator cut short": Case(
        full_changes=CUT, drawn=1.6, text="≥ 1.6 [0.329, 2.87]", judged=1.6, reason="a lower bound"
    ),
    "numerator invalid above its answer": Case(
        full_changes=INVALID, drawn=1.6, text="≥ 1.6 [0.329, 2.87]", judged=1.6, reason="a lower bound"
    ),
    "numerator low and open": Case(
        (9, 18), full_changes=OPEN, drawn=0.9, text="≥ 0.9", reason="only known to be 0.9 or more"
    ),
    "numerator unknown": Case(full_changes=UNKNOWN, text="no valid run", reason="no valid run"),
    "denominator unservable": Case(planaria=(0, 0), text="no Planaria", reason="Planaria serves no rate"),
    "denominator unservable with a seed": Case(
        planaria=(0, 20), text="no Planaria", reason="Planaria serves no rate"
    ),
    "denominator open": Case(
        planaria_changes=OPEN, text="Planaria: a lower bound", reason="Planaria: a lower bound"
    ),
    "denominator cut short": Case(
        planaria_changes=CUT, text="Planaria: a lower bound", reason="Planaria: a lower bound"
    ),
    "denominator invalid above its answer": Case(
        planaria_changes=INVALID, text="Planaria: a lower bound", reason="Planaria: a lower bound"
    ),
    "denominator unknown": Case(
        planaria_changes=UNKNOWN, text="no Planaria", reason="Planaria serves no rate"
    ),
    "both unservable": Case((0, 0), (0, 0), text="unservable", reason="unservable"),
}


def seeds_of(case: Case) -> pd.DataFrame:
    made = seed_table([PLANARIA, FULL], [1, 2], ["mix"])
    made["qps_at_95"] = [*map(float, case.planaria), *map(float, case.full)]
    made["high_qps"] = 1.01 * made["qps_at_95"]
    made = unservable(made, made["qps_at_95"] == 0).assign(answer="")
    for policy, changes in ((FULL, case.full_changes), (PLANARIA, case.planaria_changes)):
        for name, value in (changes or {}).items():
            made.loc[(made["policy"] == policy) & (made["seed"] == 1), name] = value
    return made


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def test_the_summary(case: Case) -> None:
    seeds = seeds_of(case)
    text = summary_markdown(seeds, rate_table(seeds), target_table())
    row = next(line for line in text.splitlines() if line.startswith(f"| {FULL} "))
    assert row.split("|")[4].strip() == case.text


def test_the_figure_of_ratios(case: Case) -> None:
    seeds = seeds_of(case)
    figure = paper_ratio_figure(seeds, rate_table(seeds), target_table())
    assert case.text in texts(figure).split("\n")
    (axis,) = figure.axes
    points = [
        float(line.get_xdata()[0])
        for line in axis.lines
        if line.get_marker() == "o" and line.get_ydata()[0] == pytest.approx(1)
    ]
    assert points == ([] if case.drawn is None else [pytest.approx(case.drawn)])


def line_of(axis: Axes) -> list[float]:
    bars = next(container for container in axis.containers if container.get_label() == FULL)
    return list(bars.lines[0].get_ydata())


def test_the_figure_of_assumptions(case: Case) -> None:
    table = seeds_of(case).assign(
        assumption="contention", unit="times", kind="number", value=1.0, label="1", is_default=True
    )
    figure = paper_sensitivity_figure(table.assign(plausible=True, models="resnet50"), target_table(), ORDER)
    assert_points_and_marks(figure.axes[0], texts(figure), case)


def test_the_figure_of_machine_sizes(case: Case) -> None:
    table = seeds_of(case).assign(cores=64, relaxed=0, relaxed_targets="")
    figure = paper_scale_figure(table, target_table(), ORDER)
    assert_points_and_marks(figure.axes[1], texts(figure), case)


def assert_points_and_marks(axis: Axes, shown: str, case: Case) -> None:
    assert line_of(axis) == ([] if case.drawn is None else [pytest.approx(case.drawn)])
    own = PolicyStyle([FULL], ORDER).colours[FULL]
    crosses = [line for line in axis.lines if line.get_marker() == "x" and line.get_color() == own]
    assert any(len(line.get_xdata()) for line in crosses) == case.text.startswith("unservable")
    assert ("Lower bounds" in shown) == case.text.startswith("≥")
    if case.text.startswith(("no Planaria", "Planaria:")):
        assert case.text in [text.get_text() for text in axis.texts]


def judge(case: Case) -> JudgedClaim:
    # A trend passes at its lower end too, so what a lower bound may say is seen in its verdict.
    trend = claim(rule="trend", value=1, accepted=[1, math.inf])
    return judge_from_tables(trend, SOURCE, ClaimTables(seeds_of(case)))


def test_the_claims(case: Case) -> None:
    judged = judge(case)
    assert case.reason in judged.reason
    if case.judged is None:
        assert judged.verdict is Verdict.NOT_COMPUTED and math.isnan(judged.found.mean)
    else:
        assert judged.found.mean == pytest.approx(case.judged)
        assert judged.verdict is (Verdict.PASS if case.judged >= 1 else judged.verdict)
