from dataclasses import replace

import pytest

from baselines.clockwork import Clockwork
from tests.support.builders import (
    linear_seconds,
    make_context,
    make_machine,
    make_model,
    pending,
    running,
    served,
    snapshot,
)
from tests.support.memory_builders import with_batches, with_memory
from veltair.machine.costs.table import CostTable
from veltair.serving.loop.policy import Allocation, Context, Evict, Load, LoadUnderWay, Rejection
from veltair.serving.policies.presets import make_policy

COUNTS = tuple(range(1, 9))
# 20 core-ms: 5 ms on the 4 cores of one of two executors.
NET, TIGHT = make_model("net", (1, 1), qos_s=0.050), make_model("tight", (1, 1), qos_s=0.010)
CONTEXT = make_context(
    {name: linear_seconds([0.010, 0.010], COUNTS) for name in ("net", "tight")}, [NET, TIGHT]
)
# Two queries take 7.5 ms, four take 12.5 ms.
BATCHED = with_batches(CONTEXT, {2: 1.5, 4: 2.5})
# Pages of 1 MiB, four of them; loads take 3 and 2 ms.
MIB = 2**20
MEMORY = with_memory(CONTEXT, 4 * MIB, {"net": 3 * MIB, "tight": 2 * MIB}, 1000 * MIB)


def clockwork(context: Context = CONTEXT, **options) -> Clockwork:
    options = {"executors": 2, "page_mib": 1, **options}
    policy = make_policy("baselines.clockwork:Clockwork", context, "paper", options)
    assert isinstance(policy, Clockwork)
    return policy


def started(answers):
    return [
        ((answer.query_id, *answer.others), answer.cores)
        for answer in answers
        if isinstance(answer, Allocation)
    ]


def test_each_executor_runs_a_whole_model_on_its_part_of_the_cores():
    answers = clockwork().allocate(snapshot(8, [pending(number, NET) for number in (1, 2, 3)]))
    assert started(answers) == [((1,), 4), ((2,), 4)]
    assert [len(answer.block) for answer in answers] == [2, 2]


def test_the_earliest_latest_start_is_next():
    # net must start by 50 - 5 = 45 ms, tight by 11 - 5 = 6 ms.
    waiting = [pending(1, NET), pending(2, NET), pending(3, TIGHT, 0.001)]
    answers = clockwork().allocate(snapshot(4, waiting, [running(9, NET, 4)], time_s=0.001))
    assert started(answers) == [((3,), 4)]


def test_who_cannot_end_in_time_is_rejected_and_nothing_is_spent_on_him():
    # tight must start by 5 ms.
    waiting = [pending(1, TIGHT), pending(2, NET)]
    rejection, start = clockwork().allocate(snapshot(4, waiting, [running(9, NET, 4)], time_s=0.0051))
    assert isinstance(rejection, Rejection) and rejection.query_id == 1
    assert start.query_id == 2
    answers = clockwork().allocate(snapshot(4, waiting, [running(9, NET, 4)], time_s=0.0049))
    assert started(answers) == [((1,), 4)]


def test_with_drops_off_the_late_are_served_all_the_same():
    answers = clockwork(drop_late="never").allocate(snapshot(8, [pending(1, TIGHT)], time_s=0.1))
    assert started(answers) == [((1,), 4)]


def test_a_prediction_is_the_longest_of_the_last_ten_and_before_there_are_any_the_profile():
    policy = clockwork()
    assert policy.predicted_s("net", 1) == pytest.approx(0.005)
    for number in range(11):
        policy.allocate(snapshot(8, [pending(number, NET)]))
        # The first takes 9 ms, the others 6.0, 6.1, … 6.9 ms.
        seconds = 0.009 if number == 0 else 0.0059 + 0.0001 * number
        policy.allocate(snapshot(8, gone=[served(number, NET, seconds)]))
        assert policy.predicted_s("net", 1) == pytest.approx(0.009 if number < 10 else 0.0069)
    assert policy.predicted_s("tight", 1) == pytest.approx(0.005)


def test_a_prediction_by_which_nobody_would_be_in_time_is_forgotten():
    policy = clockwork()
    policy.allocate(snapshot(8, [pending(1, TIGHT)]))
    policy.allocate(snapshot(8, gone=[served(1, TIGHT, 0.0101)]))
    assert policy.predicted_s("tight", 1) == pytest.approx(0.005)


def test_a_batch_is_the_largest_that_waits_and_ends_before_its_first_deadline():
    waiting = [pending(number, NET) for number in range(5)]
    # Four take 12.5 ms; the fifth has the other executor.
    assert started(clockwork(BATCHED).allocate(snapshot(8, waiting))) == [((0, 1, 2, 3), 4), ((4,), 4)]
    # 40 ms later four would be late, two take 7.5 ms. Three wait: one is left for the other executor.
    answers = clockwork(BATCHED).allocate(snapshot(8, waiting[:3], time_s=0.040))
    assert started(answers) == [((0, 1), 4), ((2,), 4)]
    # 44 ms later each is in time alone.
    answers = clockwork(BATCHED).allocate(snapshot(8, waiting[:3], time_s=0.044))
    assert started(answers) == [((0,), 4), ((1,), 4)]


