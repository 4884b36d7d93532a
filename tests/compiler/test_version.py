from math import inf

from veltair.compiler.tiling import Tiling
from veltair.compiler.version import Candidate

TILING = Tiling(4, 10, 20)


def test_the_median_of_an_even_number_of_times_is_between_the_middle_two() -> None:
    assert Candidate("a", 0, TILING, (4.0, 1.0, 3.0, 100.0), None).median_seconds == 3.5


def test_a_candidate_that_did_not_run_takes_for_ever() -> None:
    assert Candidate("a", 0, TILING, (), None).median_seconds == inf
