from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.compiler.footprint.residency import Residency
from veltair.compiler.footprint.traffic import Tiling
from veltair.machine.costs.cost_model import (
    LayerCostModel,
    MachineCostModel,
    block_bytes_per_s,
    block_l3_bytes,
    combined,
    net_of_memory,
    predicted_seconds,
    spread_dram_bytes,
)
from veltair.machine.topology.topology import Machine

SUM, LONGER = MachineCostModel(1.0, {}), MachineCostModel(inf, {})
# 6 iterations; all 600 bytes fit a cache of 1000 and come once.
LAYER = LayerCostModel(6.0, Tiling(parallelism=6, blocking_bytes=100, compulsory_bytes=600))
SERIAL = LayerCostModel(6.0, Tiling(parallelism=1, blocking_bytes=600, compulsory_bytes=600))

seconds = st.floats(1e-9, 1e3)
exponents = st.sampled_from([1.0, 1.5, 2.0, 8.0, inf])


def machine(**changes: object) -> Machine:
    groups = ((0, 1), (2, 3), (4, 5), (6, 7))
    return Machine("made-up", 1, groups, 2**18, 1000, 1e9, 800.0, validated=False, **changes)  # type: ignore[arg-type]


def charged(
    layer: LayerCostModel,
    law: MachineCostModel,
    on: Machine,
    cores: int,
    l3_bytes: float,
    bytes_per_s: float,
    active: int,
) -> float:
    """Return the time of a layer whose cores share so much L3."""
    moved = spread_dram_bytes(layer.tiling, on, cores, l3_bytes)
    return predicted_seconds(layer, law, on, cores, moved, bytes_per_s, active)


def test_computing_takes_the_rounds_of_the_busiest_core() -> None:
    # 6 iterations of 1 s on 4 cores: two rounds. 600 bytes at 600 bytes/s take 1 s.
    assert charged(LAYER, LONGER, machine(), 4, 1000, 600.0, 4) == 2.0
    assert charged(LAYER, SUM, machine(), 4, 1000, 600.0, 4) == 3.0


def test_memory_time_counts_where_it_is_the_longer() -> None:
    assert charged(LAYER, LONGER, machine(), 6, 1000, 100.0, 6) == 6.0


def test_what_does_not_fit_its_cache_is_fetched_again() -> None:
    # Blocks of 6 iterations at work hold 600 bytes, four times the cache: each of 600 bytes twice, 1200.
    assert charged(LAYER, LONGER, machine(), 6, 150, 100.0, 6) == pytest.approx(12.0)


def test_a_faster_clock_shortens_computing_and_not_memory() -> None:
    boosted = machine(clock_factors=((2, 1.5), (8, 1.0)))
    assert charged(LAYER, SUM, boosted, 2, 1000, 600.0, 2) == pytest.approx(3.0 / 1.5 + 1.0)
    # Half way between 2 and 8 cores at work the clock is half way, too.
    assert charged(LAYER, SUM, boosted, 2, 1000, 600.0, 5) == pytest.approx(3.0 / 1.25 + 1.0)


def test_launch_and_join_are_paid_once_by_a_kernel_that_forks() -> None:
    costly = machine(launch_s=0.25, join_s=0.5)
    assert charged(LAYER, LONGER, costly, 2, 1000, 600.0, 2) == 3.75
    assert charged(LAYER, LONGER, costly, 1, 1000, 600.0, 1) == 6.0
    assert charged(SERIAL, LONGER, costly, 8, 1000, 600.0, 8) == 6.0


@given(seconds, seconds, exponents)
def test_both_together_lie_between_the_longer_and_the_sum(
    compute_s: float, memory_s: float, exponent: float
) -> None:
    both = combined(compute_s, memory_s, exponent)
    assert max(compute_s, memory_s) <= both * (1 + 1e-12)
    assert both <= (compute_s + memory_s) * (1 + 1e-12)


@given(seconds, seconds, exponents)
def test_what_is_net_of_memory_combines_with_it_to_what_was_measured(
    measured_s: float, memory_s: float, exponent: float
) -> None:
    net_s = net_of_memory(measured_s, memory_s, exponent, least_s=0.0)
    assert 0.0 <= net_s <= measured_s
    if memory_s < measured_s:
        assert combined(net_s, memory_s, exponent) == pytest.approx(measured_s, rel=1e-6)


def test_computing_is_never_less_than_the_peak_allows_and_never_more_than_was_measured() -> None:
    assert net_of_memory(1.0, 2.0, 1.0, least_s=0.3) == 0.3
    assert net_of_memory(1.0, 0.9, 1.0, least_s=0.3) == 0.3
    assert net_of_memory(1.0, 2.0, 1.0, least_s=5.0) == 1.0


def test_a_block_draws_no_more_than_its_cores_its_links_and_its_share() -> None:
    narrow = machine(core_dram_bytes_per_s=150.0, link_groups=2, link_bytes_per_s=200.0)
    # One core draws 150; two reach both links and draw 300; three are held by the links; a quarter is 200.
    assert [block_bytes_per_s(narrow, cores) for cores in (1, 2, 3, 8)] == [150.0, 300.0, 400.0, 400.0]
    assert block_bytes_per_s(narrow, 8, share=0.25) == 200.0


def test_a_block_that_is_spread_has_the_l3_of_the_groups_that_it_reaches() -> None:
    assert [block_l3_bytes(machine(), cores) for cores in (1, 3, 4, 8)] == [1000, 3000, 4000, 4000]
    assert block_l3_bytes(machine(), 3, share=0.5) == 2000


def test_over_more_cache_groups_less_is_found() -> None:
    twice = Tiling(8, 2**20, 2**22, residency=Residency((0,) * 3 + (2**22,) * 7, (0,) * 10, (0,) * 10))
    assert twice.copies == 2
    assert spread_dram_bytes(twice, machine(), 1, 2**22) == 0
    # Two copies of all: 2.8 MiB of 4 are left, between two caches of which one finds nothing, one all.
    assert spread_dram_bytes(twice, machine(), 8, 2**22) == pytest.approx(2**22 * (2 - 2**0.5))


@pytest.mark.parametrize("compute_s", [-1.0, float("nan"), inf])
def test_a_computing_time_that_is_none_is_refused(compute_s: float) -> None:
    with pytest.raises(ValueError, match="give a finite time, 0 or more"):
        LayerCostModel(compute_s, LAYER.tiling)


@pytest.mark.parametrize("exponent", [0.5, 0.0, float("nan")])
def test_an_exponent_below_1_would_take_longer_than_the_sum_and_is_refused(exponent: float) -> None:
    with pytest.raises(ValueError, match="give 1 or more"):
        MachineCostModel(exponent, {})
