from dataclasses import replace

import numpy as np
import pytest

from tests.support.serving.sim_builders import Cost, Greedy, context
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import Context
from veltair.serving.loop.query import Ending, Query, QueryRecord
from veltair.serving.policies.in_time import AdmitInTime, Correction, InTime, Work, fair_wait_s
from veltair.serving.simulator.noise import noise_batches
from veltair.serving.simulator.simulator import Simulator

ONE = {"a": 1.0}
NEVER = 1e9


def machine(cores: int = 1, **others: float) -> InTime:
    return InTime(ONE, cores, buffer_s=others.get("buffer_s", 0.0))


def finish(in_time: InTime, number: int, work: Work, time_s: float = 0.0, deadline_s: float = NEVER) -> float:
    return in_time.offer(number, "a", "net", work, deadline_s, time_s).finish_s


def test_on_an_idle_machine_steps_follow_each_other() -> None:
    work = Work(execution_s=4.0, core_s=4.0, copy_in_s=1.0, load_s=2.0, copy_out_s=0.5)
    assert finish(machine(), 0, work, time_s=10.0) == 17.5


def test_a_query_waits_for_those_before_it() -> None:
    in_time = machine(cores=2)
    finish(in_time, 0, Work(4.0, 4.0))
    assert finish(in_time, 1, Work(4.0, 4.0)) == 6.0  # 4 core-seconds ahead, on two cores


def test_what_was_done_since_is_not_waited_for() -> None:
    in_time = machine()
    finish(in_time, 0, Work(4.0, 4.0))
    assert finish(in_time, 1, Work(4.0, 4.0), time_s=3.0) == 8.0
    # The first has not ended although its time is over: it is not waited for twice.
    assert finish(in_time, 2, Work(4.0, 4.0), time_s=8.0) == 12.0


def test_a_machine_that_was_late_with_one_query_has_done_nothing_for_the_next() -> None:
    in_time = machine()
    finish(in_time, 0, Work(4.0, 4.0))
    assert finish(in_time, 1, Work(4.0, 4.0), time_s=10.0) == 14.0
    assert finish(in_time, 2, Work(4.0, 4.0), time_s=10.0) == 18.0


def test_a_query_that_ended_early_is_not_waited_for() -> None:
    in_time = machine()
    finish(in_time, 0, Work(4.0, 4.0))
    finish(in_time, 1, Work(4.0, 4.0))
    in_time.ended(0, None, 1.0)
    assert finish(in_time, 2, Work(4.0, 4.0), time_s=1.0) == 8.0
    in_time.ended(1, None, 1.0)
    in_time.ended(2, None, 1.0)
    assert len(in_time) == 0
    assert finish(in_time, 3, Work(4.0, 4.0), time_s=2.0) == 6.0
    with pytest.raises(LookupError, match="query 0 is not inside"):
        in_time.ended(0, None, 3.0)


def test_loads_wait_for_loads_and_copies_for_copies_while_cores_work() -> None:
    in_time = machine(cores=100)
    finish(in_time, 0, Work(0.0, 0.0, load_s=2.0))
    assert finish(in_time, 1, Work(0.0, 0.0, load_s=3.0)) == 5.0
    assert finish(in_time, 2, Work(1.0, 0.0)) == 1.0
    finish(in_time, 3, Work(0.0, 0.0, copy_in_s=2.0))
    assert finish(in_time, 4, Work(0.0, 0.0, copy_in_s=1.0)) == 3.0


def test_who_would_be_late_does_not_come_in_and_nobody_waits_for_it() -> None:
    in_time = machine(buffer_s=0.5)
    assert in_time.offer(0, "a", "net", Work(4.0, 4.0), 4.5, 0.0).in_time
    refused = in_time.offer(1, "a", "net", Work(4.0, 4.0), 8.4, 0.0)
    assert (refused.in_time, refused.finish_s, refused.wait_s) == (False, 8.0, 4.0)
    assert len(in_time) == 1
    assert in_time.offer(2, "a", "net", Work(4.0, 4.0), 8.5, 0.0).in_time


def test_predictions_follow_what_the_last_ones_of_the_model_took() -> None:
    in_time = machine()
    finish(in_time, 0, Work(4.0, 4.0))
    in_time.ended(0, 6.0, 6.0)
    assert in_time.factor("net", 6.0) == 1.5
    assert finish(in_time, 1, Work(4.0, 4.0), time_s=10.0) == 16.0
    assert in_time.factor("other", 6.0) == 1.0


