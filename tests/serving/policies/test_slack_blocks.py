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
from veltair.serving.loop.policy import Allocation, Context, Resize
from veltair.serving.policies.presets import make_policy

# Ten layers of 4 core-ms on 8 cores, due in 20 ms.
CONTEXT = linear_context((0.004,) * 10, qos_s=0.020)
NET = CONTEXT.models["net"]


def starts(context: Context = CONTEXT, *, next_layer: int = 0, time_s: float = 0.0, **options: object):
    """Return what one waiting query starts as (first layer, end, cores)."""
    policy = make_policy("veltair.serving.policies.slack_blocks:VeltairElastic", context, "paper", options)
    waiting = [pending(1, context.models["net"], next_layer=next_layer)]
    answers = policy.allocate(snapshot(context.machine.cores, waiting, time_s=time_s))
    return [(a.block.start, a.block.stop, a.cores) for a in answers if isinstance(a, Allocation)]


@pytest.mark.parametrize(
    ("next_layer", "time_s", "block"),
    [
        (0, 0.0, (0, 8, 2)),  # 40 core-ms in 20 ms
        (0, 0.010, (0, 8, 4)),  # in 10 ms
        (8, 0.010, (8, 10, 1)),  # 8 core-ms in 10 ms
        (8, 0.018, (8, 10, 4)),  # in 2 ms
        (5, 0.019, (5, 10, 8)),  # 20 core-ms in 1 ms: doomed, so as fast as can be
    ],
)
def test_eight_layers_run_on_the_fewest_cores_that_bring_the_query_home(next_layer, time_s, block):
    assert starts(next_layer=next_layer, time_s=time_s) == [block]


def test_a_share_of_the_time_left_may_be_used():
    # 40 core-ms in half of 20 ms.
    assert starts(alpha=0.5) == [(0, 8, 4)]


def test_blocks_have_as_many_layers_as_the_option_says():
    assert starts(layers=3) == [(0, 3, 2)]


def test_a_doomed_query_asks_for_the_count_on_which_its_rest_is_fastest():
    # Layer 1 alone is fastest on 2 cores, both together on 4.
    seconds = np.array([[0.016, 0.008, 0.001], [0.004, 0.002, 0.003]])[:, None, :, None]
    net = make_model(macs=(1, 1), qos_s=0.010)
    context = make_context({"net": seconds}, [net], cores=(1, 2, 4), machine=make_machine(4))
    assert starts(context, time_s=0.009) == [(0, 2, 4)]
    assert starts(context, time_s=0.009, next_layer=1) == [(1, 2, 2)]


@pytest.mark.parametrize(("growth", "answers"), [(False, []), (True, [Resize(1, 8)])])
def test_it_grows_into_spare_cores_if_the_option_says_so(growth, answers):
    policy = make_policy(
        "veltair.serving.policies.slack_blocks:VeltairElastic", CONTEXT, "paper", {"growth": growth}
    )
    assert list(policy.allocate(snapshot(6, [], [running(1, NET, 2)]))) == answers
