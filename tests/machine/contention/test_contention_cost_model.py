"""Contention by the cost model, and pinned blocks by both models, against times worked by hand."""

from math import inf, sqrt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.compiler.footprint.residency import RESIDENT_CACHE_BYTES, Residency
from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.contention.contention import (
    Contention,
    ModelledContention,
    RunningLayers,
    make_contention,
)
from veltair.machine.contention.sharing import CacheGroupShare
from veltair.machine.costs.cost_model import (
    LayerCostModel,
    MachineCostModel,
    predicted_seconds,
    spread_dram_bytes,
)
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.machine.topology.topology import Machine

COUNTS = tuple(range(1, 9))


def machine(**changes) -> Machine:
    """Return 4 groups of 2 cores with 100 bytes of L3 each and 100 bytes/s of DRAM. No launches."""
    return Machine("toy", 1, ((0, 1), (2, 3), (4, 5), (6, 7)), 1, 100, 1.0, 100.0, False, **changes)


def moving(compute_s: float, traffic_bytes: int) -> LayerCostModel:
    """Return a layer that moves so many bytes, up to 100, whatever its share of the L3."""
    return LayerCostModel(compute_s, Tiling(1, traffic_bytes, traffic_bytes))


def table(count: int, slowdown: float = 1.0, footprint_bytes: float = 200.0) -> CostTable:
    """Return the table of a model of `count` layers of 1 s that fill half of the L3 and ask for no DRAM."""
    rows = [
        ("m", layer, 0, cores, level, 0, 1.0 + (slowdown - 1.0) * level, 0.0, footprint_bytes)
        for layer in range(count)
        for cores in COUNTS
        for level in (0.0, 1.0)
    ]
    return CostTable(pd.DataFrame(rows, columns=list(COLUMNS)), "toy")


def times(
    layers: list[LayerCostModel],
    cores: list[int],
    *,
    group_cores: list[CacheGroupShare] | None = None,
    combine: float = inf,
    scale: float = 1.0,
    **changes,
) -> list[float]:
    """Return the times of layers side by side; a list of `group_cores` pins them."""
    cost_model = MachineCostModel(combine, {"m": tuple((layer,) for layer in layers)})
    placement = "spread" if group_cores is None else "pinned"
    contention = make_contention(table(len(layers)), machine(**changes), placement, cost_model, scale)
    running = RunningLayers()
    for index, count in enumerate(cores):
        (demand,) = contention.demands(LayerBlock("m", index, index + 1), (0,), count)
        running.append(demand, count, group_cores[index] if group_cores else ())
    met = contention.conditions(running)
    return [
        contention.seconds(demand, condition) for demand, condition in zip(running.demands, met, strict=True)
    ]


def test_a_layer_alone_takes_the_time_of_the_cost_model():
    assert times([moving(2.0, 80)], [1]) == [2.0]
    assert times([moving(0.5, 80)], [1]) == [0.8]
    assert times([moving(2.0, 80)], [1], combine=1.0) == [2.8]


def test_layers_that_memory_carries_together_do_not_slow_each_other():
    assert times([moving(1.0, 40), moving(1.0, 60)], [1, 1]) == [1.0, 1.0]


def test_layers_that_ask_for_too_much_take_as_long_as_their_bytes_at_a_fair_part():
    # 80 bytes/s each of 100: 50 each.
    assert times([moving(1.0, 80), moving(1.0, 80)], [1, 1]) == [1.6, 1.6]
    # 20 and 90: the first gets all it asks for, the second the other 80.
    assert times([moving(1.0, 20), moving(1.0, 90)], [1, 1]) == [1.0, 1.125]


@given(
    st.lists(st.tuples(st.floats(0.01, 2.0), st.integers(1, 100)), min_size=1, max_size=8),
    st.floats(1.0, 9.0),
)
def test_nobody_is_faster_beside_others_and_memory_carries_no_more_than_it_can(layers, combine):
    cost_models = [moving(compute_s, moved) for compute_s, moved in layers]
    together = times(cost_models, [1] * len(cost_models), combine=combine)
    alone = [times([cost_model], [1], combine=combine)[0] for cost_model in cost_models]
    assert all(pressed >= single * (1 - 1e-12) for pressed, single in zip(together, alone, strict=True))
    drawn = sum(moved / seconds for (_, moved), seconds in zip(layers, together, strict=True))
    assert drawn <= 100.0 * (1 + 1e-9)