def test_one_query_that_was_held_up_does_not_shut_out_all_others_for_ever() -> None:
    in_time = machine()
    finish(in_time, 0, Work(1.0, 1.0))
    in_time.ended(0, 50.0, 50.0)
    assert not in_time.offer(1, "a", "net", Work(1.0, 1.0), 60.0, 50.0).in_time
    assert in_time.offer(2, "a", "net", Work(1.0, 1.0), 65.0, 55.1).in_time


def test_a_correction_is_a_percentile_of_a_window() -> None:
    correction = Correction(window=4, percentile=0.75)
    assert correction.factor(0.0) == 1.0
    for ratio in (9.0, 1.0, 2.0, 3.0, 4.0):
        correction.add(ratio, 1.0, 0.0)
    assert correction.factor(0.0) == 3.0  # 9 has left the window; the third of four
    correction.add(7.0, 0.0, 0.0)
    assert correction.factor(0.0) == 3.0
    highest = Correction()
    for ratio in range(10):
        highest.add(ratio, 1.0, 0.0)
    assert highest.factor(0.0) == 9.0


def test_beside_a_tenant_with_a_crowd_a_query_waits_for_its_turn_only() -> None:
    backlogs, weights = {"loud": 100.0}, {"loud": 1.0, "quiet": 1.0}
    assert fair_wait_s(backlogs, weights, "quiet", 2) == 0.0
    assert fair_wait_s(backlogs, weights, "loud", 2) == 50.0
    # 4 core-seconds of its own before it, and as many of the other in between; 8 with twice the weight.
    assert fair_wait_s(backlogs | {"quiet": 4.0}, weights, "quiet", 2) == 4.0
    assert fair_wait_s(backlogs | {"quiet": 4.0}, weights | {"loud": 2.0}, "quiet", 2) == 6.0
    assert fair_wait_s({"loud": 3.0, "quiet": 4.0}, weights, "quiet", 2) == 3.5


def test_where_tenants_take_no_turns_all_that_came_before_is_waited_for() -> None:
    in_time = InTime({"loud": 1.0, "quiet": 1.0}, 1, fair=False)
    in_time.offer(0, "loud", "net", Work(4.0, 4.0), NEVER, 0.0)
    assert in_time.predict("quiet", "net", Work(4.0, 4.0), NEVER, 0.0).finish_s == 8.0
    fair = InTime({"loud": 1.0, "quiet": 1.0}, 1)
    fair.offer(0, "loud", "net", Work(4.0, 4.0), NEVER, 0.0)
    assert fair.predict("quiet", "net", Work(4.0, 4.0), NEVER, 0.0).finish_s == 4.0


def test_a_tenant_without_weight_is_named() -> None:
    with pytest.raises(LookupError, match="tenant b has no weight"):
        machine().predict("b", "net", Work(1.0, 1.0), NEVER, 0.0)


def made_of(qos_s: float) -> Context:
    made = context({"net": [[Cost(4.0)]]}, (1,))
    return replace(made, models={"net": replace(made.models["net"], qos_s=qos_s)})


def run(made: Context, queries: list[Query]) -> list[QueryRecord]:
    noise = noise_batches(queries, made, np.random.default_rng(1))
    policy = AdmitInTime(Greedy(made), made)
    return list(serve(Dispatcher(policy, made), Simulator(queries, made, noise, drain_s=1000.0)))


def test_in_the_simulator_nobody_who_came_in_is_late_and_nobody_is_turned_away_for_nothing() -> None:
    queries = [Query(number, "net", 1.0 * number, 10.0) for number in range(40)]
    records = run(made_of(10.0), queries)
    served = [record for record in records if record.ending is Ending.SERVED]
    assert all(record.on_time for record in served)
    # The core works without a pause from the first to the last that could still be in time.
    assert sum(record.core_s for record in served) == pytest.approx(max(one.end_s for one in served))
    assert len(served) >= (39 + 10) / 4 - 2
    rejected = [record for record in records if record.ending is Ending.REJECTED]
    assert len(served) + len(rejected) == 40
    assert "after its deadline" in rejected[0].reason
