from pathlib import Path

import pytest

from tests.support.table_builders import make_config
from veltair.config import Config, ConfigError
from veltair.evaluation.simulation.sensitivity_cells import at_workload, cell_columns, sensitivity_cells
from veltair.machine.costs.block_costs import recorded_block_costs

START = {"title": "cost of a start", "key": "simulated.start_cost_us", "values": [20, 55]}
PLACEMENT = {"title": "placement", "key": "simulated.placement", "values": ["spread"]}
WORKLOADS = {"mix": {"small": 1, "large": 1}, "small": {"small": 1}}
STUDY = {"enabled": True, "policies": ["FcfsMin"]}


def config_of(**start: object) -> Config:
    sensitivity = {"start": {**START, **start}, "placement": PLACEMENT}
    return make_config(study=STUDY, workloads=WORKLOADS, sensitivity=sensitivity)


def test_an_assumption_without_workloads_is_varied_for_the_study_s() -> None:
    assert {cell.workload for cell in sensitivity_cells(config_of())} == {"mix"}


def test_each_workload_has_cells_of_its_own_and_what_is_usual_is_shared() -> None:
    folder = Path("results/study/sensitivity")
    assert sensitivity_cells(config_of(workloads=["mix", "small"])) == {
        ("start", 0, "mix"): folder / "start/0.csv",
        ("start", 0, "small"): folder / "start@small/0.csv",
        ("start", 1, "mix"): folder / "_usual/0.csv",
        ("start", 1, "small"): folder / "_usual@small/0.csv",
        ("placement", 0, "mix"): folder / "_usual/0.csv",
    }


def test_a_folder_tells_the_assumption_and_the_workload() -> None:
    config = config_of()
    assert at_workload(config, "start") == ("start", config)
    name, other = at_workload(config, "start@small")
    assert (name, other.study.workload) == ("start", "small")
    assert config.study.workload == "mix"


def test_a_measured_cost_stands_on_the_axis_of_numbers_where_it_was_measured() -> None:
    config = config_of(values=[0, "measured", 55], labels=None)
    start = [one["columns"] for one in cell_columns(config) if "start" in one["columns"]["assumption"]]
    assert [one["kind"] for one in start] == ["number"] * 3
    assert [one["value"] for one in start] == [0.0, 1e6 * recorded_block_costs().start_s, 55.0]
    assert [one["is_default"] for one in start] == [False, False, True]


def test_an_unknown_workload_is_refused_with_those_that_there_are() -> None:
    message = r"sensitivity\.start\.workloads: 'heavy' is not in `workloads` \(mix, small\)"
    with pytest.raises(ConfigError, match=message):
        sensitivity_cells(config_of(workloads=["heavy"]))


def test_what_varies_the_workload_takes_no_workloads() -> None:
    with pytest.raises(ConfigError, match="varies the workload itself; leave out `workloads`"):
        config_of(key="study.workload", values=["mix"], workloads=["mix"])
