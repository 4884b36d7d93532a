"""What policies are told of pressure."""

import numpy as np
import pytest

from veltair.serving.simulator.pressure_sensor import NoisyPressure, SensorError


def told(error: SensorError, pressure: float, events: int) -> list[float]:
    proxy, found = NoisyPressure(error), []
    for _ in range(events):
        found.append(proxy.tell(pressure))
        proxy.next_event()
    return found


def test_without_an_error_the_pressure_is_told():
    assert told(SensorError(), 0.3, 3) == [0.3] * 3


def test_pressure_is_rounded_to_a_multiple_of_the_step():
    assert told(SensorError(step=0.25), 0.4, 1) == [0.5]


def test_what_is_told_stays_a_pressure():
    found = told(SensorError(sigma=3.0), 0.5, 100)
    assert {0.0, 1.0} <= set(found)
    assert all(0.0 <= pressure <= 1.0 for pressure in found)


def test_errors_have_the_spread_that_was_asked_for():
    # 10 000 draws: the standard deviation is known to about 1 %.
    assert np.std(told(SensorError(sigma=0.05), 0.5, 10_000)) == pytest.approx(0.05, rel=0.04)
    assert np.std(told(SensorError(relative_sigma=0.1), 0.5, 10_000)) == pytest.approx(0.05, rel=0.04)


def test_a_seed_gives_the_same_errors_again():
    assert told(SensorError(sigma=0.1, seed=3), 0.5, 9) == told(SensorError(sigma=0.1, seed=3), 0.5, 9)
    assert told(SensorError(sigma=0.1, seed=3), 0.5, 9) != told(SensorError(sigma=0.1, seed=4), 0.5, 9)


@pytest.mark.parametrize("name", ["sigma", "relative_sigma", "step"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_an_error_that_is_no_amount_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; give a finite number, 0 or more"):
        SensorError(**{name: value})