def test_a_spread_layer_re_fetches_when_others_take_part_of_its_l3():
    # 4 cores alone have all 400 bytes: the 300 come once. Beside 4 others they have 200, and the 4 blocks of
    # 100 come again and again: the square root of 400 / 200 times.
    layer, quiet = LayerCostModel(0.01, Tiling(4, 100, 300)), moving(9.0, 0)
    assert times([layer], [4]) == [3.0]
    assert times([layer, quiet], [4, 4])[0] == pytest.approx(400 * sqrt(2) / 100)


def test_a_pinned_layer_keeps_the_l3_of_its_own_groups():
    layer, quiet = LayerCostModel(0.01, Tiling(4, 100, 200)), moving(9.0, 0)
    assert times([layer], [4], group_cores=[((0, 2), (1, 2))]) == [2.0]
    assert times([layer, quiet], [4, 4], group_cores=[((0, 2), (1, 2)), ((2, 2), (3, 2))]) == [2.0, 9.0]


def test_a_pinned_layer_shares_the_l3_of_groups_where_another_has_cores():
    # It has 100 bytes of group 0 and half of group 1's: three blocks of 75 at work do not fit into 150.
    layer, quiet = LayerCostModel(0.01, Tiling(4, 75, 200)), moving(9.0, 0)
    group_cores = [((0, 2), (1, 1)), ((1, 1), (2, 2))]
    assert times([layer, quiet], [3, 3], group_cores=group_cores)[0] == pytest.approx(
        300 * sqrt(3 * 75 / 150) / 100
    )


def test_the_clock_follows_the_cores_at_work():
    clock = ((1, 2.0), (3, 1.0))
    assert times([moving(1.0, 0)], [1], clock_factors=clock) == [0.5]
    assert times([moving(1.0, 0)] * 2, [1, 1], clock_factors=clock) == [pytest.approx(1 / 1.5)] * 2
    assert times([moving(1.0, 0)] * 3, [1, 1, 1], clock_factors=clock) == [1.0] * 3


def test_one_core_draws_no_more_than_its_own_limit():
    assert times([moving(0.1, 80)], [1], core_dram_bytes_per_s=20.0) == [4.0]


def test_pinned_blocks_behind_one_link_share_it():
    limits = {"link_groups": 2, "link_bytes_per_s": 40.0}
    layers = [moving(1.0, 40)] * 2
    assert times(layers, [2, 2], group_cores=[((0, 2),), ((2, 2),)], **limits) == [1.0, 1.0]
    assert times(layers, [2, 2], group_cores=[((0, 2),), ((1, 2),)], **limits) == [2.0, 2.0]


def test_the_scale_multiplies_what_contention_adds():
    layers = [moving(1.0, 80), moving(1.0, 80)]
    assert times(layers, [1, 1], scale=0.0) == [1.0, 1.0]
    assert times(layers, [1, 1], scale=2.0) == pytest.approx([2.2, 2.2])


@given(
    st.floats(1e-3, 10.0), st.integers(1, 64), st.integers(0, 5000), st.integers(0, 5000), st.integers(1, 8),
    st.sampled_from([1.0, 2.5, inf]),
)  # fmt: skip
def test_alone_the_contention_charges_just_the_formula_of_the_derived_table(
    compute_s, parallelism, blocking, compulsory, cores, combine
):
    layer = LayerCostModel(compute_s, Tiling(parallelism, blocking, compulsory))
    cost_model = MachineCostModel(combine, {"m": ((layer,),)})
    l3_bytes = cores * min(100, 400 / cores)
    moved = spread_dram_bytes(layer.tiling, machine(), cores, l3_bytes)
    alone_s = predicted_seconds(layer, cost_model, machine(), cores, moved, 100.0, cores)
    assert times([layer], [cores], combine=combine) == [pytest.approx(alone_s)]


def pinned_pressures(*blocks: CacheGroupShare) -> tuple[list[float], float]:
    """Return what pinned layers meet, each with half of the L3 as footprint, and what a new one would."""
    contention = Contention(table(1, 2.0), machine(), "pinned")
    running = RunningLayers()
    for group_cores in blocks:
        cores = sum(count for _, count in group_cores)
        (demand,) = contention.demands(LayerBlock("m", 0, 1), (0,), cores)
        running.append(demand, cores, group_cores)
    return contention.conditions(running), contention.pressure(running)


