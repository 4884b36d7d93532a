import pandas as pd
import pytest

from tests.support.evaluation.measured_tables import POLICIES, metric_tables
from tests.support.evaluation.plot_tables import target_table
from veltair.evaluation.reports.measured_summary import comparison_qps, interval_text, measured_sections


def summary(**changes: pd.DataFrame) -> str:
    made = metric_tables() | changes
    names = ("measured_capacity", "measured_ratios", "curves", "slots")
    return "\n".join(measured_sections(*(made[name] for name in names), target_table()))


def cells_of(text: str, policy: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {policy} "))
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_there_is_a_section_of_this_machine_with_a_table_a_workload() -> None:
    text = summary()
    assert "## host, measured here" in text
    assert "### mix (bert_large, " in text
    assert all(cells_of(text, policy) for policy in POLICIES)


def test_a_row_gives_the_rate_its_interval_the_ratio_and_the_metrics_at_a_shared_rate() -> None:
    row = metric_tables()["measured_capacity"].set_index("policy").loc["Planaria"]
    cells = cells_of(summary(), "Planaria")
    assert float(cells[1]) == pytest.approx(row["at_least_qps"], rel=0.01)
    ends = [float(end) for end in cells[2].split(" to ")]
    assert ends == pytest.approx([row["low_qps"], row["high_qps"]], rel=0.01)
    assert float(cells[3]) < float(cells[1])
    assert cells[4:6] == ["1", "\N{EN DASH}"]
    assert float(cells[6].removesuffix(" %")) == pytest.approx(row["at_least_qps"] / 0.8, rel=0.01)
    assert cells[8:] == ["20", "50 %", "10 %"]


def test_a_ratio_is_told_with_its_interval() -> None:
    assert cells_of(summary(), "Faster")[4].startswith("1.11 [")


def test_a_policy_beyond_the_rates_is_told_as_a_bound() -> None:
    bad, good = (cells_of(summary(), policy) for policy in ("Bad", "Good"))
    assert (bad[1], bad[2]) == ("< 10", "< 10 to 10")
    assert (good[1], good[2]) == ("> 40", "40 to > 40")
    assert bad[6] == "< 12.5 %"


def test_the_shared_rate_is_the_one_nearest_to_0_7_of_planarias() -> None:
    made = metric_tables()
    # Planaria serves about 25 queries/s: 17.5 is nearer to 20 than to 10.
    assert comparison_qps(made["curves"], made["measured_capacity"]) == 20.0
    others = made["measured_capacity"][made["measured_capacity"]["policy"] == "Good"]
    assert comparison_qps(made["curves"], others) == 30.0


def test_it_says_how_much_was_measured_and_what_others_used() -> None:
    text = summary()
    assert "n = 500 counted queries a policy and rate, 5 rounds; rates from 10 to 40 QPS" in text
    assert "Other processes and guests used 1 % of the cores in the mean, 1 % at most." in text
    assert "disturbed" not in text


def test_what_was_disturbed_and_what_was_left_out_for_it_is_told() -> None:
    slots = metric_tables()["slots"]
    there = (slots["round"] == 1) & (slots["qps"] == 20.0)
    slots.loc[there, "kept"] = False
    slots.loc[there & (slots["policy"] == "Bad"), "problem"] = "issued late"
    text = summary(slots=slots)
    assert "1 of 80 runs were disturbed and repeated where time was left." in text
    left_out = "Left out for all: round 1 at 0.3 of the sequential rate, as Bad was disturbed: issued late."
    assert f"- {left_out}" in text


def test_no_interval_is_a_dash() -> None:
    nan = float("nan")
    assert interval_text({"low": nan, "high": nan}, 1.0, 2.0) == "\N{EN DASH}"
    assert interval_text({"low": 0.0, "high": float("inf")}, 1.0, 2.0) == "< 1 to > 2"


def test_relaxed_targets_are_told() -> None:
    assert "ssd_resnet34 100 to 184 ms" in summary()
