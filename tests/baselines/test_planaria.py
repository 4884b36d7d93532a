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
    snapshot,
)
from veltair.serving.loop.policy import Allocation
from veltair.serving.loop.query import Ending
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions

COUNTS = tuple(range(1, 17))
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
