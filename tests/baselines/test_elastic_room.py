import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.elastic_room import ElasticRoom, shares_by_turns
from tests.support.builders import make_context, make_machine, make_model, pending, running, snapshot
from tests.support.schedulers import made, serving, started
from veltair.serving.loop.policy import Allocation, Resize
from veltair.serving.policies.native_spec import spec_of

# 50 core-ms in 10 ms need 5 cores, 80 in 20 ms need 4.
CONTEXT = serving({"near": ([0.025] * 2, 0.010), "far": ([0.040] * 2, 0.020)})
NEAR, FAR = CONTEXT.models.values()


def room(context=CONTEXT, **options) -> ElasticRoom:
    return made(ElasticRoom, context, **options)


def test_the_nearest_deadline_gets_all_that_it_needs_and_the_next_the_room_that_is_left():
    assert started(room().allocate(snapshot(8, [pending(1, FAR), pending(2, NEAR)]))) == [(1, 3), (2, 5)]


def test_a_lone_query_gets_the_cores_that_suit_it_best():
    assert started(room().allocate(snapshot(8, [pending(1, NEAR)]))) == [(1, 8)]


def test_who_runs_shrinks_at_its_next_layer_end_to_make_room_and_grows_again():
    policy = room(conflict="wait")
    waiting, runs = [pending(2, NEAR)], [running(1, FAR, 8)]
    assert policy.allocate(snapshot(0, waiting, runs)) == [Resize(1, 3)]
    shrunk = [running(1, FAR, 3), running(2, NEAR, 5)]
    assert policy.allocate(snapshot(0, [], shrunk)) == []
    assert policy.allocate(snapshot(5, [], shrunk[:1])) == [Resize(1, 8)]


def test_who_cannot_be_saved_comes_last_though_its_deadline_is_nearest():
    # NEAR has 5 ms left for 50 core-ms: on 8 cores 6.25 ms.
    waiting = [pending(1, NEAR), pending(2, FAR, 0.001)]
    assert started(room().allocate(snapshot(8, waiting, time_s=0.005))) == [(2, 8)]


@pytest.mark.parametrize(
    ("needs", "room_left", "expected"),
    [
        ((5, 4), (8, 8), [5, 3]),
        ((3, 2), (8, 8), [6, 2]),  # the rest goes to the first
        ((3, 2), (4, 8), [4, 4]),  # which gets no faster beyond 4
        ((0, 2), (8, 3), [5, 3]),  # a need of 0 takes what nobody else can use
    ],
)
def test_needs_come_before_what_is_left_over(needs, room_left, expected):
    turns = sorted(range(2), key=lambda index: needs[index] == 0)
    assert shares_by_turns(turns, needs, room_left, 1, 8) == expected


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=6), st.integers(1, 3))
def test_shares_are_steps_and_fit_into_the_machine(wanted, step):
    needs, best = [need for need, _ in wanted], [max(pair) for pair in wanted]
    shares = shares_by_turns(range(len(wanted)), needs, best, step, 8)
    assert sum(shares) <= 8
    assert all(share % step == 0 for share in shares)


def test_a_query_runs_in_the_versions_that_are_fastest_alone_on_the_cores_it_gets():
    # Version 0 is fastest on 2 cores, version 1 on 4; pressure makes both of them slow, and changes nothing.
    seconds = np.array([[[[0.008, 0.1], [0.006, 0.1]], [[0.010, 0.1], [0.004, 0.1]]]])
    net = make_model(macs=(1,), qos_s=0.020)
    context = make_context(
        {"net": seconds}, [net], cores=(2, 4), levels=(0.0, 1.0), machine=make_machine(4, 2)
    )
    (one,) = room(context).allocate(snapshot(4, [pending(1, net)], pressure=1.0))
    two = room(context).allocate(snapshot(4, [pending(1, net), pending(2, net)]))
    assert isinstance(one, Allocation)
    assert (one.cores, one.versions) == (4, (1,))
    assert [(start.cores, start.versions) for start in two if isinstance(start, Allocation)] == [
        (2, (0,)),
        (2, (0,)),
    ]


def test_its_shares_are_not_those_that_the_loop_in_c_knows():
    assert spec_of(room()) is None