def test_by_the_table_pinned_blocks_meet_no_footprint_in_groups_of_their_own():
    assert pinned_pressures(((0, 2), (1, 2)), ((2, 2), (3, 2))) == ([0.0, 0.0], 0.0)


def test_by_the_table_a_pinned_block_meets_what_lies_in_its_groups():
    # The second's 200 bytes lie half in group 1 and half in group 2. Half of the first's cores are in
    # group 1: they meet 100 bytes over 100, the others nothing.
    met, _ = pinned_pressures(((0, 1), (1, 1)), ((1, 1), (2, 1)))
    assert met == [0.5, 0.5]


def test_pinned_blocks_over_all_groups_meet_what_spread_ones_do():
    everywhere = tuple((group, 1) for group in range(4))
    contention = Contention(table(1, 2.0), machine())
    running = RunningLayers()
    for _ in range(2):
        running.append(contention.demands(LayerBlock("m", 0, 1), (0,), 4)[0], 4, ())
    assert pinned_pressures(everywhere, everywhere)[0] == contention.conditions(running) == [0.5, 0.5]


def test_a_block_started_now_would_meet_what_lies_where_cores_are_free():
    # Its 200 bytes lie in group 0, of 100; a seventh of the free cores is there.
    assert pinned_pressures(((0, 1),))[1] == pytest.approx(2 / 7)


def test_a_table_with_bytes_that_are_no_number_is_refused():
    with pytest.raises(ValueError, match=r"footprint_bytes is not a number from 0\.0 to 1e\+18"):
        table(1, footprint_bytes=float("nan"))


def test_a_law_without_a_version_of_the_table_is_refused():
    cost_model = MachineCostModel(inf, {"m": ((moving(1.0, 1),),)})
    contention = ModelledContention(table(2), machine(), cost_model)
    with pytest.raises(LookupError, match="has no version 0 of layer 1 of m, which its table has"):
        contention.demands(LayerBlock("m", 0, 1), (0,), 1)


def test_the_scale_of_a_table_keeps_the_time_alone():
    contention = Contention(table(1, slowdown=3.0), machine(), scale=0.5)
    (demand,) = contention.demands(LayerBlock("m", 0, 1), (0,), 2)
    assert [demand.seconds_at(at) for at in (0.0, 0.5, 1.0)] == [1.0, 1.5, 2.0]
    assert np.isfinite(contention.curves("m").slopes).all()


def found(within: int = 0, old: int = 0, written: int = 0) -> Residency:
    """Return what a layer finds and writes back in every cache."""
    return Residency(*((amount,) * len(RESIDENT_CACHE_BYTES) for amount in (within, old, written)))


def resident_times(residency: Residency, warm: float, traffic_bytes: int = 100) -> tuple[float, float]:
    """Return the seconds of a layer of no computing alone at 100 bytes/s, and the bytes that it moves."""
    layer = LayerCostModel(0.001, Tiling(1, traffic_bytes, traffic_bytes, residency=residency))
    contention = ModelledContention(table(1), machine(), MachineCostModel(inf, {"m": ((layer,),)}))
    running = RunningLayers()
    running.append(contention.demands(LayerBlock("m", 0, 1), (0,), 1)[0], 1, (), warm)
    (seconds,) = contention.conditions(running)
    return seconds, running.moved_bytes[0]


def test_a_layer_is_not_charged_for_what_it_finds_but_for_what_leaves_the_cache():
    assert resident_times(found(within=40), warm=1.0) == (pytest.approx(0.6), 60)
    assert resident_times(found(within=40, written=30), warm=1.0) == (pytest.approx(0.9), 90)


def test_what_an_older_query_left_counts_as_far_as_it_is_warm():
    assert resident_times(found(old=80), warm=1.0)[1] == 20
    assert resident_times(found(old=80), warm=0.25)[1] == 80
    assert resident_times(found(old=80), warm=0.0)[1] == 100


def test_a_layer_that_finds_all_moves_nothing_and_takes_its_computing_time():
    assert resident_times(found(within=200), warm=1.0) == (0.001, 0)
