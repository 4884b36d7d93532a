from baselines.edf_min import EdfMin
from tests.support.builders import pending, snapshot
from tests.support.schedulers import made, serving, started_blocks
from veltair.serving.loop.policy import Allocation, Rejection

# 20 core-ms each: the slow model needs 1 core in 100 ms, the fast one 2 in 10 ms.
CONTEXT = serving({"slow": ([0.010, 0.010], 0.100), "fast": ([0.010, 0.010], 0.010)})
SLOW, FAST = CONTEXT.models.values()


def edf_min() -> EdfMin:
    return made(EdfMin, CONTEXT)


def test_the_earliest_deadline_starts_first_as_a_whole_model_on_its_fewest_cores():
    starts = edf_min().allocate(snapshot(8, [pending(1, SLOW), pending(2, FAST, 0.001)], time_s=0.001))
    assert started_blocks(starts) == [(2, 0, 2, 2), (1, 0, 2, 1)]


def test_a_query_that_no_count_can_save_is_given_up():
    # 20 core-ms take 2.5 ms on 8 cores: with 2.4 ms left query 1 is lost, query 2 is not.
    waiting = [pending(1, FAST), pending(2, FAST, 0.001)]
    rejection, start = edf_min().allocate(snapshot(8, waiting, time_s=0.0076))
    assert isinstance(rejection, Rejection) and rejection.query_id == 1
    assert isinstance(start, Allocation) and start.query_id == 2


def test_the_head_waits_for_its_cores_and_those_behind_it_too():
    waiting = [pending(1, FAST), pending(2, SLOW)]
    assert edf_min().allocate(snapshot(1, waiting)) == []
