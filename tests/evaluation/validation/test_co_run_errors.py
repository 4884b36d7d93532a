from collections.abc import Mapping, Sequence

import pandas as pd
import pytest

from tests.support.evaluation.validation_builders import pressing_tables
from tests.support.table_builders import make_tables
from veltair.evaluation.validation.co_run_errors import (
    SCALES,
    CoRun,
    co_run_table,
    fit_demand,
    held_out,
    measured_co_runs,
    predict_pairs,
    predicted_slowdowns,
    slowdown_error,
    tenants_of,
)
from veltair.evaluation.validation.co_runs import ALONE, BESIDE, COLUMNS, CoRunModel

SMALL = CoRunModel("small", "local", (0, 0), 1)
LARGE = CoRunModel("large", "local", (0, 0, 0), 1)
TOLERANT = CoRunModel("large", "parallel", (1, 1, 1), 1)


def samples(*rows: tuple[int, int, str, str, float]) -> pd.DataFrame:
    """Return samples of (corun, side, model, kind, seconds), all local on one core."""
    filled = [(corun, side, model, "local", 1, 0, kind, s) for corun, side, model, kind, s in rows]
    return pd.DataFrame(filled, columns=list(COLUMNS))


def one_pair(corun: int, alone_s: float, beside_s: float) -> list[tuple[int, int, str, str, float]]:
    return [
        (corun, side, "small", kind, seconds)
        for side in (0, 1)
        for kind, seconds in ((ALONE, alone_s), (BESIDE, beside_s))
    ]


def test_a_measured_slowdown_is_the_median_beside_over_the_median_alone() -> None:
    table = samples(*one_pair(0, 1.0, 1.4), (0, 0, "small", BESIDE, 1.5), (0, 0, "small", BESIDE, 9.0))
    assert [one.slowdown for one in measured_co_runs(table)] == [pytest.approx(1.5), pytest.approx(1.4)]


@pytest.mark.parametrize("left_out", [0, 1, 2, 3])
def test_a_co_run_without_a_side_or_a_kind_is_refused(left_out: int) -> None:
    rows = one_pair(0, 1.0, 1.4)
    with pytest.raises(ValueError, match="two sides, timed alone and beside"):
        measured_co_runs(samples(*rows[:left_out], *rows[left_out + 1 :]))


def test_samples_without_a_column_are_refused() -> None:
    with pytest.raises(ValueError, match=r"columns \['kind'\] are missing"):
        measured_co_runs(samples(*one_pair(0, 1.0, 1.4)).drop(columns="kind"))


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_co_run_that_took_no_time_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="co-run 3, side 1"):
        CoRun(3, 1, seconds, 1.0)


def test_tenants_are_read_back_from_the_samples() -> None:
    tables = make_tables()
    table = samples(*one_pair(4, 1.0, 1.4))
    table["versions"] = ["solo", "solo", "parallel", "parallel"]
    assert tenants_of(table, tables) == {
        4: (CoRunModel("small", "solo", (0, 0), 1), CoRunModel("small", "parallel", (1, 1), 1))
    }


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("model", "huge", "huge was not profiled"),
        ("cores", 7, "7 cores were not profiled"),
        ("versions", "x", "'x'"),
    ],
)
def test_samples_that_the_tables_do_not_cover_are_refused(column: str, value: object, text: str) -> None:
    with pytest.raises(LookupError, match=text):
        tenants_of(samples(*one_pair(0, 1.0, 1.4)).assign(**{column: value}), make_tables())


def test_tenants_that_ask_for_half_of_the_bandwidth_meet_half_of_the_pressure() -> None:
    # Each layer takes 1 + pressure as long, and each tenant meets 0.5 at any time.
    assert predicted_slowdowns(pressing_tables(), [SMALL, SMALL]) == pytest.approx([1.5, 1.5])


def test_a_short_tenant_runs_over_and_over_beside_a_long_one() -> None:
    assert predicted_slowdowns(pressing_tables(), [SMALL, LARGE]) == pytest.approx([1.5, 1.5])


