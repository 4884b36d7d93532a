import pytest

from baselines.streams import Streams
from tests.support.builders import pending, running, served, snapshot
from tests.support.schedulers import made, serving, started, started_blocks
from veltair.serving.loop.policy import Allocation, Rejection

CONTEXT = serving({"net": ([0.010, 0.010], 0.050), "tight": ([0.010, 0.010], 0.010)})
NET, TIGHT = CONTEXT.models.values()


def streams(count: int = 2, **options) -> Streams:
    return made(Streams, CONTEXT, streams=count, **options)


def test_each_slice_serves_a_whole_query_on_its_part_of_the_cores():
    waiting = [pending(number, NET) for number in (1, 2, 3)]
    assert started_blocks(streams().allocate(snapshot(8, waiting))) == [(1, 0, 2, 4), (2, 0, 2, 4)]


def test_what_does_not_divide_evenly_stays_idle():
    assert started(streams(3).allocate(snapshot(8, [pending(number, NET) for number in range(4)]))) == [
        (0, 2),
        (1, 2),
        (2, 2),
    ]


def test_a_query_joins_the_shortest_queue_at_its_arrival_and_stays_there():
    # 1 and 3 go to the first stream, 2 to the second. 2 ends: 4 joins the shorter second queue and starts,
    # but 3 waits for 1.
    policy = streams()
    policy.allocate(snapshot(8, [pending(number, NET) for number in (1, 2, 3)]))
    runs = [running(1, NET, 4)]
    assert policy.allocate(snapshot(4, [pending(3, NET)], runs, gone=[served(2, NET, 0.005)])) == []
    assert started(policy.allocate(snapshot(4, [pending(3, NET), pending(4, NET, 0.006)], runs))) == [(4, 4)]
    runs = [running(4, NET, 4)]
    assert started(policy.allocate(snapshot(4, [pending(3, NET)], runs, gone=[served(1, NET, 0.01)]))) == [
        (3, 4)
    ]


def test_queries_that_arrive_together_join_in_their_order():
    policy = streams()
    policy.allocate(snapshot(8, [pending(number, NET) for number in (1, 2)]))
    runs = [running(number, NET, 4) for number in (1, 2)]
    policy.allocate(snapshot(0, [pending(number, NET) for number in (3, 4)], runs))
    left = snapshot(4, [pending(number, NET) for number in (3, 4)], runs[1:], gone=[served(1, NET, 0.01)])
    assert started(policy.allocate(left)) == [(3, 4)]


def test_a_stream_follows_the_order_of_the_options():
    policy = streams(order="edf")
    policy.allocate(snapshot(8, [pending(number, NET) for number in (1, 2)]))
    runs = [running(2, NET, 4)]
    waiting = [pending(3, NET), pending(4, NET), pending(5, TIGHT, 0.001)]
    policy.allocate(snapshot(0, waiting, [running(1, NET, 4), *runs]))
    # 3 and 5 wait for the first stream, 4 for the second; 5 has the nearest deadline.
    assert started(policy.allocate(snapshot(4, waiting, runs, gone=[served(1, NET, 0.01)]))) == [(5, 4)]


def test_who_is_late_on_a_slice_is_lost_even_if_the_whole_machine_would_save_him():
    # 20 core-ms take 5 ms on 4 cores; 2.5 ms on all 8. With 4 ms left the query is lost here.
    (answer,) = streams(drop_late="when_doomed").allocate(snapshot(8, [pending(1, TIGHT)], time_s=0.006))
    assert isinstance(answer, Rejection)
    (answer,) = streams(drop_late="when_doomed").allocate(snapshot(8, [pending(1, TIGHT)], time_s=0.004))
    assert isinstance(answer, Allocation)


def test_a_rejected_query_has_left_its_queue():
    policy = streams(drop_late="at_deadline")
    policy.allocate(snapshot(8, [pending(number, NET) for number in (1, 2, 3)]))
    runs = [running(1, NET, 4), running(2, NET, 4)]
    (rejection,) = policy.allocate(snapshot(0, [pending(3, NET)], runs, time_s=0.06))
    assert isinstance(rejection, Rejection)
    # Both queues have one query: of equals the first.
    gone = [served(3, NET, 0.06)]
    policy.allocate(snapshot(0, [pending(4, NET, 0.061)], runs, time_s=0.061, gone=gone))
    left = snapshot(4, [pending(4, NET, 0.061)], runs[1:], time_s=0.062, gone=[served(1, NET, 0.062)])
    assert started(policy.allocate(left)) == [(4, 4)]


def test_more_streams_than_steps_of_cores_are_refused():
    context = serving({"net": ([0.010] * 2, 0.050)}, (4, 8))
    with pytest.raises(ValueError, match=r"streams is 3, on 8 cores of which at least 4 .* give at most 2"):
        made(Streams, context, streams=3)
    with pytest.raises(ValueError, match="option streams is 0; Input should be greater than or equal to 1"):
        made(Streams, context, streams=0)
