import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.machine.interference.source import ObservedSlowdown, PressureFit, RecentReadings

TIMES = st.floats(1e-6, 1e3)


def pressure_after(*blocks: tuple[float, float, float]) -> float:
    """Return the pressure after blocks of (measured, alone, at full pressure) seconds."""
    source = ObservedSlowdown()
    for block in blocks:
        source.observe(*block)
    return source.pressure()


def test_nothing_observed_is_no_pressure() -> None:
    assert pressure_after() == 0.0


def test_a_block_counts_a_quarter_of_its_place_between_alone_and_full_pressure() -> None:
    # (1.75 - 1) / (2 - 1) = 0.75, a quarter of it 0.1875.
    assert pressure_after((1.75, 1.0, 2.0)) == 0.1875


def test_the_average_moves_a_quarter_of_the_way_to_each_new_block() -> None:
    # Place 1: 0.25; place 1: 0.25 + 0.75 / 4 = 0.4375; place 0.5: 0.4375 + 0.0625 / 4 = 0.453125.
    assert pressure_after((2.0, 1.0, 2.0), (4.0, 2.0, 4.0), (3.0, 2.0, 4.0)) == 0.453125


@pytest.mark.parametrize(("measured_s", "pressure"), [(0.1, 0.0), (1.0, 0.0), (2.0, 0.25), (50.0, 0.25)])
def test_a_block_outside_of_its_profiled_times_counts_as_the_nearer_of_them(
    measured_s: float, pressure: float
) -> None:
    assert pressure_after((measured_s, 1.0, 2.0)) == pressure


@pytest.mark.parametrize("pressed_s", [0.5, 1.0, 1.01])
def test_a_block_that_pressure_does_not_slow_teaches_nothing(pressed_s: float) -> None:
    assert pressure_after((2.0, 1.0, 2.0), (1.0, 1.0, pressed_s), (9.0, 1.0, pressed_s)) == 0.25


def test_a_block_without_a_profiled_time_teaches_nothing() -> None:
    assert pressure_after((1.0, 0.0, 1.0)) == 0.0


@given(st.lists(st.tuples(TIMES, TIMES, TIMES), max_size=20))
def test_pressure_stays_between_none_and_full(blocks: list[tuple[float, float, float]]) -> None:
    assert 0.0 <= pressure_after(*blocks) <= 1.0


def make_fit(
    *coefficients: float,
    intercept: float = 0.1,
    source: str = "observed slowdown",
    features: tuple[str, ...] = ObservedSlowdown().features,
) -> PressureFit:
    return PressureFit(source, features, coefficients, intercept, r_squared=0.9, mean_absolute_error=0.1)


def test_a_fit_adds_its_intercept_and_each_weighted_feature() -> None:
    # 0.1 + 0.5 * 0.4 + 2 * 0.1 = 0.5.
    assert make_fit(0.5, 2.0, features=("a", "b")).pressure((0.4, 0.1)) == pytest.approx(0.5)


@pytest.mark.parametrize(("intercept", "reading", "pressure"), [(-0.5, 0.2, 0.0), (0.5, 0.9, 1.0)])
def test_a_fitted_pressure_is_clipped(intercept: float, reading: float, pressure: float) -> None:
    assert make_fit(1.0, intercept=intercept).pressure((reading,)) == pressure


def test_a_reading_of_other_length_than_the_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        make_fit(1.0).pressure((0.1, 0.2))


@pytest.mark.parametrize("coefficients", [(), (1.0, 2.0), (-0.1,), (float("nan"),), (float("inf"),)])
def test_a_fit_that_cannot_be_is_refused(coefficients: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="PressureFit of observed slowdown"):
        make_fit(*coefficients)


def test_a_fit_survives_json() -> None:
    fit = make_fit(0.25)
    assert PressureFit.from_dict(json.loads(json.dumps(fit.as_dict()))) == fit


@pytest.mark.parametrize("values", [{}, {"features": ["a"], "coefficients": [1.0], "colour": "red"}])
def test_what_is_no_fit_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no fit of pressure"):
        PressureFit.from_dict(values)


def test_the_observed_slowdown_is_mapped_by_its_fit() -> None:
    source = ObservedSlowdown(fit=make_fit(0.5))
    source.observe(2.0, 1.0, 2.0)
    # The average is 0.25: 0.1 + 0.5 * 0.25.
    assert source.reading() == (0.25,)
    assert source.pressure() == pytest.approx(0.225)


@pytest.mark.parametrize("fit", [make_fit(1.0, source="perf"), make_fit(1.0, features=("another",))])
def test_a_fit_of_another_source_or_feature_is_refused(fit: PressureFit) -> None:
    with pytest.raises(ValueError, match="fit this source on this machine"):
        ObservedSlowdown(fit=fit)


def test_recent_readings_give_the_middle_of_the_last_few_by_feature() -> None:
    recent = RecentReadings(window=3)
    for reading in [(9.0, 9.0), (0.1, 0.5), (0.2, 0.6), (5.0, 0.4)]:
        recent.add(reading)
    assert recent.middle() == (0.2, 0.5)


def test_nothing_read_yet_is_an_error_and_no_zero() -> None:
    with pytest.raises(RuntimeError, match="start the source of interference first"):
        RecentReadings().middle()


def test_a_failure_is_told_in_place_of_old_readings() -> None:
    recent = RecentReadings()
    recent.add((0.5,))
    recent.fail("the reader broke")
    with pytest.raises(RuntimeError, match="the reader broke"):
        recent.middle()
    with pytest.raises(RuntimeError, match="the reader broke"):
        recent.wait_for(2, timeout_s=60.0)


def test_waiting_for_readings_that_do_not_come_ends() -> None:
    with pytest.raises(RuntimeError, match=r"only 0 of 1 readings came within 0\.01 s"):
        RecentReadings().wait_for(1, timeout_s=0.01)
