import numpy as np
import pytest

from tests.support.table_builders import make_tables, noisy
from veltair.evaluation.validation.perturbed_costs import with_demand, without_noise


def test_a_table_without_noise_has_the_same_times_and_no_spread() -> None:
    costs = make_tables(noise=noisy()).costs
    still = without_noise(costs)
    assert np.array_equal(still.model("large").seconds, costs.model("large").seconds)
    assert (still.model("large").noise == 1.0).all() and not (costs.model("large").noise == 1.0).all()


def test_a_scaled_demand_moves_and_keeps_more_bytes_in_the_same_time() -> None:
    costs = make_tables().costs
    repeats = costs.repeats.assign(traffic_bytes=100.0, footprint_bytes=10.0)
    scaled = with_demand(type(costs)(repeats, "toy"), 2.5).repeats
    assert (scaled["traffic_bytes"] == 250.0).all() and (scaled["footprint_bytes"] == 25.0).all()
    assert scaled["seconds"].equals(repeats["seconds"])


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_no_number_above_zero_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="scale of demand"):
        with_demand(make_tables().costs, scale)
