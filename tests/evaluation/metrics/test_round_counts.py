from math import inf

import numpy as np
import pandas as pd
import pytest

from veltair.evaluation.metrics.bounds import Bounds
from veltair.evaluation.metrics.capacity import Criterion
from veltair.evaluation.metrics.resampling import Times
from veltair.evaluation.metrics.round_counts import RoundCounts, round_counts

QPS = np.array([10.0, 20.0])
ALL: Times = np.array([[1, 1]])
FIRST: Times = np.array([[2, 0]])


def counts(*rounds: list[list[tuple[int, int]]]) -> RoundCounts:
    """Return the counts of rounds: at each rate a pair (counted, on time) for each model."""
    table = np.array(rounds)
    return RoundCounts(QPS, table[..., 0], table[..., 1])


# Of two models: in the first round all on time at 10 queries/s, 15 of 20 at 20; in the second 16 and 5 of 20.
TWO = counts([[(10, 10), (10, 10)], [(10, 10), (10, 5)]], [[(10, 10), (10, 6)], [(10, 5), (10, 0)]])


def test_rounds_are_pooled_query_by_query() -> None:
    assert TWO.shares().tolist() == [36 / 40, 20 / 40]


def test_a_resample_counts_a_round_as_often_as_it_was_drawn() -> None:
    assert TWO.curves(FIRST)[0].tolist() == [1.0, 0.75]


def test_the_least_satisfaction_is_that_of_the_worst_model_over_all_rounds() -> None:
    assert TWO.curve(Criterion.MINIMUM).tolist() == [16 / 20, 5 / 20]


def test_the_crossing_is_found_in_all_rounds_and_in_each_resample() -> None:
    found = TWO.crossings(np.array([[2, 0], [0, 2], [1, 1]]), 0.95)
    assert found.found == Bounds(0.0, 10.0)
    # The first round alone falls from 1 to 0.75: 0.95 a fifth of the way; the others miss at 10.
    assert found.at_least.tolist() == pytest.approx([12.0, 0.0, 0.0])
    assert found.at_most.tolist() == pytest.approx([12.0, 10.0, 10.0])
    assert found.rounds == 2


def test_a_rate_that_a_resample_lacks_is_passed_over() -> None:
    # The second round has nothing at 20 queries/s; drawn alone it meets the target wherever it was asked.
    found = counts([[(10, 10)], [(10, 0)]], [[(10, 10)], [(0, 0)]]).crossings(
        np.array([[0, 2], [1, 1]]), 0.95
    )
    assert found.at_least.tolist() == pytest.approx([10.0, 10.5])
    assert found.at_most.tolist() == pytest.approx([inf, 10.5])


def test_a_model_that_a_resample_does_not_ask_for_is_not_the_worst() -> None:
    lacking = counts([[(10, 10), (0, 0)], [(10, 9), (0, 0)]], [[(10, 10), (5, 1)], [(10, 9), (5, 0)]])
    assert lacking.curves(FIRST, Criterion.MINIMUM)[0].tolist() == [1.0, 0.9]


def test_a_rate_without_any_query_has_no_satisfaction() -> None:
    empty = counts([[(10, 10)], [(0, 0)]])
    assert empty.curve()[0] == 1.0
    assert np.isnan(empty.curve()[1])


def test_a_table_of_counts_is_laid_out_alike_for_all_policies() -> None:
    columns = ["policy", "round", "qps", "tenant", "counted", "on_time"]
    rows = [("A", 3, 20.0, "b", 7, 6), ("A", 1, 10.0, "a", 5, 5), ("B", 3, 10.0, "a", 4, 0)]
    found = round_counts(pd.DataFrame(rows, columns=columns))
    assert list(found) == ["A", "B"]
    assert found["A"].qps.tolist() == [10.0, 20.0]
    # Rounds 1 and 3; models b and a, as they come.
    assert found["A"].counted.tolist() == [[[0, 5], [0, 0]], [[0, 0], [7, 0]]]
    assert found["A"].on_time.tolist() == [[[0, 5], [0, 0]], [[0, 0], [6, 0]]]
    assert found["B"].counted.tolist() == [[[0, 0], [0, 0]], [[0, 4], [0, 0]]]


@pytest.mark.parametrize("on_time", [[[[11]], [[1]]], [[[-1]], [[1]]]])
def test_more_on_time_than_counted_is_refused(on_time: list[list[list[int]]]) -> None:
    with pytest.raises(ValueError, match="on_time <= counted"):
        RoundCounts(np.array([1.0]), np.array([[[10]], [[10]]]), np.array(on_time))


def test_counts_of_other_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="give both of shape"):
        RoundCounts(np.array([1.0, 2.0]), np.ones((3, 1, 1), int), np.ones((3, 1, 1), int))
