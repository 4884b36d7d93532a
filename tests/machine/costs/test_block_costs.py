import math
from pathlib import Path

import pandas as pd
import pytest

from veltair.machine.costs.block_costs import (
    COLUMNS,
    FIRST_LAYER,
    GRANT,
    GROW,
    RECORDED,
    SHRINK,
    START,
    YIELD,
    BlockCosts,
    block_costs,
    recorded_block_costs,
)
from veltair.provenance import read_provenance


def samples(**seconds: tuple[float, ...]) -> pd.DataFrame:
    """Return samples of one model on 2 cores, by kind."""
    rows = [
        (kind, "net", 2, number, value)
        for kind, values in seconds.items()
        for number, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_a_cost_is_the_median_of_its_samples() -> None:
    seconds = {START: (1.0, 2.0, 9.0), GRANT: (0.5,), SHRINK: (0.125,), GROW: (0.375,), YIELD: (0.0625,)}
    assert block_costs(samples(**seconds)) == BlockCosts(
        2.0, 0.125, grant_s=0.5, join_s=0.25, yield_s=0.0625, starts_s={"net": 2.0}
    )


def test_a_start_costs_what_its_first_layer_takes_longer_too() -> None:
    assert block_costs(samples(**{START: (2.0,), FIRST_LAYER: (0.25, 0.5, 0.75)})).start_s == 2.5


def test_models_and_core_counts_weigh_the_same_however_many_samples_they_have() -> None:
    rows = [(START, "net", 1, 0, 1.0), *((START, "net", 2, number, 3.0) for number in range(9))]
    rows += [(START, "other", 1, 0, 8.0)]
    assert block_costs(pd.DataFrame(rows, columns=list(COLUMNS))).start_s == 4.0


def test_each_model_has_a_start_of_its_own() -> None:
    rows = [(START, "net", 1, 0, 1.0), (START, "net", 2, 0, 3.0), (START, "other", 1, 0, 8.0)]
    rows += [(FIRST_LAYER, "other", 1, 0, 0.5), (FIRST_LAYER, "net", 1, 0, -0.5)]
    found = block_costs(pd.DataFrame(rows, columns=list(COLUMNS)))
    assert found.starts_s == {"net": 2.0, "other": 8.5}


def test_medians_below_0_are_noise() -> None:
    below = dict.fromkeys((FIRST_LAYER, GRANT, SHRINK, GROW, YIELD), (-0.5,))
    assert block_costs(samples(**{START: (1.0,)}, **below)) == BlockCosts(1.0, starts_s={"net": 1.0})


def test_cores_join_for_nothing_where_a_growth_costs_no_more_than_another_change() -> None:
    assert block_costs(samples(**{START: (1.0,), SHRINK: (0.5,), GROW: (0.4,)})).join_s == 0.0


def test_changes_and_yields_that_were_not_measured_cost_nothing() -> None:
    assert block_costs(samples(**{START: (1.0,)})) == BlockCosts(1.0, starts_s={"net": 1.0})


def test_samples_without_a_start_are_refused() -> None:
    with pytest.raises(LookupError, match="no start of a block was measured; rerun rule `profile`"):
        block_costs(samples(**{GRANT: (1.0,)}))


@pytest.mark.parametrize("value", [-1e-9, float("nan"), float("inf")])
def test_costs_are_finite_and_not_negative(value: float) -> None:
    with pytest.raises(ValueError, match="join_s is"):
        BlockCosts(0.0, 0.0, 0.0, value)
    with pytest.raises(ValueError, match="net is"):
        BlockCosts(starts_s={"net": value})
    with pytest.raises(ValueError, match="yield_s is"):
        BlockCosts(yield_s=value)


def test_the_recorded_costs_are_those_of_a_shipped_measurement_that_names_its_command() -> None:
    recorded = recorded_block_costs()
    assert recorded == block_costs(pd.read_parquet(RECORDED))
    assert recorded.start_s > 0
    provenance = read_provenance(RECORDED)
    assert provenance.commit and provenance.cpu


def test_without_a_record_the_rule_that_makes_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="run rule `native_block_costs`"):
        recorded_block_costs(tmp_path / "none.parquet")


@pytest.mark.parametrize(
    "points", [((2.0, 1.0), (1.0, 1.0)), ((0.5, 1.0),), ((1.0, 0.9),), ((1.0, math.inf),)]
)
def test_points_of_oversubscription_that_make_no_sense_are_refused(points):
    with pytest.raises(ValueError, match=r"BlockCosts: oversubscription is .* give threads a core from 1 on"):
        BlockCosts(oversubscription=points)
