"""What policies read of pressure."""

import numpy as np
import pytest

from veltair.serving.simulator.pressure_sensor import NoisyPressure, SensorError


def read(error: SensorError, pressure: float, events: int) -> list[float]:
    sensor, found = NoisyPressure(error), []
    for _ in range(events):
        found.append(sensor.read(pressure))
        sensor.next_event()
    return found


def test_without_an_error_the_pressure_is_read():
    assert read(SensorError(), 0.3, 3) == [0.3] * 3


def test_a_reading_stays_a_pressure():
    found = read(SensorError(sigma=3.0), 0.5, 100)
    assert {0.0, 1.0} <= set(found)
    assert all(0.0 <= pressure <= 1.0 for pressure in found)


def test_errors_have_the_spread_that_was_asked_for():
    # 10 000 draws: the standard deviation is known to about 1 %.
    assert np.std(read(SensorError(sigma=0.05), 0.5, 10_000)) == pytest.approx(0.05, rel=0.04)


def test_a_seed_gives_the_same_errors_again():
    assert read(SensorError(sigma=0.1, seed=3), 0.5, 9) == read(SensorError(sigma=0.1, seed=3), 0.5, 9)
    assert read(SensorError(sigma=0.1, seed=3), 0.5, 9) != read(SensorError(sigma=0.1, seed=4), 0.5, 9)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_an_error_that_is_no_amount_is_refused(value):
    with pytest.raises(ValueError, match=f"sigma is {value}; give a finite number, 0 or more"):
        SensorError(sigma=value)
