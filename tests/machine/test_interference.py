import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.machine.interference import ObservedSlowdown

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
