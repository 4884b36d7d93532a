from dataclasses import replace

import numpy as np
import pytest

from tests.support.table_builders import make_tables
from veltair.evaluation.experiment.scenario import Scenario, make_scenario
from veltair.evaluation.metrics.capacity import CapacitySearch
from veltair.evaluation.metrics.targets import fluid_capacity
from veltair.evaluation.simulation.clairvoyant import (
    clairvoyant_capacity,
    clairvoyant_share,
    full_clock_work,
)
from veltair.evaluation.simulation.run import (
    SimulationSettings,
    count_from_s,
    find_pooled_capacity,
    simulate,
)
from veltair.machine.topology.described import described
from veltair.serving.policies.presets import make_policy

SETTINGS = SimulationSettings(queries=150, drain_qos=10.0)
SEARCH = CapacitySearch(0.1, checks=())
LOOKAHEAD = "veltair.serving.policies.lookahead:Lookahead"
PATHS = ("baselines.fcfs_all:FcfsAll", "baselines.preemptive_edf:PreemptiveEdf", LOOKAHEAD)


def scenario_of(tables=None) -> Scenario:
    qos_s, weights = {"small": 0.020, "large": 0.040}, {"small": 1, "large": 1}
    return make_scenario(tables or make_tables(), qos_s, 1.0, "mix", weights)


def test_busy_cores_of_the_3990x_never_do_more_than_all_at_the_base_clock() -> None:
    assert fluid_capacity(described("threadripper-3990x")) == pytest.approx(64.0)


def test_a_clock_that_falls_faster_than_busy_cores_grow_sets_a_higher_capacity() -> None:
    machine = replace(described("threadripper-3990x"), clock_factors=((16, 8.0), (64, 1.0)))
    # 40 cores run at 8 - 7 x 24 / 48 = 4.5.
    assert fluid_capacity(machine) >= 40 * 4.5


def test_measured_times_are_work_as_they_stand() -> None:
    scenario = scenario_of()
    costs = scenario.context.costs
    work = full_clock_work(scenario, "small")
    assert np.array_equal(work, costs.model("small").seconds[..., 0] * np.asarray(costs.cores))


def test_work_is_counted_by_the_times_at_the_full_machines_clock_where_there_are_such() -> None:
    scenario = scenario_of()
    costs = scenario.context.costs
    busy = costs.stretched([1.25] * len(costs.cores))
    work = full_clock_work(replace(scenario, busy_costs=busy), "small")
    assert np.allclose(work, 1.25 * costs.model("small").seconds[..., 0] * np.asarray(costs.cores))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("load", [0.3, 0.9])
def test_no_policy_has_more_queries_on_time_than_who_knows_all_beforehand(path: str, load: float) -> None:
    scenario = scenario_of(make_tables(noise=(0.8, 1.0, 1.6)))
    qps = load * scenario.fluid_qps
    arrivals, records, _ = simulate(
        scenario, lambda context: make_policy(path, context, "paper", {}), SETTINGS, qps, 1
    )
    from_s = count_from_s(arrivals, scenario.qos_s)
    on_time = sum(record.on_time for record in records if record.query.arrival_s >= from_s)
    counted = sum(query.arrival_s >= from_s for query in arrivals)
    bound = clairvoyant_share(scenario, SETTINGS, arrivals, 1)
    assert on_time / counted <= bound + 1e-6
    assert 0.0 < bound <= 1.0


def test_the_clairvoyant_rate_is_above_that_of_a_policy() -> None:
    scenario = scenario_of()
    policy = find_pooled_capacity(
        scenario, lambda context: make_policy(LOOKAHEAD, context, "paper", {}), SETTINGS, SEARCH, 1
    )
    bound = clairvoyant_capacity(scenario, SETTINGS, SEARCH, 1)
    assert policy.qps <= bound.high_qps


def test_a_start_costs_the_clairvoyant_too() -> None:
    scenario = scenario_of()
    free = clairvoyant_capacity(scenario, SETTINGS, SEARCH, 1)
    costly = replace(SETTINGS, costs=replace(SETTINGS.costs, start_s=0.01))
    assert clairvoyant_capacity(scenario, costly, SEARCH, 1).qps < free.qps
