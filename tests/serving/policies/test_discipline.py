import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import make_model, pending, snapshot
from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Allocation, Pending
from veltair.serving.policies.discipline import (
    Conflict,
    DropLate,
    Order,
    Proposal,
    QueueOptions,
    admit,
    granted_cores,
    round_down,
    start_in_turn,
)

COUNTS = (2, 4, 8)
NET = make_model(macs=(1, 1, 1), qos_s=0.010)


def no_time(entry: Pending) -> float:
    return 0.0


def starts(needs, free_cores, conflict):
    """Start queries 0, 1, ... of three layers that need so many cores."""
    return start_in_turn(
        [pending(number, NET) for number in range(len(needs))],
        free_cores,
        COUNTS,
        conflict,
        propose=lambda entry: Proposal(LayerBlock("net", 0, 3), needs[entry.query.id]),
        versions=lambda block, cores: (0,) * len(block),
    )


def cores_by_query(allocations: list[Allocation]) -> dict[int, int]:
    return {allocation.query_id: allocation.cores for allocation in allocations}


def options(order: Order = Order.FCFS, drop_late: DropLate = DropLate.NEVER) -> QueueOptions:
    return QueueOptions(order, Conflict.WAIT, drop_late)


def test_first_come_first_served_hands_back_the_queue_itself():
    queue = [pending(1, NET), pending(2, NET)]
    waiting, _ = admit(snapshot(8, queue), options(), no_time)
    assert waiting is queue


def test_earliest_deadline_goes_first_and_ties_go_to_the_oldest():
    slow, fast = make_model(qos_s=0.1), make_model(qos_s=0.01)
    queue = [pending(1, slow, 0.0), pending(2, fast, 0.001), pending(3, fast, 0.001)]
    waiting, _ = admit(snapshot(8, queue), options(Order.EDF), no_time)
    assert [entry.query.id for entry in waiting] == [2, 3, 1]


def test_least_laxity_goes_first():
    # Deadlines 10 and 12 ms, 1 and 5 ms of work left: laxities 9 and 7 ms.
    queue = [pending(1, NET, 0.0), pending(2, NET, 0.002)]
    left = {1: 0.001, 2: 0.005}
    waiting, _ = admit(snapshot(8, queue), options(Order.LLF), lambda entry: left[entry.query.id])
    assert [entry.query.id for entry in waiting] == [2, 1]


@pytest.mark.parametrize(
    ("drop_late", "time_s", "dropped"),
    [
        (DropLate.NEVER, 1.0, []),
        (DropLate.AT_DEADLINE, 0.010, []),  # query 1 is due at 10 ms: not late yet
        (DropLate.AT_DEADLINE, 0.0101, [1]),
        (DropLate.WHEN_DOOMED, 0.006, []),  # 4 ms left for 4 ms of work
        (DropLate.WHEN_DOOMED, 0.0061, [1]),
    ],
)
def test_late_queries_are_dropped_when_the_option_says(drop_late, time_s, dropped):
    queue = [pending(1, NET, 0.0), pending(2, NET, 0.005)]
    waiting, late = admit(
        snapshot(8, queue, time_s=time_s), options(drop_late=drop_late), lambda entry: 0.004
    )
    assert [rejection.query_id for rejection in late] == dropped
    assert [entry.query.id for entry in waiting] == [number for number in (1, 2) if number not in dropped]


def test_a_rejection_says_how_late_the_query_is():
    _, late = admit(
        snapshot(8, [pending(1, NET)], time_s=0.008), options(drop_late=DropLate.WHEN_DOOMED), lambda _: 0.004
    )
    assert late[0].reason == "2 ms to its deadline, at least 4 ms of work left"


def test_waiting_blocks_those_behind():
    assert cores_by_query(starts([4, 8, 2], 8, Conflict.WAIT)) == {0: 4}


def test_backfill_lets_those_behind_go_ahead():
    assert cores_by_query(starts([4, 8, 2], 8, Conflict.BACKFILL)) == {0: 4, 2: 2}


def test_a_shrunk_block_gets_the_largest_profiled_count_that_is_free():
    # 7 cores are free after the first: 4 is the largest count within 7 - 2 = 5; one core stays.
    allocations = starts([2, 8, 2], 7, Conflict.SHRINK)
    assert cores_by_query(allocations) == {0: 2, 1: 4}
    assert [allocation.wanted_cores for allocation in allocations] == [2, 8]
    assert len(allocations[1].block) == 3


def test_only_the_shrunk_block_is_cut_to_one_layer():
    fitting, shrunk = starts([4, 8], 8, Conflict.SHRINK_ONE_LAYER)
    assert (fitting.block.start, fitting.block.stop) == (0, 3)
    assert (shrunk.block.start, shrunk.block.stop, shrunk.cores) == (0, 1, 4)
    assert shrunk.versions == (0,)


@pytest.mark.parametrize("conflict", Conflict)
def test_nothing_starts_below_the_smallest_count(conflict):
    assert starts([2], 1, conflict) == []


def test_round_down_finds_counts_in_a_gap_at_the_ends_and_below():
    assert [round_down(cores, COUNTS) for cores in (1, 2, 3.9, 7, 8, 100)] == [0, 2, 2, 4, 8, 8]


@given(
    st.lists(st.sampled_from(COUNTS), max_size=6),
    st.integers(min_value=0, max_value=20),
    st.sampled_from(Conflict),
)
def test_no_more_cores_are_granted_than_are_free_or_needed(needs, free_cores, conflict):
    allocations = starts(needs, free_cores, conflict)
    assert sum(allocation.cores for allocation in allocations) <= free_cores
    assert all(allocation.cores in COUNTS for allocation in allocations)
    assert all(allocation.cores <= needs[allocation.query_id] for allocation in allocations)


@given(st.sampled_from(COUNTS), st.integers(min_value=0, max_value=20), st.sampled_from(Conflict))
def test_a_block_that_fits_gets_its_need_under_every_conflict_option(need, free_cores, conflict):
    granted = granted_cores(need, free_cores, COUNTS, conflict)
    assert (granted == need) == (need <= free_cores)
