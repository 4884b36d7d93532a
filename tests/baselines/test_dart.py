from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.dart import Dart, cut
from tests.support.builders import pending, run_to_end, running, snapshot
from tests.support.schedulers import made, serving, started_blocks
from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Allocation, Context, Rejection
from veltair.serving.loop.query import Query

# On 4 cores the layers of SLOW take 2, 3, 1, 4 ms and those of FAST 1, 1, 2 ms.
WORK_CORE_S = {"slow": [0.008, 0.012, 0.004, 0.016], "fast": [0.004, 0.004, 0.008]}


def pair(slow_s: float = 0.040) -> Context:
    """Return the two models, SLOW with this target."""
    return serving({"slow": (WORK_CORE_S["slow"], slow_s), "fast": (WORK_CORE_S["fast"], 0.020)})


CONTEXT = pair()
SLOW, FAST = CONTEXT.models.values()


def dart(context=CONTEXT, **options) -> Dart:
    return made(Dart, context, **options)


@pytest.mark.parametrize(
    ("seconds", "stages", "bounds"),
    [
        ([2, 3, 1, 4], 1, (0, 4)),
        ([2, 3, 1, 4], 2, (0, 2, 4)),  # 5 and 5
        ([2, 3, 1, 4], 3, (0, 1, 3, 4)),  # 2, 4, 4
        ([1, 1, 2], 2, (0, 2, 3)),  # 2 and 2
        ([1, 1, 9], 2, (0, 2, 3)),  # 2 and 9
        ([9, 1, 1, 1], 3, (0, 1, 2, 4)),  # 9 whatever comes after: the last one is as long as it can be
        ([5, 1, 1], 3, (0, 1, 2, 3)),
    ],
)
def test_a_model_is_cut_where_the_longest_stage_is_shortest(seconds, stages, bounds):
    assert cut(seconds, stages) == bounds


@given(st.lists(st.integers(1, 20), min_size=1, max_size=9), st.integers(1, 5))
def test_no_other_cut_has_a_shorter_longest_stage(seconds, stages):
    stages = min(stages, len(seconds))
    found = cut([float(value) for value in seconds], stages)
    assert len(found) == stages + 1 and all(start < stop for start, stop in pairwise(found))

    def longest(bounds: tuple[int, ...]) -> int:
        return max(sum(seconds[start:stop]) for start, stop in pairwise(bounds))

    others = ((0, *inner, len(seconds)) for inner in combinations(range(1, len(seconds)), stages - 1))
    assert longest(found) == min(map(longest, others))


def test_each_stage_runs_on_its_node_and_nodes_are_equal_slices():
    policy = dart(nodes=2)
    assert (policy.stages("slow"), policy.stages("fast")) == ((0, 2, 4), (0, 2, 3))
    waiting = [pending(1, SLOW), pending(2, SLOW), pending(3, FAST, next_layer=2)]
    assert started_blocks(policy.allocate(snapshot(8, waiting))) == [(3, 2, 3, 4), (1, 0, 2, 4)]


def test_a_node_serves_the_shortest_relative_deadline_first_though_another_deadline_is_nearer():
    # SLOW is due at 40 ms, FAST at 45.
    waiting = [pending(1, SLOW), pending(2, FAST, 0.025)]
    (start,) = dart(nodes=2).allocate(snapshot(8, waiting, time_s=0.025))
    assert start.query_id == 2


def test_a_stage_is_not_preempted():
    run = running(1, SLOW, 4)._replace(block=LayerBlock("slow", 0, 2))
    assert dart(nodes=2).allocate(snapshot(4, [pending(2, FAST)], [run])) == []


def test_there_are_as_many_nodes_as_leave_every_model_its_target_or_a_share_of_it():
    # 40 core-ms in 40 ms and 16 in 20 ms: one core each is enough, so 8 nodes; in half of that 2, so 4. In
    # 5 ms SLOW needs 8 cores, in 10 ms 4.
    assert dart(service_share=1.0).nodes == 8
    assert dart().nodes == 4
    assert dart(pair(slow_s=0.010)).nodes == 1
    assert dart(pair(slow_s=0.010), service_share=1.0).nodes == 2
    assert dart(pair(slow_s=0.001)).nodes == 1


def test_a_model_of_fewer_layers_than_nodes_has_as_many_stages_as_layers():
    assert dart(nodes=4).stages("fast") == (0, 1, 2, 3)
    assert dart(nodes=8).stages("slow") == (0, 1, 2, 3, 4)


def test_queries_follow_each_other_through_the_nodes():
    # 5 and 5 ms: the second query enters when the first has gone on, and leaves 5 ms after it.
    records = run_to_end(dart(nodes=2), CONTEXT, [Query(number, "slow", 0.0, 0.04) for number in range(3)])
    assert [record.end_s for record in records] == pytest.approx([0.010, 0.015, 0.020])
    assert {record.blocks for record in records} == {2}


def test_who_is_late_on_the_nodes_is_given_up():
    # 10 ms on two nodes of 4 cores.
    for time_s, kind in ((0.031, Rejection), (0.029, Allocation)):
        (answer,) = dart(nodes=2, drop_late="when_doomed").allocate(
            snapshot(8, [pending(1, SLOW)], time_s=time_s)
        )
        assert isinstance(answer, kind)


def test_more_nodes_than_steps_of_cores_are_refused():
    context = serving({"slow": ([0.010] * 4, 0.040)}, (4, 8))
    with pytest.raises(ValueError, match=r"nodes is 3, on 8 cores of which at least 4 .* give at most 2"):
        dart(context, nodes=3)