def test_a_tolerant_version_is_not_slowed_but_slows() -> None:
    assert predicted_slowdowns(pressing_tables(), [SMALL, TOLERANT]) == pytest.approx([1.5, 1.0])


def test_three_tenants_press_on_each_other_together() -> None:
    tables = pressing_tables(share=0.25)
    assert predicted_slowdowns(tables, [SMALL] * 3) == pytest.approx([1.5] * 3)


def test_tenants_that_move_nothing_slow_nobody() -> None:
    assert predicted_slowdowns(make_tables(slowdown=1.0), [SMALL, LARGE]) == pytest.approx([1.0, 1.0])


def test_the_noise_of_the_tables_does_not_reach_a_prediction() -> None:
    noisy = make_tables(slowdown=1.0, noise=(0.5, 1.0, 1.5))
    assert predicted_slowdowns(noisy, [SMALL, LARGE]) == pytest.approx([1.0, 1.0])


def test_tenants_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"need 6 cores, but toy has 4"):
        predicted_slowdowns(pressing_tables(), [CoRunModel("small", "local", (0, 0), 3)] * 2)


@pytest.mark.parametrize(("scale", "slowdown"), [(0.5, 1.25), (1.0, 1.5), (2.0, 2.0)])
def test_more_demand_slows_more(scale: float, slowdown: float) -> None:
    predicted = predict_pairs(pressing_tables(), {0: (SMALL, SMALL)}, "spread", scale)
    assert predicted == {0: pytest.approx([slowdown, slowdown])}


def test_only_the_pairs_asked_for_are_predicted() -> None:
    pairs = {0: (SMALL, SMALL), 1: (SMALL, LARGE)}
    assert list(predict_pairs(pressing_tables(), pairs, "spread", 1.0, held_out)) == [1]


def test_the_scale_that_made_the_slowdowns_is_found() -> None:
    tables, pairs = pressing_tables(share=0.2), {0: (SMALL, SMALL), 2: (SMALL, LARGE)}
    truth = predict_pairs(tables, pairs, "spread", 2.0)
    measured = [CoRun(corun, side, 1.0, truth[corun][side]) for corun in pairs for side in (0, 1)]
    assert fit_demand(measured, lambda scale: predict_pairs(tables, pairs, "spread", scale)) == pytest.approx(
        2.0
    )


def test_pairs_held_out_take_no_part_in_the_fit() -> None:
    def predict(scale: float) -> Mapping[int, Sequence[float]]:
        return {0: [scale, scale], 1: [scale, scale]}

    measured = [CoRun(0, 0, 1.0, 4.0), CoRun(0, 1, 1.0, 4.0), CoRun(1, 0, 1.0, 1.0), CoRun(1, 1, 1.0, 1.0)]
    assert fit_demand(measured, predict) == 4.0


def test_slowdowns_that_do_not_depend_on_the_scale_leave_it_at_one() -> None:
    assert 1.0 in SCALES
    assert fit_demand([CoRun(0, 0, 1.0, 1.3)], lambda _: {0: [1.0, 1.0]}) == 1.0


def test_nothing_to_fit_on_is_refused() -> None:
    with pytest.raises(ValueError, match="measure two pairs at least"):
        fit_demand([CoRun(1, 0, 1.0, 1.3)], lambda _: {1: [1.0, 1.0]})


def test_errors_of_slowdowns_stand_beside_the_null_models() -> None:
    row = co_run_table([CoRun(1, 0, 1.0, 2.0)], {1: (SMALL, LARGE)}, {1: [1.8, 1.0]}, {1: [1.5, 1.0]}).iloc[0]
    assert (row["error"], row["unfitted_error"], row["null_error"]) == pytest.approx((0.1, 0.25, 0.5))
    assert (row["models"], bool(row["held_out"])) == ("small beside large", True)


def test_the_error_of_a_slowdown_is_relative_to_the_measured_one() -> None:
    assert slowdown_error(1.0, 1.25) == pytest.approx(0.2)
    assert slowdown_error(1.5, 1.25) == pytest.approx(0.2)
