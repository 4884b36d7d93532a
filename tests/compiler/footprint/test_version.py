from math import inf, nan

import pytest

from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.footprint.version import Candidate

TILING = Tiling(4, 10, 20)


def test_the_median_of_an_even_number_of_times_is_between_the_middle_two() -> None:
    assert Candidate("a", 0, TILING, (4.0, 1.0, 3.0, 100.0), None).median_seconds == 3.5


def test_a_candidate_that_did_not_run_takes_for_ever() -> None:
    assert Candidate("a", 0, TILING, (), None).median_seconds == inf


def test_on_other_cores_it_takes_as_many_rounds_as_its_iterations_need() -> None:
    # 6 iterations: 6 rounds on 1 core, 2 on 4, 1 on 6 and more.
    one = Candidate("a", 0, Tiling(6, 10, 20), (12.0,), None)
    assert [one.seconds_on(cores) for cores in (1, 4, 6, 64)] == [12.0, 4.0, 2.0, 2.0]


def test_a_time_on_several_cores_is_brought_to_one_by_its_rounds() -> None:
    # Measured on 4 cores, 6 iterations took 2 rounds of 2 s: 6 rounds on one.
    one = Candidate("a", 0, Tiling(6, 10, 20), (4.0,), None, measured_cores=4)
    assert [one.seconds_on(cores) for cores in (1, 4, 6)] == [12.0, 4.0, 2.0]


def test_without_a_parallel_loop_more_cores_do_not_help() -> None:
    assert Candidate("a", 0, Tiling(1, 10, 20), (3.0,), None).seconds_on(64) == 3.0


def test_a_candidate_that_did_not_run_takes_for_ever_on_any_cores() -> None:
    assert Candidate("a", 0, TILING, (), None).seconds_on(8) == inf


@pytest.mark.parametrize("seconds", [0.0, -1.0, inf, nan])
def test_a_time_that_is_not_positive_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="times are positive"):
        Candidate("a", 0, TILING, (1.0, seconds), None)


def test_no_cores_are_refused() -> None:
    with pytest.raises(ValueError, match="measured on 0 cores"):
        Candidate("a", 0, TILING, (1.0,), None, measured_cores=0)


def test_traffic_for_some_caches_only_is_refused() -> None:
    with pytest.raises(ValueError, match="traffic for 2 caches"):
        Candidate("a", 0, TILING, (1.0,), None, traffic_bytes=(1, 2))
