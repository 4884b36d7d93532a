import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.ai_mt import AiMt, balance, demand
from tests.support.builders import pending, random_queries, running, snapshot
from tests.support.policy_cases import Auditor, traffic_context
from tests.support.schedulers import made, serving, started_blocks, timed
from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import Allocation, Answer, Context, Rejection, Snapshot

COUNTS = (1, 2, 4, 8)
MOVED_BYTES = {"calc": [1e6, 1e6], "move": [2e8], "both": [1e6, 1e6, 3e8, 1e6]}
# Layers of 4 ms on a lane of 4 cores. Of 100 GB/s they may draw 0.4 GB then; half of that is a lane's part.
SECONDS = {name: np.full((len(moved), 1, 4, 1), 0.004) for name, moved in MOVED_BYTES.items()}
CONTEXT = timed(SECONDS, dict.fromkeys(SECONDS, 0.1), COUNTS, moved_bytes=MOVED_BYTES)
CALC, MOVE, BOTH = CONTEXT.models.values()


def ai_mt(**options) -> AiMt:
    return made(AiMt, CONTEXT, **{"memory_share": 0.5, **options})


def test_a_layer_is_memory_bound_if_it_draws_its_share_of_the_bandwidth_on_a_lane():
    # 2e8 bytes in 4 ms are half of the bandwidth, 3e8 are three quarters.
    assert ai_mt(memory_share=0.5).memory_bound["both"] == (False, False, True, False)
    assert ai_mt(memory_share=0.5).memory_bound["move"] == (True,)
    assert ai_mt(memory_share=0.6).memory_bound["move"] == (False,)


def test_a_layer_draws_its_bytes_over_its_seconds_on_a_lane():
    assert demand(CONTEXT, "move", 4) == [(pytest.approx(0.5), 0.004)]


@pytest.mark.parametrize(
    ("layers", "bound"),
    [
        ([(0.1, 1.0), (0.9, 1.0)], 0.9),
        ([(0.1, 1.0), (0.9, 0.5), (0.5, 0.5)], 0.5),  # 0.9 and 0.5 take half of the time
        ([(0.1, 3.0), (0.9, 0.5), (0.5, 0.5)], 0.1),  # half of the time is within the first
    ],
)
def test_by_default_memory_bound_layers_take_half_of_the_time(layers, bound):
    assert balance([layers[:1], layers[1:]]) == bound


def test_a_unit_is_the_layers_that_follow_and_are_bound_by_the_same_on_half_of_the_cores():
    # All counts take the same time: of equals the fewest cores.
    for first, stop in ((0, 2), (1, 2), (2, 3), (3, 4)):
        (start,) = started_blocks(ai_mt().allocate(snapshot(8, [pending(1, BOTH, next_layer=first)])))
        assert start == (1, first, stop, 1)


def test_a_memory_bound_unit_runs_beside_a_compute_bound_one_first_come_first_served():
    waiting = [pending(1, CALC), pending(2, CALC), pending(3, MOVE), pending(4, MOVE)]
    assert [start[0] for start in started_blocks(ai_mt().allocate(snapshot(8, waiting)))] == [1, 3]


@pytest.mark.parametrize(("pairing", "expected"), [("always", []), ("preferred", [2])])
def test_a_lane_without_another_class_to_run_stays_idle_or_takes_the_first(pairing, expected):
    waiting, runs = [pending(2, CALC), pending(3, CALC)], [running(1, CALC, 4)]
    answers = ai_mt(pairing=pairing).allocate(snapshot(4, waiting, runs))
    assert [start[0] for start in started_blocks(answers)] == expected


def test_a_running_unit_is_bound_by_what_its_layers_are():
    # Query 1 has come to its memory-bound layer.
    run = running(1, BOTH, 4, start=2)._replace(block=LayerBlock("both", 2, 3))
    waiting = [pending(2, MOVE), pending(3, CALC)]
    assert [start[0] for start in started_blocks(ai_mt().allocate(snapshot(4, waiting, [run])))] == [3]


def test_no_more_than_two_run():
    runs = [running(1, CALC, 2), running(2, MOVE, 2)]
    assert ai_mt(pairing="preferred").allocate(snapshot(4, [pending(3, CALC)], runs)) == []


def test_who_is_late_on_a_lane_is_given_up():
    # Four layers of 4 ms.
    (answer,) = ai_mt(drop_late="when_doomed").allocate(snapshot(8, [pending(1, BOTH)], time_s=0.085))
    assert isinstance(answer, Rejection)
    (answer,) = ai_mt(drop_late="when_doomed").allocate(snapshot(8, [pending(1, BOTH)], time_s=0.083))
    assert isinstance(answer, Allocation)


class Paired:
    """AI-MT whose running units are looked at: no two of one class."""

    def __init__(self, context: Context) -> None:
        self._policy = made(AiMt, context)

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        answers = list(self._policy.allocate(snapshot))
        blocks = [run.block for run in snapshot.running]
        blocks += [answer.block for answer in answers if isinstance(answer, Allocation)]
        classes = [self._policy.memory_bound[block.model][block.start] for block in blocks]
        assert len(set(classes)) == len(classes)
        return answers


@given(st.integers(0, 20), st.sampled_from((0.0005, 0.004)))
def test_units_of_one_class_never_run_beside_each_other(seed, gap_s):
    context = traffic_context(seed)
    auditor = Auditor(context, random_queries(context, 30, seed, gap_s))
    assert len(list(serve(Dispatcher(Paired(context), context), auditor))) == 30


def test_a_machine_too_small_for_two_lanes_is_refused():
    with pytest.raises(ValueError, match="two lanes on 1 cores of which at least 1"):
        made(AiMt, serving({"calc": ([0.004] * 2, 0.1)}, (1,)))
