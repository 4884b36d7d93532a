import numpy as np
import pytest

from tests.support.builders import make_context, make_machine, make_model
from veltair.serving.policies.crowded_times import STEPS, CrowdedTimes, Crowding
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule

NET = make_model("net", (1, 1))
# Two layers of 8 s, on 8 cores 1 s; the most pressure adds 8 s and 4 s on one and two cores, nothing on all.
QUIET, ADDED = np.array([8.0, 4.0, 1.0]), np.array([8.0, 4.0, 0.0])
SECONDS = np.stack([np.stack([QUIET, QUIET + ADDED], axis=-1)] * 2)[:, None]
COUNTS = (1, 2, 8)
CONTEXT = make_context({"net": SECONDS}, [NET], cores=COUNTS, levels=(0.0, 1.0), machine=make_machine(8))


def times_of(context=CONTEXT, **options) -> CrowdedTimes:
    tables = LatencyTables(context, VersionRule.FASTEST_AT_LEVEL)
    return CrowdedTimes(context, tables, **{"tolerance": 0.0, "learns": True} | options)


def test_at_first_the_most_pressure_is_expected() -> None:
    prediction = times_of()("net", 0)
    assert prediction.seconds == (32.0, 16.0, 2.0)
    assert prediction.work == (32.0, 32.0, 16.0)
    assert (prediction.least_s, prediction.efficient) == (2.0, 2)


def test_from_a_later_layer_on_only_the_rest_counts() -> None:
    assert times_of()("net", 1).seconds == (16.0, 8.0, 1.0)
    assert times_of()("net", 2).seconds == (0.0, 0.0, 0.0)


def test_pressure_that_makes_a_layer_faster_adds_nothing() -> None:
    # Repeats scatter: on one core the 8 s became 7 s.
    seconds = SECONDS.copy()
    seconds[:, :, 0, 1] = 7.0
    context = make_context({"net": seconds}, [NET], cores=COUNTS, levels=(0.0, 1.0), machine=make_machine(8))
    assert times_of(context)("net", 0).seconds == (16.0, 16.0, 2.0)


def test_blocks_that_were_faster_make_for_shorter_predictions() -> None:
    times = times_of()
    assert times("net", 0).seconds == (32.0, 16.0, 2.0)
    for _ in range(500):
        times.learn("net", 0, 1, 1, 12.0)  # 4 s of the 8 s that pressure may add
    assert times.crowding.value == pytest.approx(0.5, abs=1 / STEPS)
    assert times("net", 0).seconds == pytest.approx((24.0, 12.0, 2.0), rel=0.05)


def test_nothing_is_learned_where_that_is_switched_off_or_no_layer_ran() -> None:
    deaf = times_of(learns=False)
    for times, stop in ((deaf, 1), (times_of(), 0)):
        for _ in range(100):
            times.learn("net", 0, stop, 1, 8.0)
        assert times.crowding.value == 1.0


@pytest.mark.parametrize(("added_s", "expected"), [(-5.0, 0.0), (9.0, 1.0)])
def test_the_crowding_stays_within_0_and_1(added_s: float, expected: float) -> None:
    crowding = Crowding(1.0)
    for _ in range(500):
        crowding.learn(added_s, 1.0)
    assert crowding.value == expected


def test_the_crowding_follows_in_whole_steps_only() -> None:
    crowding = Crowding(1.0)
    crowding.learn(0.96, 1.0)
    assert crowding.value == 1.0  # 1.94 / 1.98 is less than a step below
    crowding.learn(0.5, 1.0)
    assert crowding.value == round((0.98 * 1.94 + 0.5) / (0.98 * 1.98 + 1.0) * STEPS) / STEPS < 1.0


def test_a_machine_without_pressure_levels_teaches_nothing() -> None:
    context = make_context({"net": SECONDS[..., :1]}, [NET], cores=COUNTS, machine=make_machine(8))
    times = times_of(context)
    times.learn("net", 0, 1, 1, 20.0)
    assert times("net", 0).seconds == (16.0, 8.0, 2.0)
