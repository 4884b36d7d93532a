from dataclasses import replace

import pytest

from tests.support.table_builders import make_config, make_tables
from veltair.evaluation.experiment.scenario import Scenario, policy_maker, scenario_of
from veltair.machine.costs.derivation import derive


def test_a_scenario_has_the_targets_of_the_configuration_in_seconds() -> None:
    assert scenario_of(make_config(), make_tables(), "mix").qos_s == {"small": 0.020, "large": 0.040}


def test_a_policy_gets_the_options_of_the_configuration() -> None:
    layers = {"Blocks": {"path": "baselines.fixed_blocks:FixedBlocks", "options": {"layers": 1}}}
    changed = make_config(policies=layers)
    context = scenario_of(make_config(), make_tables(), "mix").context
    first, second = (policy_maker(changed, "Blocks")(context) for _ in range(2))
    assert first is not second
    assert type(first).__name__ == "FixedBlocks"


def test_the_sequential_rate_fills_the_machine_one_query_at_a_time() -> None:
    # On 4 cores a small query takes 0.75 ms alone and a large one 3 ms.
    scenario = scenario_of(make_config(), make_tables(), "mix")
    assert scenario.sequential_qps == pytest.approx(2 / (0.00075 + 0.003))
    weighted = make_config(workloads={"mix": {"small": 3, "large": 1}})
    assert scenario_of(weighted, make_tables(), "mix").sequential_qps == pytest.approx(4 / 0.00525)


def boosted_scenario() -> Scenario:
    """Return a described machine of 4 cores, one of which alone has twice the clock of all."""
    host = make_tables()
    machine = replace(host.machine, name="boosted", clock_factors=((1, 2.0), (4, 1.0)))
    return scenario_of(make_config(), derive(host, machine), "mix")


def test_policies_of_a_described_machine_read_the_times_of_the_clock_that_is_asked_for() -> None:
    scenario = boosted_scenario()
    assert scenario.policy_context is scenario.context
    busy = replace(scenario, policies_read="busy").policy_context
    alone_s, busy_s = (one.costs.model("small").seconds for one in (scenario.context, busy))
    # Layers compute only: on one core they take twice as long at the clock of all.
    assert busy_s[:, :, 0, 0] == pytest.approx(2 * alone_s[:, :, 0, 0])
    assert busy_s[:, :, -1, 0] == pytest.approx(alone_s[:, :, -1, 0])


def test_policies_of_a_measured_machine_read_what_was_measured() -> None:
    scenario = replace(scenario_of(make_config(), make_tables(), "mix"), policies_read="busy")
    assert scenario.policy_context is scenario.context


def test_tables_that_an_earlier_program_derived_name_the_rule_that_makes_them_anew() -> None:
    old = replace(boosted_scenario(), busy_costs=None, policies_read="busy")
    with pytest.raises(LookupError, match=r"no times at the clock of all cores, .* rerun rule `derive`"):
        _ = old.policy_context


def test_the_fluid_bound_counts_work_at_the_clock_of_all_cores() -> None:
    # 3 and 12 ms of one core at the clock of all; one core alone would take half of that, but all 4 do not.
    scenario = boosted_scenario()
    assert scenario.fluid_qps == pytest.approx(4 / (0.5 * 0.003 + 0.45 * 0.012))
    looser = replace(scenario, busy_costs=None)
    assert looser.fluid_qps == pytest.approx(2 * scenario.fluid_qps)