def test_the_times_of_a_batch_count_for_its_size_alone():
    policy = clockwork(BATCHED)
    policy.allocate(snapshot(8, [pending(number, NET) for number in (0, 1)]))
    policy.allocate(snapshot(8, gone=[served(number, NET, 0.009) for number in (0, 1)]))
    predicted = [policy.predicted_s("net", size) for size in (1, 2, 4)]
    assert predicted == pytest.approx([0.005, 0.009, 0.0125])


def test_the_cold_model_with_most_work_waiting_is_loaded():
    waiting = [pending(1, TIGHT), pending(2, NET), pending(3, NET)]
    assert clockwork(MEMORY).allocate(snapshot(8, waiting)) == [Load("net")]


def test_a_cold_query_is_as_late_as_the_load_makes_it():
    # tight takes 2 ms to load and 5 to run; behind the load of net, which has 1 ms to go, 3 + 5.
    alone = [pending(1, TIGHT)]
    policy = clockwork(MEMORY)
    assert policy.allocate(snapshot(8, alone, time_s=0.0029)) == [Load("tight")]
    (answer,) = policy.allocate(snapshot(8, alone, time_s=0.0031))
    assert isinstance(answer, Rejection)
    load = LoadUnderWay("net", 0.0031)
    (answer,) = policy.allocate(snapshot(8, alone, time_s=0.0021, load=load))
    assert isinstance(answer, Rejection)
    load = LoadUnderWay("net", 0.0029)
    assert policy.allocate(snapshot(8, alone, time_s=0.0019, load=load)) == []


def test_blocks_of_resident_models_run_beside_a_load_and_the_least_recently_used_gives_way():
    policy = clockwork(MEMORY)
    assert policy.allocate(snapshot(8, [pending(1, NET)])) == [Load("net")]
    waiting = [pending(1, NET), pending(2, TIGHT, 0.001)]
    # net runs on both of its pages' three, so that there is no room for tight's two of four.
    answers = policy.allocate(snapshot(8, waiting, time_s=0.003, resident=("net",)))
    assert started(answers) == [((1,), 4)]
    assert len(answers) == 1
    gone = [served(1, NET, 0.005)]
    late = [pending(2, TIGHT, 0.005)]
    answers = policy.allocate(snapshot(8, late, time_s=0.005, resident=("net",), gone=gone))
    assert answers == [Evict("net"), Load("tight")]


def test_nobody_gives_way_for_less_work_than_waits_for_himself():
    busy = [running(8, TIGHT, 4), running(9, TIGHT, 4)]
    policy = clockwork(with_memory(CONTEXT, 5 * MIB, {"net": 3 * MIB, "tight": 3 * MIB}, 1000 * MIB))
    policy.allocate(snapshot(8, [pending(1, NET)]))
    waiting = [pending(1, NET), pending(2, TIGHT), pending(3, NET)]
    assert policy.allocate(snapshot(0, waiting, busy, resident=("net",))) == []


def test_exclusive_loads_wait_for_blocks_and_blocks_for_them():
    policy = clockwork(MEMORY, loads="exclusive")
    policy.allocate(snapshot(8, [pending(1, NET)]))
    waiting = [pending(2, TIGHT, 0.003), pending(3, TIGHT, 0.003)]
    runs = [running(1, NET, 4)]
    # More work waits for tight than for net: net's block ends first, and its next one waits.
    seen = [*waiting, pending(4, NET, 0.003)]
    assert policy.allocate(snapshot(4, seen, runs, time_s=0.003, resident=("net",))) == []
    gone = [served(1, NET, 0.004)]
    answers = policy.allocate(snapshot(8, seen, time_s=0.004, resident=("net",), gone=gone))
    assert answers == [Evict("net"), Load("tight")]
    load = LoadUnderWay("tight", 0.006)
    assert policy.allocate(snapshot(8, seen, time_s=0.005, load=load)) == []


@pytest.mark.parametrize(
    ("context", "options", "message"),
    [
        (CONTEXT, {"executors": 9}, "executors is 9, on 8 cores of which at least 1 .* give at most 8"),
        (CONTEXT, {"executors": 0}, "option executors is 0"),
        (
            with_memory(CONTEXT, 4 * MIB, {"net": 3 * MIB, "tight": MIB}, MIB),
            {"page_mib": 2.5},
            "net takes 2 pages of 2.5 MiB, of which the memory for models has 1; raise `memory_mb`",
        ),
    ],
)
def test_what_does_not_fit_is_refused(context, options, message):
    with pytest.raises(ValueError, match=message):
        clockwork(context, **options)


def test_an_executor_is_the_count_within_its_slice_that_suits_a_model_best():
    rows = CONTEXT.costs.repeats
    slower = rows.assign(seconds=rows["seconds"] * (1 + 9 * (rows["cores"] == 4)))
    context = replace(CONTEXT, costs=CostTable(slower, "toy"), machine=make_machine(8))
    assert started(clockwork(context).allocate(snapshot(8, [pending(1, NET)]))) == [((1,), 3)]
