import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.moca import Claim, Moca, throttled
from tests.support.builders import pending, running, snapshot
from tests.support.schedulers import made, serving, started, started_blocks
from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Allocation, Rejection

GB = 1e9
# On 4 of 8 cores each layer takes 4 ms, in which the memory gives 0.4 GB: CALC draws nothing of its 100 GB/s,
# MOVE 90 and then 60 of them, MIXED nothing, then 90.
CONTEXT = serving(
    {"calc": ([0.016] * 2, 0.1), "move": ([0.016] * 2, 0.1), "mixed": ([0.016] * 3, 0.1)},
    moved_bytes={"calc": [0.0, 0.0], "move": [3.6e8, 2.4e8], "mixed": [0.0, 0.0, 3.6e8]},
)
CALC, MOVE, MIXED = CONTEXT.models.values()


def moca(**options) -> Moca:
    return made(Moca, CONTEXT, **{"groups": 2, **options})


def bandwidths(answers) -> list[tuple[int, float | None]]:
    return [
        (answer.query_id, answer.dram_bytes_per_s) for answer in answers if isinstance(answer, Allocation)
    ]


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        ((90, 1), [], 90),  # alone
        ((60, 1), [(40, 1)], 60),  # as much as there is
        # 150 of 100: 50 too much, of which it gives up 60 / (90 + 60), 120 / (90 + 120) or 60 / (180 + 60).
        ((90, 1), [(60, 1)], 70),
        ((90, 1), [(60, 2)], 90 - 50 * 120 / 210),
        ((90, 2), [(60, 1)], 77.5),
        ((60, 1), [(90, 1)], 50),  # 60 - 50 x 90 / 150 = 30: never less than an equal part
        ((40, 1), [(90, 1)], 50),  # who asks for less than that is not throttled at all
        ((90, 1), [(60, 1), (20, 1)], 90 - 70 * 80 / 170),
    ],
)
def test_who_begins_gives_up_its_part_of_what_is_asked_for_too_much(own, others, expected):
    claims = [Claim(bytes_per_s, score) for bytes_per_s, score in others]
    assert throttled(Claim(*own), claims, most=100, part=50) == pytest.approx(expected)


claims = st.builds(Claim, st.floats(0, 200), st.floats(0.1, 20))


@given(claims, st.lists(claims, max_size=4), st.floats(1, 200))
def test_nobody_is_throttled_below_an_equal_part_or_given_more_than_it_asks_for_beyond(own, others, most):
    given_bytes = throttled(own, others, most, part=25)
    assert min(own.bytes_per_s, 25) <= given_bytes <= max(own.bytes_per_s, 25)


def test_a_part_is_the_layers_that_are_memory_bound_or_not_on_a_group_of_cores():
    # An equal part of two is 50 GB/s: all of MOVE is above it.
    assert moca().memory_bound("move") == (True, True)
    assert moca().memory_bound("mixed") == (False, False, True)
    assert started_blocks(moca().allocate(snapshot(8, [pending(1, MIXED)]))) == [(1, 0, 2, 4)]
    rest = pending(1, MIXED, next_layer=2)
    assert started_blocks(moca().allocate(snapshot(8, [rest]))) == [(1, 2, 3, 4)]


def test_who_is_alone_draws_what_it_can():
    assert bandwidths(moca().allocate(snapshot(8, [pending(1, MOVE)]))) == [(1, None)]
    beside = [running(2, CALC, 4)]
    assert bandwidths(moca().allocate(snapshot(4, [pending(1, MOVE)], beside))) == [(1, None)]


def test_who_begins_beside_another_that_loads_memory_is_throttled_by_weight():
    # MOVE asks for 75 on the average of its two layers, MIXED for 90 in its last layer: 65 GB/s too much.
    # Both have 100 ms: MOVE has 8 ms left, a score of 1.08, MIXED 4 ms, 1.04.
    entry = pending(1, MIXED, next_layer=2)
    theirs, own = 1.08 * 75, 1.04 * 90
    expected = (90 - 65 * theirs / (own + theirs)) * GB
    ((_, given_bytes),) = bandwidths(moca().allocate(snapshot(4, [entry], [running(2, MOVE, 4)])))
    assert given_bytes == pytest.approx(expected)


