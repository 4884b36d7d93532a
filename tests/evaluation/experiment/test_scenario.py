import pytest

from tests.support.table_builders import make_config, make_tables
from veltair.evaluation.experiment.scenario import policy_maker, scenario_of


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
