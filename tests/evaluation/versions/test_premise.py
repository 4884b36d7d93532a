import numpy as np
import pandas as pd
import pytest

from tests.support.evaluation.premise_tables import made_up_times
from veltair.evaluation.versions.premise import (
    CELL,
    CoRunnerEffect,
    Effect,
    analyse,
    local_less_parallel,
    overall,
    slowdowns,
    switching_gains,
    within,
)
from veltair.machine.profile.corunner import ALONE


def finding(difference: tuple[float, float], gain: tuple[float, float]) -> CoRunnerEffect:
    middle = Effect(0.0, 0.0, 0.0, 5)
    return CoRunnerEffect("reads", middle, Effect(0, *difference, 5), Effect(0, *gain, 5), middle)


def split(table: pd.DataFrame, condition: str) -> "tuple[pd.DataFrame, pd.Series[float]]":
    cells = table[table["round"] == 0]
    alone = cells[cells["condition"] == ALONE].set_index(CELL)["seconds"]
    return cells[cells["condition"] == condition], alone


def test_a_planted_effect_is_found_in_its_size() -> None:
    # Beside "reads" local versions take 1.5 times as long, parallel ones as long as ever.
    (found,) = analyse(made_up_times(local_slowdown=1.5))
    assert found.difference.low <= found.difference.value <= found.difference.high
    assert found.difference.value == pytest.approx(0.5, abs=0.02)
    assert found.correlation.low > 0.5
    assert found.verdict == overall([found]) == "supported"


def test_without_an_effect_none_is_found() -> None:
    (found,) = analyse(made_up_times(local_slowdown=1.0))
    assert found.difference.low <= 0.01
    assert found.verdict == "not supported"


def test_an_interference_that_slows_all_alike_supports_nothing() -> None:
    (found,) = analyse(made_up_times(local_slowdown=2.0, parallel_slowdown=2.0))
    assert found.slowdown.value == pytest.approx(2.0, abs=0.02)
    assert found.verdict == "not supported"


def test_noise_that_hides_effects_leaves_it_open() -> None:
    (found,) = analyse(made_up_times(local_slowdown=1.1, noise=0.3, structures=5))
    assert found.verdict == "inconclusive"


def test_choosing_among_noise_gains_nothing_held_out() -> None:
    # All versions are equal: what looked fastest in the other processes is not so in this one.
    (found,) = analyse(made_up_times(local_slowdown=1.0, parallel_alone=1.0, noise=0.1, processes=12))
    assert found.gain.low < 0 < found.gain.high


def test_the_difference_of_a_structure_is_a_ratio_of_slowdowns_worked_by_hand() -> None:
    slower = pd.DataFrame(
        {
            "structure": ["a", "a", "a", "b"],
            "version": [0, 1, 2, 0],
            "parallelism": [2, 8, 32, 4],
            "blocking_bytes": [900, 300, 100, 50],
            "log_slowdown": np.log([1.32, 9.0, 1.1, 5.0]),
        }
    )
    # Of a: 1.32 / 1.1 - 1; b has one version, so it says nothing.
    assert local_less_parallel(slower) == pytest.approx([0.2])


def test_a_slowdown_is_averaged_over_layers_and_processes_in_logarithms() -> None:
    cells, alone = split(made_up_times(local_slowdown=1.5, noise=0.0, structures=1), "reads")
    slower = slowdowns(cells, alone).set_index("version")["log_slowdown"]
    assert np.exp(slower.to_numpy()) == pytest.approx([1.5, 1.0])


def test_the_gain_of_switching_is_worked_by_hand() -> None:
    # Alone the local version (1.0) beats the parallel one (1.2); beside, 1.5 does not: 1.5 / 1.2 - 1.
    cells, alone = split(made_up_times(local_slowdown=1.5, noise=0.0), "reads")
    assert switching_gains(cells, alone) == pytest.approx([0.25] * cells["process"].nunique())


def test_ranks_are_centred_within_a_structure_whatever_its_number_of_versions() -> None:
    slower = pd.DataFrame(
        {
            "structure": ["a"] * 3 + ["b"] * 2 + ["alone"],
            "version": [0, 1, 2, 0, 1, 0],
            "parallelism": 1,
            "blocking_bytes": [900, 300, 100, 50, 70, 1],
            "log_slowdown": [0.3, 0.1, 0.2, 0.0, 1.0, 9.0],
        }
    )
    ranks = within(slower)
    assert ranks["blocking"].to_list() == [0.5, 0.0, -0.5, -0.5, 0.5]
    assert ranks["slowdown"].to_list() == [0.5, -0.5, 0.0, -0.5, 0.5]


def test_equal_tables_give_equal_intervals() -> None:
    table = made_up_times(local_slowdown=1.2)
    assert analyse(table) == analyse(table.sample(frac=1, random_state=1))


@pytest.mark.parametrize(
    ("difference", "gain", "verdict"),
    [
        ((0.05, 0.2), (0.03, 0.1), "supported"),
        ((-0.05, 0.2), (0.03, 0.1), "inconclusive"),
        ((0.05, 0.2), (-0.01, 0.1), "inconclusive"),
        ((0.05, 0.2), (0.001, 0.019), "not supported"),
        ((0.001, 0.019), (0.03, 0.1), "not supported"),
        ((-0.3, -0.1), (0.03, 0.1), "not supported"),
    ],
)
def test_both_effects_decide_a_verdict(
    difference: tuple[float, float], gain: tuple[float, float], verdict: str
) -> None:
    assert finding(difference, gain).verdict == verdict


def test_one_co_runner_suffices_to_support_it_and_all_must_refute_it() -> None:
    yes, no, open_ = (
        finding(*both) for both in (((0.1, 0.2), (0.1, 0.2)), ((0, 0), (0, 0)), ((-1, 1), (-1, 1)))
    )
    assert overall([no, yes, open_]) == "supported"
    assert overall([no, open_]) == "inconclusive"
    assert overall([no, no]) == "not supported"


def test_fewer_than_6_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="5 processes measured"):
        analyse(made_up_times(processes=5))


def test_versions_that_are_all_alike_are_refused() -> None:
    table = made_up_times()
    with pytest.raises(ValueError, match="0 structures have versions of unlike parallelism"):
        analyse(table[table["version"] == 0])
