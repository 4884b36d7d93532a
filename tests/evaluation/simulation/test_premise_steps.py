"""The step that asks what choosing versions gains, on a made-up host and a described machine."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.table_builders import make_config, write_made_up_tables
from veltair.config import Config
from veltair.config.part import parse_part, part_of
from veltair.evaluation.experiment import layout as layout_module
from veltair.evaluation.experiment.reads import choice_keys
from veltair.evaluation.experiment.tables_io import read_csv
from veltair.evaluation.simulation.premise_steps import (
    AS_DESCRIBED,
    SUPPOSED_MACHINES,
    Supposed,
    supposed_machines,
    write_version_choice,
)

STUDY = {"enabled": True, "machine": "threadripper-3990x-16", "policies": ["FcfsMin"]}
STEEPNESS = {"title": "steepness of the traffic curve", "key": "simulated.steepness"}
SENSITIVITY = {
    "steepness": {**STEEPNESS, "values": [0.35, 1.0, 4.0], "plausible": [0.35, 1.0]},
    "start": {"title": "cost of a start", "key": "simulated.start_cost_us", "values": [0, 55]},
}


def config_of(**changes: Any) -> Config:
    return make_config(study=STUDY, sensitivity=SENSITIVITY, **changes)


@pytest.fixture(scope="module", autouse=True)
def tables(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = write_made_up_tables(tmp_path_factory.mktemp("tables"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout_module, "SHIPPED_COSTS", folder)
        yield folder


def test_assumptions_about_times_are_supposed_and_no_others() -> None:
    found = [(one.columns["label"], one.simulated) for one in supposed_machines(config_of())]
    assert found[0] == ("", {})
    assert ("0.35", {"steepness": 0.35}) in found
    assert not any("start_cost_us" in changed for _, changed in found)


def test_the_value_of_the_run_itself_is_supposed_once() -> None:
    usual = [one for one in supposed_machines(config_of()) if one.columns["is_default"]]
    assert [one.columns["assumption"] for one in usual] == [AS_DESCRIBED]


def test_what_is_plausible_is_what_the_sensitivity_says_and_nothing_far_off() -> None:
    plausible = [one.columns["label"] for one in supposed_machines(config_of()) if one.columns["plausible"]]
    assert plausible == ["", "0.35"]


def test_every_supposed_machine_has_rows_and_the_described_one_has_layers(tmp_path: Path) -> None:
    config = config_of(workloads={"mix": {"small": 1, "large": 1}, "light": {"small": 1}})
    config = config.model_copy(
        update={"simulated": config.simulated.model_copy(update={"workloads": ("mix", "light")})}
    )
    supposed = supposed_machines(config)
    write_version_choice(config, supposed, tmp_path)
    choice, layers = (read_csv(tmp_path / f"version_{name}.csv") for name in ("choice", "layers"))
    told = choice[["assumption", "label"]].drop_duplicates()
    assert len(told) == len(supposed)
    assert set(choice["machine"]) == set(layers["machine"]) == {"threadripper-3990x-16"}
    assert not choice["validated"].any()
    assert set(layers["workload"]) == {"light"}
    assert len(layers) > 0


def test_less_bandwidth_slows_layers_down_more(tmp_path: Path) -> None:
    title, (field, factors) = next(iter(SUPPOSED_MACHINES.items()))
    columns = {"assumption": title, "is_default": True, "plausible": False}
    supposed = [Supposed({**columns, "label": "1"}, {}, {})]
    supposed += [Supposed({**columns, "label": str(factor)}, {}, {field: factor / 50}) for factor in factors]
    write_version_choice(config_of(), supposed, tmp_path)
    choice = read_csv(tmp_path / "version_choice.csv")
    slowdowns = choice[choice["level"] == 1.0].groupby("label", sort=False)["slowdown"].max().tolist()
    assert slowdowns == sorted(slowdowns)
    assert slowdowns[-1] > slowdowns[0]


def test_the_step_reads_no_more_of_the_configuration_than_the_rule_declares(tmp_path: Path) -> None:
    config = config_of()
    part = parse_part(part_of(config.model_dump(mode="json"), choice_keys(config)), "rule version_choice")
    write_version_choice(part, supposed_machines(config), tmp_path)
    assert (tmp_path / "version_choice.csv").exists()
