from dataclasses import replace

import numpy as np
import pytest

from baselines.planaria import Planaria, PlanariaAware
from tests.support.builders import (
    linear_seconds,
    make_context,
    make_machine,
    make_model,
    pending,
    random_context,
    random_queries,
    run_to_end,
    running,
    snapshot,
)
from veltair.serving.loop.policy import Allocation, Resize, Wake
from veltair.serving.loop.query import Ending
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions
from veltair.serving.policies.native_spec import spec_of
from veltair.serving.policies.presets import make_policy

COUNTS = tuple(range(1, 17))
NET = make_model("net0", (1, 1, 1), qos_s=0.1)
OPTIONS = QueueOptions(Order.FCFS, Conflict.SHRINK, DropLate.NEVER)


@pytest.mark.parametrize(
    ("tasks", "cores"),
    [
        ([(40, 10), (60, 10)], [7, 9]),  # needs 4 and 6 fit; equal time left: the spare 6 goes 3 and 3
        ([(100, 10), (40, 5), (30, 1)], [8, 8]),  # needs 10 and 8 do not fit, the third is doomed and waits
        ([(320, 10), (160, 5)], [5, 11]),  # both doomed: by 1/20 and 1/10
    ],
)
def test_waiting_queries_start_on_their_shares(tasks, cores):
    models = [make_model(f"net{number}", (1,), qos_s=slack * 1e-3) for number, (_, slack) in enumerate(tasks)]
    seconds = {
        f"net{number}": linear_seconds([work * 1e-3], COUNTS) for number, (work, _) in enumerate(tasks)
    }
    context = make_context(seconds, models, cores=COUNTS)
    waiting = [pending(number, model) for number, model in enumerate(models)]
    answers = Planaria(context, OPTIONS).allocate(snapshot(16, waiting))
    assert [answer.cores for answer in answers if isinstance(answer, Allocation)] == cores


def test_shares_that_are_made_anew_follow_the_slack_while_queries_run():
    # 40 and 160 core-ms in 20 ms need 2 and 8 of 16 cores; both have 20 ms left, so the spare 6 go 3 and 3.
    steady, late = (make_model(name, (1,) * 4, qos_s=0.020) for name in ("steady", "late"))
    context = make_context(
        {"steady": linear_seconds([0.010] * 4, COUNTS), "late": linear_seconds([0.040] * 4, COUNTS)},
        [steady, late],
        cores=COUNTS,
    )
    runs = [running(1, steady, 5), running(2, late, 11)]
    first, later = snapshot(0, [], runs), snapshot(0, [], runs, time_s=0.010, progress={1: 2, 2: 0})
    plain = make_policy("baselines.planaria:Planaria", context, "paper", {})
    assert [list(plain.allocate(seen)) for seen in (first, later)] == [[], []]
    # After 10 ms 20 and 160 core-ms need 2 and 16: not both, and 1 / (10 x 2) comes before 1 / (10 x 16). So
    # the shares are 2 and 14; the second grows when the first has given its cores up.
    aurora = make_policy("baselines.planaria:Planaria", context, "paper", {"reshare_s": 0.010})
    assert list(aurora.allocate(first)) == [Wake(0.010)]
    assert list(aurora.allocate(later)) == [Resize(1, 2), Wake(0.020)]


def test_shares_are_made_anew_once_a_period_and_only_while_somebody_runs():
    context = make_context({"net0": linear_seconds([0.01] * 3, COUNTS)}, [NET], cores=COUNTS)
    policy = make_policy("baselines.planaria:Planaria", context, "paper", {"reshare_s": 0.001})
    assert list(policy.allocate(snapshot(16))) == []
    runs = [running(1, NET, 16)]
    assert list(policy.allocate(snapshot(0, [], runs, time_s=0.001))) == [Wake(0.002)]
    assert list(policy.allocate(snapshot(0, [], runs, time_s=0.0015))) == []
    assert list(policy.allocate(snapshot(0, [], runs, time_s=0.002))) == [Wake(0.003)]


def test_who_shares_anew_is_not_decided_for_in_c_and_who_does_not_is():
    context = random_context(1)
    assert spec_of(make_policy("baselines.planaria:Planaria", context, "paper", {})) is not None
    assert spec_of(make_policy("baselines.planaria:Planaria", context, "paper", {"reshare_s": 1.0})) is None


def starts_at(policy_class, pressure):
    """Return the starts of two queries of one layer: 4 core-ms alone in version 0, due in 2 ms."""
    alone, pressed = linear_seconds([0.004], (1, 2, 4, 8)), linear_seconds([0.008], (1, 2, 4, 8))
    tolerant = linear_seconds([0.005], (1, 2, 4, 8))
    versions = [np.concatenate([alone, pressed], axis=3), np.concatenate([tolerant, tolerant], axis=3)]
    net = make_model(macs=(1,), qos_s=0.002)
    context = make_context(
        {"net": np.concatenate(versions, axis=1)},
        [net],
        cores=(1, 2, 4, 8),
        levels=(0.0, 1.0),
        machine=make_machine(8),
    )
    answers = policy_class(context, OPTIONS).allocate(snapshot(8, [pending(1, net)], pressure=pressure))
    return [(answer.wanted_cores, answer.versions) for answer in answers if isinstance(answer, Allocation)]


def test_planaria_is_blind_to_pressure():
    assert starts_at(Planaria, 0.0) == starts_at(Planaria, 1.0) == [(2, (0,))]


def test_aware_planaria_needs_more_under_pressure_but_keeps_the_solo_version():
    assert starts_at(PlanariaAware, 1.0) == [(4, (0,))]


@pytest.mark.parametrize("policy_class", [Planaria, PlanariaAware])
@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize(("cores", "core_unit"), [(2, 1), (64, 8)])
def test_planaria_serves_all_queries_in_every_order(policy_class, order, cores, core_unit):
    context = random_context(9, cores=cores, core_unit=core_unit)
    policy = policy_class(context, replace(OPTIONS, order=order))
    records = run_to_end(policy, context, random_queries(context, 200, seed=9))
    assert sorted(record.query.id for record in records) == list(range(200))
    assert {record.ending for record in records} == {Ending.SERVED}
