import pytest

from baselines.dream import Dream
from tests.support.builders import pending, running, served, snapshot
from tests.support.schedulers import made, serving, started, started_blocks
from veltair.serving.loop.policy import Rejection
from veltair.serving.policies.presets import preset_options

# Alone on all 8 cores a layer takes 1 ms: SHORT 2 ms of 10, LONG 4 ms of 40. A layer's budget is 5 or 10 ms,
# so its 8 core-ms need 2 cores or 1.
CONTEXT = serving({"short": ([0.008] * 2, 0.010), "long": ([0.008] * 4, 0.040)})
SHORT, LONG = CONTEXT.models.values()


def dream(**options) -> Dream:
    return made(Dream, CONTEXT, **options)


def test_each_layer_is_a_unit_on_the_fewest_cores_within_its_budget():
    starts = dream().allocate(snapshot(8, [pending(1, LONG), pending(2, SHORT, next_layer=1)]))
    assert started_blocks(starts) == [(1, 0, 1, 1), (2, 1, 2, 2)]


def test_who_has_least_slack_for_the_work_that_is_left_is_most_urgent():
    # 2 / 10 against 4 / 40.
    assert started(dream(fairness=0.0).allocate(snapshot(2, [pending(1, LONG), pending(2, SHORT)]))) == [
        (2, 2)
    ]
    # After 30 ms LONG has 10 left: 4 / 10 against 2 / 10.
    waiting = [pending(1, LONG), pending(2, SHORT, 0.030)]
    assert started(dream(fairness=0.0).allocate(snapshot(1, waiting, time_s=0.030))) == [(1, 1)]


@pytest.mark.parametrize(("fairness", "first"), [(0.0, 2), (0.04, 2), (0.05, 1)])
def test_who_has_not_run_for_long_for_its_length_goes_before_who_is_more_urgent(fairness, first):
    # LONG has waited 10 ms: 4 / 30 + fairness x 10 / 4. SHORT has waited 1 ms: 2 / 9 + fairness x 1 / 2. They
    # are equal at a fairness of 0.0889 / 2 = 0.044.
    waiting = [pending(1, LONG), pending(2, SHORT, 0.009)]
    policy = dream(fairness=fairness, conflict="shrink")
    ((query_id, _), *_) = started(policy.allocate(snapshot(1, waiting, time_s=0.010)))
    assert query_id == first


def test_starvation_begins_anew_when_a_layer_has_ended():
    # LONG has waited 10 ms, then runs a layer until 20 ms. SHORT came at 19 ms: 1 ms / 2, LONG has waited 0.
    policy = dream(fairness=10.0, conflict="shrink", drop_late="never")
    policy.allocate(snapshot(1, [pending(1, LONG)], time_s=0.010))
    policy.allocate(snapshot(0, [pending(2, SHORT, 0.019)], [running(1, LONG, 1)], time_s=0.019))
    waiting = [pending(1, LONG, next_layer=1), pending(2, SHORT, 0.019)]
    assert started(policy.allocate(snapshot(1, waiting, time_s=0.020))) == [(2, 1)]


def test_who_will_miss_its_target_is_dropped_whatever_the_preset():
    for preset in ("paper", "tuned"):
        assert preset_options("baselines.dream:Dream", preset)["drop_late"] == "when_doomed"
    (answer,) = dream().allocate(snapshot(8, [pending(1, SHORT)], time_s=0.0081))
    assert isinstance(answer, Rejection)


def test_who_is_late_but_not_dropped_is_of_endless_urgency():
    waiting = [pending(1, LONG, 0.010), pending(2, SHORT)]
    answers = dream(drop_late="never", fairness=0.0).allocate(snapshot(1, waiting, time_s=0.010))
    assert started(answers) == [(2, 1)]


@pytest.mark.parametrize(
    ("conflict", "expected"), [("wait", []), ("backfill", [(1, 1)]), ("shrink", [(2, 1)])]
)
def test_conflicts_are_those_of_the_options(conflict, expected):
    waiting = [pending(1, LONG), pending(2, SHORT)]
    assert started(dream(conflict=conflict, fairness=0.0).allocate(snapshot(1, waiting))) == expected


def test_what_is_known_of_a_query_is_forgotten_when_it_ends():
    policy = dream()
    policy.allocate(snapshot(8, [pending(1, LONG)]))
    policy.allocate(snapshot(8, time_s=0.01, gone=[served(1, LONG, 0.01)]))
    assert policy._waits == {}
