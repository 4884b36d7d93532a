"""Shares of L3 and of memory bandwidth against cases worked by hand, and what makes a sharing fair."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.machine.contention.sharing import (
    capacities,
    cores_by_group,
    groups_of,
    max_min_fair,
    pinned_bytes_per_s,
    pinned_l3_bytes,
    spread_l3_bytes,
    use_of,
)
from veltair.machine.topology.topology import Machine

# 4 groups of 2 cores with 100 bytes of L3 each, two groups behind a link of 60 bytes/s, 100 bytes/s of DRAM.
MACHINE = Machine(
    "toy", 1, ((0, 1), (2, 3), (4, 5), (6, 7)), 1, 100, 1.0, 100.0, False,
    link_groups=2, link_bytes_per_s=60.0, core_dram_bytes_per_s=30.0,
)  # fmt: skip
DRAM = ((0, 1.0),)


@pytest.mark.parametrize(
    ("cores", "busy", "l3_bytes"),
    [(1, 1, 100.0), (4, 4, 400.0), (8, 8, 400.0), (2, 4, 200.0), (2, 8, 100.0), (1, 3, 100.0)],
)
def test_a_spread_core_has_its_group_alone_until_more_cores_than_groups_are_busy(cores, busy, l3_bytes):
    assert spread_l3_bytes(MACHINE, cores, busy) == l3_bytes


def test_a_pinned_block_has_the_whole_l3_of_groups_that_it_does_not_share():
    # All of group 0 by two cores, all of group 1 by one.
    assert pinned_l3_bytes(MACHINE, ((0, 2), (1, 1)), {0: 2, 1: 1}) == 200.0


def test_a_pinned_block_has_the_part_of_its_cores_where_it_shares_a_group():
    assert pinned_l3_bytes(MACHINE, ((0, 2), (1, 1)), {0: 2, 1: 2}) == 150.0


def test_cores_are_counted_by_cache_group():
    assert cores_by_group([7, 0, 6, 3], groups_of(MACHINE)) == ((0, 1), (1, 1), (3, 2))


def test_a_block_draws_through_its_links_by_its_cores_behind_each():
    # Groups 0 and 1 are behind the first link, 2 and 3 behind the second.
    assert use_of(MACHINE, ((0, 2), (1, 1), (2, 1))) == ((0, 1.0), (1, 0.75), (2, 0.25))
    assert use_of(replace(MACHINE, link_bytes_per_s=inf), ((0, 2), (2, 1))) == DRAM


@pytest.mark.parametrize(
    ("group_cores", "bytes_per_s"),
    [
        (((0, 1),), 30.0),  # one core's own limit
        (((0, 2), (1, 2)), 60.0),  # one link's
        (((0, 1), (2, 2)), 90.0),  # its cores'; two thirds of 90 through one link
        (((0, 2), (1, 2), (2, 2), (3, 2)), 100.0),  # the machine's
    ],
)
def test_a_pinned_block_is_limited_by_its_cores_its_links_and_the_machine(group_cores, bytes_per_s):
    cores = sum(count for _, count in group_cores)
    assert pinned_bytes_per_s(MACHINE, cores, use_of(MACHINE, group_cores)) == pytest.approx(bytes_per_s)


def test_spread_blocks_share_what_all_links_carry_together():
    assert capacities(MACHINE, "spread") == (100.0,)
    assert capacities(replace(MACHINE, link_bytes_per_s=40.0), "spread") == (80.0,)
    assert capacities(MACHINE, "pinned") == (100.0, 60.0, 60.0)


def test_everybody_gets_what_fits():
    assert max_min_fair([30.0, 70.0], [DRAM, DRAM], (100.0,)) == [30.0, 70.0]


def test_who_asks_for_less_than_a_fair_part_gets_it_and_the_others_share_the_rest():
    # A third of 100 is more than 10 and 30; the other two share 60.
    assert max_min_fair([10.0, 80.0, 30.0, 90.0], [DRAM] * 4, (100.0,)) == [10.0, 30.0, 30.0, 30.0]


def test_a_full_link_holds_back_only_those_behind_it():
    first, second = ((0, 1.0), (1, 1.0)), ((0, 1.0), (2, 1.0))
    # Two share a link of 60; the third has the other link's 60 of which DRAM leaves 40.
    assert max_min_fair([50.0, 50.0, 50.0], [first, first, second], (100.0, 60.0, 60.0)) == [30.0, 30.0, 40.0]


@st.composite
def _flows(draw):
    count = draw(st.integers(1, 8))
    resources = draw(st.integers(1, 4))
    demands = draw(st.lists(st.floats(0.0, 100.0), min_size=count, max_size=count))
    uses = []
    for _ in range(count):
        through = draw(st.sets(st.integers(1, resources - 1), max_size=3)) if resources > 1 else set()
        uses.append((*DRAM, *((resource, 1.0 / len(through)) for resource in sorted(through))))
    return demands, uses, draw(st.lists(st.floats(1.0, 200.0), min_size=resources, max_size=resources))


@given(_flows())
def test_a_sharing_is_feasible_and_who_gets_less_than_asked_has_most_of_something_full(flows):
    demands, uses, limits = flows
    granted = max_min_fair(demands, uses, limits)
    used = [0.0] * len(limits)
    for rate, use in zip(granted, uses, strict=True):
        for resource, share in use:
            used[resource] += rate * share
    assert all(amount <= limit * (1 + 1e-9) for amount, limit in zip(used, limits, strict=True))
    for rate, demand, use in zip(granted, demands, uses, strict=True):
        assert 0.0 <= rate <= demand
        bottlenecks = [
            resource
            for resource, _ in use
            if used[resource] >= limits[resource] * (1 - 1e-9)
            and all(
                other <= rate * (1 + 1e-9)
                for other, through in zip(granted, uses, strict=True)
                if resource in dict(through)
            )
        ]
        assert rate == demand or bottlenecks
