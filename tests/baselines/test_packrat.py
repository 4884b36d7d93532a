import pytest

from baselines.packrat import Packrat, best_instances
from tests.support.builders import (
    linear_seconds,
    make_context,
    make_model,
    pending,
    running,
    served,
    snapshot,
)
from tests.support.memory_builders import with_batches
from veltair.serving.loop.policy import Allocation, Context, Rejection
from veltair.serving.policies.presets import make_policy

COUNTS = tuple(range(1, 9))
NET, OTHER = make_model("net", (1, 1), qos_s=0.010), make_model("other", (1, 1), qos_s=0.010)
ONE = make_context({"net": linear_seconds([0.010, 0.010], COUNTS)}, [NET])
# 20 core-ms, of two queries 30, of four 50: on 8 cores 2.5, 3.75 and 6.25 ms.
BATCHED = with_batches(ONE, {2: 1.5, 4: 2.5})


def packrat(context: Context = BATCHED, **options) -> Packrat:
    policy = make_policy("baselines.packrat:Packrat", context, "paper", options)
    assert isinstance(policy, Packrat)
    return policy


def blocks(answers):
    return [((start.query_id, *start.others), start.cores) for start in answers]


def shared(cores: int, batch: int) -> float:
    """Latency of work that does not speed up beyond two cores, and of which half is shared by a batch."""
    return (1 + batch) / min(cores, 2)


@pytest.mark.parametrize(
    ("cores", "queries", "ends_s", "instances"),
    [
        # On one core: alone 2, both together 3.
        (1, 1, 2.0, ((1, 1),)),
        (1, 2, 3.0, ((1, 2),)),
        # Two on two cores: side by side 2 each, together 3 / 2.
        (2, 2, 1.5, ((2, 2),)),
        # Four on four: together 5 / 2; two and two 3 / 2; four alone 2.
        (4, 4, 1.5, ((2, 2), (2, 2))),
        # Three on four: 2 and 1 are 3 / 2 and 1.
        (4, 3, 1.5, ((2, 1), (2, 2))),
        # Three on one core cannot be cut into instances of 2 and 1, nor was 3 built.
        (1, 3, float("inf"), ()),
    ],
)
def test_instances_are_those_whose_slowest_ends_soonest(cores, queries, ends_s, instances):
    assert best_instances(shared, [1, 2, 4], [1, 2, 4], cores, queries) == (ends_s, instances)


def test_cuts_are_never_worse_than_any_that_can_be_tried():
    def least_s(cores: int, queries: int) -> float:
        if not queries:
            return 0.0
        return min(
            (
                max(shared(used, batch), least_s(cores - used, queries - batch))
                for used in (1, 2, 4)
                for batch in (1, 2)
                if used <= cores and batch <= queries
            ),
            default=float("inf"),
        )

    for cores in range(1, 9):
        for queries in range(1, 7):
            ends_s, instances = best_instances(shared, [1, 2, 4], [1, 2], cores, queries)
            assert ends_s == least_s(cores, queries)
            if instances:
                assert sum(batch for _, batch in instances) == queries
                assert sum(used for used, _ in instances) <= cores


def test_the_queries_that_wait_are_served_at_once():
    # On 8 cores four together take 6.25 ms, two and two on 4 cores 7.5, four on 2 cores 10.
    answers = packrat().allocate(snapshot(8, [pending(number, NET) for number in range(4)]))
    assert blocks(answers) == [((0, 1, 2, 3), 8)]


def test_what_was_built_for_single_queries_is_cut_into_instances_of_one():
    answers = packrat(ONE).allocate(snapshot(8, [pending(number, NET) for number in range(4)]))
    assert blocks(answers) == [((0,), 2), ((1,), 2), ((2,), 2), ((3,), 2)]


def test_threads_are_powers_of_two():
    # Three queries on 8 cores have 2, 2 and 4, not 2, 3 and 3.
    answers = packrat(ONE).allocate(snapshot(8, [pending(number, NET) for number in range(3)]))
    assert sorted(cores for _, cores in blocks(answers)) == [2, 2, 4]


def test_the_next_instances_begin_when_all_of_a_partition_have_ended():
    policy = packrat(ONE)
    policy.allocate(snapshot(8, [pending(number, NET) for number in (1, 2)]))
    gone = [served(1, NET, 0.005)]
    waiting = [pending(3, NET)]
    assert policy.allocate(snapshot(4, waiting, [running(2, NET, 4)], gone=gone)) == []
    gone = [served(2, NET, 0.005)]
    assert blocks(policy.allocate(snapshot(8, waiting, gone=gone))) == [((3,), 8)]


def test_at_most_batch_queries_are_served_at_once():
    answers = packrat(batch=2).allocate(snapshot(8, [pending(number, NET) for number in range(4)]))
    assert blocks(answers) == [((0, 1), 8)]


def test_each_model_has_its_partition():
    context = make_context(
        {name: linear_seconds([0.010, 0.010], COUNTS) for name in ("net", "other")}, [NET, OTHER]
    )
    policy = packrat(context)
    assert policy.partitions == {"net": 4, "other": 4}
    answers = policy.allocate(snapshot(8, [pending(1, NET), pending(2, NET), pending(3, OTHER)]))
    assert blocks(answers) == [((1,), 2), ((2,), 2), ((3,), 4)]


def test_queues_follow_the_order_of_the_options_and_who_is_late_on_his_partition_is_dropped():
    # Alone on 8 cores it takes 2.5 ms: with 2 ms left query 1 is lost.
    waiting = [pending(1, NET), pending(2, NET, 0.007)]
    rejection, start = packrat(drop_late="when_doomed").allocate(snapshot(8, waiting, time_s=0.008))
    assert isinstance(rejection, Rejection) and rejection.query_id == 1
    assert isinstance(start, Allocation) and start.query_id == 2


def test_a_batch_that_was_not_built_is_refused_and_one_that_is_left_out_is_not_used():
    with pytest.raises(ValueError, match=r"batches has 8, but net was built for 1, 2, 4; add 8 to `mod"):
        packrat(batches=[2, 8])
    answers = packrat(batches=[2]).allocate(snapshot(8, [pending(number, NET) for number in range(4)]))
    assert blocks(answers) == [((0, 1), 4), ((2, 3), 4)]
