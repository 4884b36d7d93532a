import math
import re

import pandas as pd
import pytest

from tests.support.evaluation.plot_tables import (
    ENGINE,
    SIMULATOR,
    SIX,
    rate_table,
    seed_table,
    target_table,
    unservable,
)
from veltair.evaluation.reports.summary import summary_markdown

DASH = "\N{EN DASH}"


def summary(seeds: pd.DataFrame, rates: pd.DataFrame | None = None, **options: object) -> str:
    made = seeds.assign(answer="")
    return summary_markdown(made, rate_table(made) if rates is None else rates, target_table(), **options)


def cells_of(text: str, policy: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {policy} "))
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_there_is_a_section_a_source_and_a_row_a_policy_in_order() -> None:
    text = summary(seed_table(workloads=["mix"], sites=[ENGINE, SIMULATOR]), figures=["figures/latency.png"])
    assert text.index("## host, measured here") < text.index("## threadripper-3990x, simulated: UNVALIDATED")
    indices = [text.index(f"| {policy} ") for policy in SIX]
    assert indices == sorted(indices)
    assert "- figures/latency.png" in text


def test_a_row_gives_rates_ratios_shares_and_metrics_at_both_loads() -> None:
    seeds = seed_table(["LayerWise", "Planaria"], [1, 2], ["mix"]).assign(
        qps_at_95=[4.0, 10.0, 8.0, 10.0], qps_at_95_minimum=[3.0, 9.0, 7.0, 9.0], fluid_qps=40.0
    )
    # Equal load is 0.7 of Planaria's 8 and 10; each seed has its own runs.
    rates = rate_table(seeds, (0.7,)).assign(latency_mean_s=[0.1, 0.3, 0.2, 0.2], cpu_efficiency=0.5)
    cells = cells_of(summary(seeds, rates), "LayerWise")
    assert cells[:6] == ["LayerWise", "7", "6", "0.75 [-2.43, 3.93]", "1", "17.5 %"]
    assert cells[7:9] == ["200", "50 %"]


def test_ratios_are_those_of_the_seeds_and_not_of_the_means() -> None:
    seeds = seed_table(["Planaria", "Veltair-FULL"], [1, 2], ["mix"])
    seeds["qps_at_95"] = [10.0, 20.0, 15.0, 40.0]
    assert cells_of(summary(seeds), "Veltair-FULL")[3].startswith("1.75 [")


def test_what_was_unservable_not_run_or_relaxed_is_told() -> None:
    seeds = seed_table(SIX, [1], ["mix"])
    rates = rate_table(seeds)
    text = summary(unservable(seeds, seeds["policy"] == "FcfsMin")[seeds["policy"] != "Veltair-FULL"], rates)
    assert cells_of(text, "FcfsMin")[1:6] == ["unservable", DASH, "unservable", "unservable", DASH]
    assert cells_of(text, "Veltair-FULL")[1:6] == ["not run", *[DASH] * 4]
    assert "- FcfsMin on mix: unservable, no rate that was tried met the QoS (seed 1)." in text
    assert "ssd_resnet34 100 to 184 ms" in text and not re.search(r"\bnan\b", text)


def test_a_policy_unservable_with_some_seeds_has_no_mean_of_rates_and_zeros() -> None:
    seeds = seed_table(["Planaria", "Veltair-AS"], [1, 2, 3], ["mix"])
    text = summary(unservable(seeds, (seeds["policy"] == "Veltair-AS") & (seeds["seed"] < 3)))
    assert cells_of(text, "Veltair-AS")[1:4] == [
        "unservable, 2 of 3 seeds",
        DASH,
        "unservable, 2 of 3 seeds",
    ]
    assert "(seeds 1, 2)" in text


@pytest.mark.parametrize(
    ("changes", "cell", "note"),
    [
        ({"cut": True, "resolution": 0.2}, "60†", "search cut short (†), at a resolution of 20 %"),
        ({"cut": True, "high_qps": math.inf}, "≥ 60†", "(†), no rate above is known to miss the QoS"),
        ({"invalid": "late"}, "≥ 60", "a run of the search was invalid: late"),
        ({"qps_at_95": 0.0, "cut": True, "high_qps": 3.0}, "< 3†", "no rate met the QoS down to 3 queries/s"),
    ],
)
def test_searches_that_ended_early_are_marked_and_explained(
    changes: dict[str, object], cell: str, note: str
) -> None:
    seeds = seed_table(["Planaria"], [1], ["mix"]).assign(qps_at_95=60.0)
    text = summary(seeds.assign(**changes))
    assert cells_of(text, "Planaria")[1] == cell and note in text


def test_a_rate_that_is_not_the_wanted_one_stands_beside_its_number() -> None:
    seeds = seed_table(["Planaria"], [1], ["mix"]).assign(qps_at_95=10.0)
    text = summary(seeds, rate_table(seeds, (0.7,)).assign(qps=7.7, latency_mean_s=0.05))
    assert "latency at 7 QPS, ms" in text and "50 (7.7 QPS)" in text


def test_where_nothing_can_be_served_nothing_is_divided() -> None:
    seeds = seed_table(["Planaria"], [1], ["mix"])
    text = summary(unservable(seeds, seeds["seed"] == 1))
    assert cells_of(text, "Planaria")[1:6] == ["unservable", DASH, "unservable", "unservable", DASH]
    assert not re.search(r"\bnan\b", text)


def test_a_name_with_a_bar_does_not_break_the_table() -> None:
    text = summary(seed_table(["a|b"], [1], ["mix"]))
    line = next(line for line in text.splitlines() if "a\\|b" in line)
    assert line.replace("\\|", "").count("|") == 11