def test_less_slack_is_more_weight_and_so_is_priority():
    entry, beside = pending(1, MIXED, next_layer=2), [running(2, MOVE, 4)]

    def given_at(time_s: float, **options) -> float:
        seen = snapshot(
            4, [entry], [beside[0]._replace(query=beside[0].query._replace(qos_s=0.2))], time_s=time_s
        )
        ((_, given_bytes),) = bandwidths(moca(**options).allocate(seen))
        assert given_bytes is not None
        return given_bytes

    # After 90 ms MIXED has 4 of 10 ms left to work, MOVE 8 of 110: 1.4 against 1.0727.
    theirs, own = (1 + 8 / 110) * 75, 1.4 * 90
    assert given_at(0.090) == pytest.approx((90 - 65 * theirs / (own + theirs)) * GB)
    theirs, own = (1 + 8 / 110) * 75, 3.4 * 90
    assert given_at(0.090, priorities={"mixed": 3.0}) == pytest.approx(
        (90 - 65 * theirs / (own + theirs)) * GB
    )
    # Late, its slack is spent: it counts with its priority.
    theirs, own = (1 + 8 / 90) * 75, 90
    assert given_at(0.110) == pytest.approx((90 - 65 * theirs / (own + theirs)) * GB)


def test_its_public_code_lets_queries_ask_for_half_as_much_again():
    entry, beside = pending(1, MIXED, next_layer=2), [running(2, MOVE, 4)]
    ((_, given_bytes),) = bandwidths(moca(limit=1.5).allocate(snapshot(4, [entry], beside)))
    theirs, own = 1.08 * 75, 1.04 * 90
    assert given_bytes == pytest.approx((90 - 15 * theirs / (own + theirs)) * GB)


def test_of_two_that_begin_together_the_second_sees_the_first():
    waiting = [pending(1, MIXED, next_layer=2), pending(2, MIXED, next_layer=2)]
    (_, first), (_, second) = bandwidths(moca().allocate(snapshot(8, waiting)))
    assert first is None
    assert second == pytest.approx(50 * GB)  # of 180 they share the excess of 80 evenly


def test_a_query_in_service_keeps_its_group():
    waiting = [pending(1, CALC), pending(2, CALC), pending(3, MIXED, 0.002, next_layer=2)]
    answers = moca().allocate(snapshot(8, waiting, time_s=0.002))
    assert [query_id for query_id, _ in started(answers)] == [3, 1]


def test_who_has_waited_longest_for_its_length_comes_first():
    # 7 ms of 8 against 12 ms of 12: 0.875 against 1.
    waiting = [pending(1, MIXED, 0.0), pending(2, CALC, 0.005), pending(3, CALC, 0.0055)]
    policy, busy = moca(), [running(9, CALC, 4)]
    assert started(policy.allocate(snapshot(4, waiting, busy, time_s=0.012))) == [(1, 4)]
    # With priority 3 CALC is first.
    policy = moca(priorities={"calc": 3.0})
    assert started(policy.allocate(snapshot(4, waiting, busy, time_s=0.012))) == [(2, 4)]


def test_beside_a_model_that_loads_memory_one_goes_ahead_that_does_not():
    waiting = [pending(1, MOVE), pending(2, MOVE), pending(3, CALC, 0.001)]
    assert [start[0] for start in started(moca().allocate(snapshot(8, waiting, time_s=0.001)))] == [1, 3]
    only = [pending(2, MOVE)]
    assert started(moca().allocate(snapshot(4, only, [running(1, MOVE, 4)]))) == [(2, 4)]


def test_a_group_runs_one_part_at_a_time():
    runs = [running(1, CALC, 4), running(2, MIXED, 4)._replace(block=LayerBlock("mixed", 0, 2))]
    assert moca().allocate(snapshot(0, [pending(3, CALC)], runs)) == []


def test_there_are_four_groups_or_as_many_as_leave_each_model_its_target():
    # 32 and 48 core-ms in 100 ms, of which half may be service: one core each is enough.
    assert made(Moca, CONTEXT).groups == 4
    tight = serving({"calc": ([0.016] * 2, 0.016)})
    assert made(Moca, tight).groups == 2
    assert made(Moca, tight, service_share=1.0).groups == 4


def test_who_is_late_on_a_group_is_given_up():
    # 8 ms on 4 cores.
    for time_s, kind in ((0.091, Allocation), (0.093, Rejection)):
        (answer,) = moca(drop_late="when_doomed").allocate(snapshot(8, [pending(1, CALC)], time_s=time_s))
        assert isinstance(answer, kind)


def test_more_groups_than_steps_of_cores_are_refused():
    with pytest.raises(ValueError, match=r"groups is 3, on 8 cores of which at least 4 .* give at most 2"):
        made(Moca, serving({"calc": ([0.016], 0.1)}, (4, 8)), groups=3)
