from pathlib import Path

import pandas as pd
import pytest

from veltair.machine.costs.oversubscription import (
    RECORDED,
    oversubscription,
    recorded_oversubscription,
    scaled,
)


def samples(**rates: list[float]) -> pd.DataFrame:
    """Return samples of teams, given as t1=[…] and so on."""
    rows = [(int(teams[1:]), repeat, rate) for teams, of in rates.items() for repeat, rate in enumerate(of)]
    return pd.DataFrame(rows, columns=["teams", "repeat", "rounds_per_s"])


def test_a_cost_is_how_much_slower_all_teams_together_get_on_than_one_alone() -> None:
    measured = samples(t1=[100.0, 90.0, 110.0], t2=[80.0, 80.0, 20.0], t4=[50.0, 50.0, 50.0])
    assert oversubscription(measured) == ((1.0, 1.0), (2.0, 1.25), (4.0, 2.0))


def test_what_looks_like_more_threads_costing_less_is_noise() -> None:
    measured = samples(t1=[100.0], t2=[80.0], t4=[90.0], t8=[130.0])
    assert oversubscription(measured) == ((1.0, 1.0), (2.0, 1.25), (4.0, 1.25), (8.0, 1.25))
    assert oversubscription(samples(t1=[100.0], t2=[101.0])) == ((1.0, 1.0), (2.0, 1.0))


def test_what_is_above_the_part_can_be_assumed_to_be_more_or_less() -> None:
    points = ((1.0, 1.0), (2.0, 1.25))
    assert scaled(points, 0.0) == ((1.0, 1.0), (2.0, 1.0))
    assert scaled(points, 2.0) == ((1.0, 1.0), (2.0, 1.5))


def test_samples_without_a_core_that_has_one_thread_are_refused() -> None:
    with pytest.raises(LookupError, match="with one thread alone; rerun rule `oversubscription`"):
        oversubscription(samples(t2=[80.0]))


def test_the_record_that_is_shipped_can_be_read() -> None:
    points = recorded_oversubscription()
    assert points[0] == (1.0, 1.0)
    assert len(points) > 2


def test_a_record_that_is_missing_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(
        LookupError, match=r"was not recorded in .*none.parquet .* run rule `oversubscription`"
    ):
        recorded_oversubscription(tmp_path / "none.parquet")
    assert RECORDED.is_file()
