import numpy as np
import pytest

from tests.support.builders import (
    linear_context,
    make_context,
    make_machine,
    make_model,
    pending,
    running,
    snapshot,
)
from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Allocation, Resize
from veltair.serving.policies.growth import busy, fill, grow, pressure_on
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule

# Four layers that speed up linearly on 8 cores.
CONTEXT = linear_context((0.010,) * 4)
NET = CONTEXT.models["net"]
TABLES = LatencyTables(CONTEXT, VersionRule.SOLO_ALONE)


def test_a_block_grows_into_all_spare_cores_up_to_where_it_is_fastest():
    assert list(grow(snapshot(5, [], [running(1, NET, 3)]), 5, TABLES)) == [Resize(1, 8)]


def test_the_oldest_block_grows_first_and_the_next_takes_what_is_left():
    counts = (1, 2, 4, 8)
    seconds = np.array([0.008, 0.005, 0.004, 0.006])[None, None, :, None].repeat(4, axis=0)
    net = make_model(macs=(1,) * 4)
    context = make_context({"net": seconds}, [net], cores=counts, machine=make_machine(8))
    runs = [running(1, net, 2), running(2, net, 1)]
    # Fastest on 4 cores: the first takes 2 of the 5 that are free, the second its 3.
    assert list(grow(snapshot(5, [], runs), 5, LatencyTables(context, VersionRule.SOLO_ALONE))) == [
        Resize(1, 4),
        Resize(2, 4),
    ]


def test_a_block_that_grows_already_is_only_extended():
    runs = [running(1, NET, 2, target_cores=6)]
    assert list(grow(snapshot(2, [], runs), 2, TABLES)) == [Resize(1, 8)]
    assert list(grow(snapshot(0, [], [running(1, NET, 2, target_cores=8)]), 0, TABLES)) == []


@pytest.mark.parametrize(("ended", "grown"), [(2, [Resize(1, 8)]), (3, []), (4, [])])
def test_a_block_in_its_last_layer_is_left_alone(ended, grown):
    one = snapshot(4, [], [running(1, NET, 4)], progress={1: ended})
    assert list(grow(one, 4, TABLES)) == grown


def test_the_count_is_the_best_one_for_the_layers_that_are_still_to_begin():
    # Layer 2 alone is fastest on 2 cores; the others on 4, but they have begun or ended.
    seconds = np.array([[0.004, 0.002, 0.001]] * 2 + [[0.004, 0.002, 0.003]])[:, None, :, None]
    net = make_model(macs=(1, 1, 1))
    context = make_context({"net": seconds}, [net], cores=(1, 2, 4), machine=make_machine(4))
    tables = LatencyTables(context, VersionRule.SOLO_ALONE)
    one = snapshot(3, [], [running(1, net, 1)], progress={1: 1})
    assert list(grow(one, 3, tables)) == [Resize(1, 2)]


def test_growth_changes_versions_where_others_are_faster_on_more_cores():
    # Version 0 is fastest on 1 core, version 1 on 2.
    versions = np.array([[0.004, 0.003], [0.005, 0.002]])[None, :, :, None].repeat(2, axis=0)
    net = make_model(macs=(1, 1))
    context = make_context({"net": versions}, [net], cores=(1, 2), machine=make_machine(2))
    tables = LatencyTables(context, VersionRule.FASTEST_AT_LEVEL)
    assert list(grow(snapshot(1, [], [running(1, net, 1)]), 1, tables)) == [Resize(1, 2, (1, 1))]


def test_a_block_alone_meets_no_pressure_and_equal_blocks_each_half():
    lone, other = running(1, NET, 4), running(2, NET, 4)
    assert busy(snapshot(0, [], [lone, other])) == 8
    assert pressure_on(lone, 0.8, 4) == 0.0
    assert pressure_on(lone, 0.8, 8) == pytest.approx(0.4)


def test_nothing_grows_where_no_unit_is_free():
    assert list(grow(snapshot(0, [pending(2, NET)], [running(1, NET, 8)]), 0, TABLES)) == []


def start(query_id: int, cores: int) -> Allocation:
    return Allocation(query_id, LayerBlock("net", 0, 4), (0,) * 4, cores, cores)


def test_a_block_that_starts_alone_takes_all_cores_that_suit_it_and_still_wants_its_need():
    assert fill(snapshot(8, [], []), [start(1, 3)], TABLES, 0) == [
        Allocation(1, LayerBlock("net", 0, 4), (0,) * 4, 8, 3)
    ]


def test_running_blocks_grow_before_those_that_start():
    one = snapshot(6, [], [running(1, NET, 2)])
    assert fill(one, [start(2, 3)], TABLES, 0) == [start(2, 3), Resize(1, 5)]


def test_of_two_that_start_the_first_takes_what_is_left():
    first, second = fill(snapshot(8, [], []), [start(1, 2), start(2, 1)], TABLES, 0)
    assert (first.cores, second.cores) == (7, 1)


def test_starts_stay_as_they_are_where_nothing_is_left():
    assert fill(snapshot(4, [], []), [start(1, 4)], TABLES, 0) == [start(1, 4)]
