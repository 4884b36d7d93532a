"""A configuration with one key changed."""

import pytest

from tests.support.table_builders import make_config
from veltair.config import Config, ConfigError
from veltair.config.vary import assume, check_variations, is_baseline, vary


def with_assumption(**changes: object) -> Config:
    variation = {"title": "cost of a start", "key": "simulated.start_cost_us", "values": [20, 55]} | changes
    return make_config(sensitivity={"start": variation})


def test_one_key_changes_and_nothing_else() -> None:
    config = make_config()
    varied = vary(config, "simulated.start_cost_us", 7)
    assert varied.simulated.start_cost_us == 7
    assert vary(varied, "simulated.start_cost_us", config.simulated.start_cost_us) == config


def test_a_star_stands_for_each_of_the_policies_compared_and_for_no_other() -> None:
    varied = vary(make_config(), "policies.*.options.alpha", 0.5, ["FcfsMin"])
    options = {name: dict(policy.options) for name, policy in varied.policies.items()}
    assert options.pop("FcfsMin") == {"alpha": 0.5}
    assert not any(options.values())


@pytest.mark.parametrize(
    "path", ["simulatd.start_cost_us", "simulated.seeds.first", "policies.Nobody.options.alpha"]
)
def test_a_path_that_leads_nowhere_is_an_error_that_names_it(path: str) -> None:
    with pytest.raises(ConfigError, match=f"{path}: there is no group of keys at"):
        vary(make_config(), path, 1)


def test_a_key_that_does_not_exist_is_refused_like_in_a_file() -> None:
    with pytest.raises(ConfigError, match=r"simulated\.start_cost: unknown key"):
        vary(make_config(), "simulated.start_cost", 1)


def test_a_value_that_the_key_does_not_take_is_refused_like_in_a_file() -> None:
    with pytest.raises(ConfigError, match=r"simulated\.placement"):
        vary(make_config(), "simulated.placement", "heap")


def test_the_value_that_the_run_has_anyway_is_the_usual_one() -> None:
    config = with_assumption()
    assert config.simulated.start_cost_us == 55
    assert [is_baseline(config, "start", index) for index in (0, 1)] == [False, True]


def test_a_preset_s_value_is_the_usual_one_if_the_assumption_says_so() -> None:
    config = with_assumption(key="policies.*.options.alpha", values=[0.8, 1.0], default=1.0)
    assert [is_baseline(config, "start", index) for index in (0, 1)] == [False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["only one"]}, "1 labels for 2 values"),
        ({"plausible": [30]}, r"plausible \[30\] are not among the values"),
    ],
)
def test_an_assumption_that_contradicts_itself_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_assumption(**changes)


def test_an_assumption_changes_the_policies_that_it_names_and_no_other() -> None:
    config = with_assumption(key="policies.*.options.alpha", values=[0.8, 1.0], changed=["FcfsMin"])
    options = {name: dict(policy.options) for name, policy in assume(config, "start", 0).policies.items()}
    assert options == {"FcfsMin": {"alpha": 0.8}, "Planaria": {}}


def test_an_assumption_that_no_run_can_have_is_refused_before_any_run() -> None:
    check_variations(with_assumption())
    with pytest.raises(ConfigError, match=r"simulated\.start_cost: unknown key"):
        check_variations(with_assumption(key="simulated.start_cost"))
    with pytest.raises(ConfigError, match=r"simulated\.start_cost_us"):
        check_variations(with_assumption(values=[1, -1]))
