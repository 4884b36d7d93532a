import pandas as pd
import pytest

from tests.support.figure_texts import texts
from tests.support.isolation_tables import AGGRESSOR, equal_drops_table, neighbour_table
from tests.support.plot_tables import rate_table, seed_table, target_table
from veltair.evaluation.figures.isolation_plots import (
    paper_equal_drops_figure,
    paper_noisy_neighbour_figure,
)
from veltair.evaluation.metrics.policies_table import AS_THEY_COME, PolicyOrder


def one_line(figure: object) -> str:
    return " ".join(texts(figure).split())


def test_the_others_are_drawn_over_what_one_sends_and_that_one_under_them() -> None:
    upper, lower = paper_noisy_neighbour_figure(neighbour_table(["FcfsMin"], [1]), target_table()).axes
    assert list(upper.lines[0].get_xdata()) == [0, 1, 4, 10]
    # 0.98 - 0.09 x what it sends, of each of the others alike.
    assert upper.lines[0].get_ydata() == pytest.approx([98, 89, 62, 8])
    assert list(lower.lines[0].get_xdata()) == [1, 4, 10]  # at 0 it sends nothing
    assert lower.get_ylabel().startswith(AGGRESSOR)


def test_seeds_are_drawn_as_their_mean_with_a_band() -> None:
    upper = paper_noisy_neighbour_figure(neighbour_table(["FcfsMin"], [1, 3]), target_table()).axes[0]
    assert upper.lines[0].get_ydata()[0] == pytest.approx(97)
    assert len(upper.collections) == 1


def test_the_caption_says_who_sends_more_of_what_load_and_who_drew_the_arrivals() -> None:
    shown = one_line(paper_noisy_neighbour_figure(neighbour_table(), target_table()))
    assert f"One tenant, {AGGRESSOR}, sends more than its share" in shown
    assert "0.5 of the reference rate" in shown and "drawn by our own client, a path a tenant" in shown


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(ValueError, match="noisy_neighbour is empty"):
        paper_noisy_neighbour_figure(neighbour_table()[:0], target_table())


def drops(ruled: pd.DataFrame, order: PolicyOrder = AS_THEY_COME) -> object:
    seeds = seed_table(["Planaria", "FcfsMin"], [1, 2], ["mix"])
    return paper_equal_drops_figure(ruled, seeds, rate_table(seeds), target_table(), order)


def ruled() -> pd.DataFrame:
    return equal_drops_table(seed_table(["Planaria", "FcfsMin"], [1, 2], ["mix"]))


def test_a_bar_is_what_the_one_rule_serves_and_a_diamond_what_the_own_one_does() -> None:
    (axis,) = drops(ruled()).axes
    usual = (
        seed_table(["Planaria", "FcfsMin"], [1, 2], ["mix"]).groupby("policy", sort=False)["qps_at_95"].mean()
    )
    diamonds = next(line for line in axis.lines if line.get_marker() == "D")
    assert diamonds.get_xdata() == pytest.approx(usual.to_list())
    assert [bar.get_width() for bar in axis.patches] == pytest.approx((1.2 * usual).to_list())


def test_the_caption_states_the_rule_in_place_of_the_policies_own_and_names_who_has_none() -> None:
    own = {"order": "fcfs", "drop_late": "never"}
    order = PolicyOrder(options={"Planaria": own, "FcfsMin": {"order": "fcfs"}})
    table = ruled()
    table.loc[table["policy"] == "FcfsMin", "drop_late"] = ""
    shown = one_line(drops(table, order))
    assert "drop_late is when_doomed" in shown and "Without that option: FcfsMin." in shown
    assert "Options order, drop_late: fcfs, when_doomed; but fcfs, \N{EN DASH} of FcfsMin." in shown
