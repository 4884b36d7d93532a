"""The contention model against shares and times worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.serving.sim_builders import Cost, cost_table, machine
from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.contention.contention import Contention, pressure, pressures
from veltair.machine.contention.layer_demand import LayerDemand

shares = st.floats(0.0, 3.0)


def demand(dram_share: float = 0.0, l3_share: float = 0.0) -> LayerDemand:
    return LayerDemand((0.0,), (1.0,), (0.0,), dram_share, l3_share)


def demands(*layers: Cost, cores: int = 1) -> list[LayerDemand]:
    table = cost_table({"m": [[cost] for cost in layers]})
    block = LayerBlock("m", 0, len(layers))
    return Contention(table, machine()).demands(block, [0] * len(layers), cores)


def test_pressure_is_the_larger_of_the_summed_shares():
    # DRAM 0.25 + 0.5 = 0.75, L3 0.5 + 0 = 0.5
    assert pressure([demand(0.25, 0.5), demand(0.5, 0.0)]) == 0.75
    # DRAM 0.25, L3 0.5 + 0.125 = 0.625
    assert pressure([demand(0.25, 0.5), demand(0.0, 0.125)]) == 0.625


def test_pressure_is_clipped_to_one():
    assert pressure([demand(0.75), demand(0.75)]) == 1.0


def test_nothing_running_is_no_pressure():
    assert pressure([]) == 0.0


def test_a_layer_meets_the_others_but_not_itself():
    # Against the first: DRAM 0.125 + 0.25, the L3 of the third 0.5. Against the third: DRAM 0.5 + 0.125.
    assert pressures([demand(0.5), demand(0.125), demand(0.25, 0.5)]) == [0.5, 0.75, 0.625]


def test_a_layer_alone_meets_no_pressure():
    assert pressures([demand(0.9, 2.0)]) == [0.0]


@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=6))
def test_pressures_lie_in_the_unit_interval(pairs):
    assert all(0.0 <= met <= 1.0 for met in pressures([demand(*pair) for pair in pairs]))


@given(st.lists(st.tuples(shares, shares), max_size=5), st.tuples(shares, shares))
def test_a_newcomer_meets_what_was_announced(running, newcomer):
    others = [demand(*pair) for pair in running]
    met = pressures([*others, demand(*newcomer)])[-1]
    assert met == pytest.approx(pressure(others), abs=1e-12)


def test_time_is_linear_between_profiled_levels_and_constant_beyond():
    # 2 s at level 0, 3 s at 0.25, 5 s at 0.5: slopes 4 and 8.
    curve = LayerDemand((0.0, 0.25, 0.5), (2.0, 3.0, 5.0), (4.0, 8.0, 0.0), 0.0, 0.0)
    assert [curve.seconds_at(p) for p in (0.0, 0.125, 0.25, 0.375, 0.5, 1.0)] == [
        2.0,
        2.5,
        3.0,
        4.0,
        5.0,
        5.0,
    ]


def test_slopes_and_times_come_from_the_table():
    # 4 s alone on one core; on two 2 s, and 3 s at level 1, so 2.5 s halfway.
    (curve,) = demands(Cost(4.0, slowdown=1.5), cores=2)
    assert [curve.seconds_at(p) for p in (0.0, 0.5, 1.0)] == [2.0, 2.5, 3.0]


def test_beyond_the_last_profiled_level_time_rises_no_further():
    table = cost_table({"m": [[Cost(4.0, slowdown=1.5)]]}, levels=(0.0, 0.5))
    (curve,) = Contention(table, machine()).demands(LayerBlock("m", 0, 1), (0,), 1)
    assert [curve.seconds_at(p) for p in (0.25, 0.5, 1.0)] == [5.0, 6.0, 6.0]


def test_dram_demand_is_traffic_over_time_alone():
    # The builder gives it the traffic that is a quarter of 100 bytes/s over its own time, on any core count.
    assert demands(Cost(4.0, dram_share=0.25))[0].dram_share == 0.25
    assert demands(Cost(4.0, dram_share=0.25), cores=2)[0].dram_share == 0.25


def test_the_l3_share_is_the_footprint_over_all_l3():
    assert demands(Cost(1.0, footprint_bytes=40.0))[0].l3_share == 0.4


def test_a_block_on_all_cores_reads_pressure_zero():
    (curve,) = demands(Cost(4.0, slowdown=2.0), cores=4)
    assert curve.seconds_at(1.0) == curve.seconds_at(0.0) == 1.0


def test_each_layer_runs_in_its_own_version():
    table = cost_table({"m": [[Cost(1.0), Cost(2.0)], [Cost(3.0), Cost(4.0)], [Cost(5.0), Cost(6.0)]]})
    found = Contention(table, machine()).demands(LayerBlock("m", 1, 3), (1, 0), 1)
    assert [curve.seconds_at(0.0) for curve in found] == [4.0, 5.0]


@pytest.mark.parametrize("version", [1, -1])
def test_a_version_that_was_not_profiled_is_named(version):
    table = cost_table({"m": [[Cost(1.0), Cost(1.0)], [Cost(1.0)]]})
    contention = Contention(table, machine())
    with pytest.raises(LookupError, match=rf"layer 1 of m has no version {version} on 1 cores .* \[0\]"):
        contention.demands(LayerBlock("m", 1, 2), (version,), 1)


def test_a_core_count_that_was_not_profiled_is_named():
    with pytest.raises(LookupError, match="3 cores were not profiled"):
        demands(Cost(1.0), cores=3)


def test_layers_that_were_not_profiled_are_an_error():
    contention = Contention(cost_table({"m": [[Cost(1.0)]]}), machine())
    with pytest.raises(LookupError, match="does not fit the 1 layers"):
        contention.demands(LayerBlock("m", 0, 2), (0, 0), 1)
