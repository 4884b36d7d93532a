from collections.abc import Callable

import pytest

from tests.support.table_builders import make_config
from veltair.config import Config
from veltair.config.part import Key
from veltair.evaluation.experiment import reads

CONFIG = make_config(
    workloads={"mix": {"small": 1, "large": 1}, "light": {"small": 1}},
    policies={
        "FcfsMin": {"path": "baselines.fcfs_min:FcfsMin"},
        "Planaria": {"path": "baselines.planaria:Planaria", "preset": "tuned"},
    },
)


def test_a_scenario_is_its_workload_and_the_targets_of_the_models_in_it() -> None:
    assert reads.scenario_keys(CONFIG, ["light"]) == [
        ("qos",),
        ("workloads", "light"),
        ("models", "small", "qos_ms"),
    ]


def test_the_preset_of_the_run_counts_for_policies_without_one_of_their_own() -> None:
    assert reads.policy_keys(CONFIG, ["Planaria"]) == [("policies", "Planaria")]
    assert reads.policy_keys(CONFIG, ["FcfsMin"]) == [("policies", "FcfsMin"), ("preset",)]


def test_what_a_described_machine_is_assumed_to_be_does_not_matter_to_this_one() -> None:
    here, there = (
        set(reads.simulation_keys(CONFIG, machine, ["mix"], ["FcfsMin"])) for machine in ("host", "other")
    )
    assumed = ("core_unit", "steepness", "clock", "links", "link_bandwidth", "noise")
    found_and_left = ("residency", "warm_weights")
    assert there - here == {*(("simulated", name) for name in (*assumed, *found_and_left)), ("select",)}
    assert here < there


@pytest.mark.parametrize(
    "keys",
    [
        lambda config: reads.simulation_keys(config, "host", ["mix"], ["FcfsMin"]),
        lambda config: reads.measurement_keys(config, "mix", ["FcfsMin"]),
        lambda config: reads.study_keys(config, ["FcfsMin"]),
    ],
)
def test_which_other_runs_there_are_matters_to_no_run(keys: Callable[[Config], list[Key]]) -> None:
    others = {("figures",), ("sensitivity",), ("compared",), ("policies",), ("policies", "Planaria")}
    for section in ("simulated", "measured"):
        others |= {(section,), *((section, name) for name in ("enabled", "machines", "workloads"))}
    assert not others & set(keys(CONFIG))
