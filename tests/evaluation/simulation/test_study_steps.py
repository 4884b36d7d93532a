"""The steps of the many-core study, on a made-up machine."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.table_builders import make_config, write_made_up_tables
from veltair.config import Config
from veltair.evaluation.experiment import layout as layout_module
from veltair.evaluation.experiment.layout import CAPACITY, Layout
from veltair.evaluation.experiment.tables_io import read_csv
from veltair.evaluation.simulation.sensitivity_cells import (
    cell_columns,
    cell_config,
    sensitivity_cells,
    study_grid,
)
from veltair.evaluation.simulation.steps import simulate_capacity
from veltair.evaluation.simulation.study_steps import (
    gather,
    write_conflicts,
    write_granularity,
    write_layer_tables,
    write_scale,
    write_sensitivity,
)

POLICIES = ("FcfsMin", "Planaria")
STUDY = {
    "enabled": True,
    "machine": "host",
    "policies": list(POLICIES),
    "seeds": [3],
    "resolution": 0.3,
    "granularity": {"policies": list(POLICIES), "loads": [0.5, 2.0]},
    "conflicts": {"policies": list(POLICIES), "queries": 50},
}
START = {"title": "cost of a start", "unit": "µs", "key": "simulated.start_cost_us"}
SENSITIVITY = {
    "start": {**START, "values": [55, 5000], "plausible": [55]},
    "placement": {
        "title": "placement",
        "key": "simulated.placement",
        "values": ["spread"],
        "labels": ["all over"],
    },
}


def config_of(**changes: Any) -> Config:
    return make_config(study=STUDY, sensitivity=SENSITIVITY, **changes)


@pytest.fixture(scope="module", autouse=True)
def tables(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Made-up tables in place of the shipped ones, which are those of the host."""
    folder = write_made_up_tables(tmp_path_factory.mktemp("tables"), slowdown=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout_module, "SHIPPED_COSTS", folder)
        yield folder


@pytest.fixture(scope="module")
def capacities(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("capacities")
    for policy in POLICIES:
        simulate_capacity(config_of(), tables, "mix", policy, folder / policy / CAPACITY)
    return [folder / policy / CAPACITY for policy in POLICIES]


def test_every_policy_is_offered_the_same_rates(capacities: list[Path], tmp_path: Path) -> None:
    planaria = read_csv(capacities[1])["qps_at_95"].mean()
    for policy in POLICIES:
        write_granularity(config_of(), policy, capacities, tmp_path / f"{policy}.csv")
        table = read_csv(tmp_path / f"{policy}.csv")
        assert table["qps"].tolist() == pytest.approx([0.5 * planaria, 2 * planaria])
        assert table["satisfaction"].is_monotonic_decreasing


def test_conflicts_are_of_one_run_of_each_policy_at_one_rate(capacities: list[Path], tmp_path: Path) -> None:
    write_conflicts(config_of(), capacities, tmp_path / "conflicts.csv")
    table = read_csv(tmp_path / "conflicts.csv")
    assert table["policy"].tolist() == ["FcfsMin"] * 100 + ["Planaria"] * 100
    assert table[["qps", "seed"]].drop_duplicates().shape == (1, 2)


def test_layers_have_a_row_a_level_and_versions_one_a_core_count_and_level(tmp_path: Path) -> None:
    write_layer_tables(config_of(), tmp_path)
    assert len(read_csv(tmp_path / "core_need.csv")) == (2 + 3) * 3
    # Two models, two versions, four counts, three levels.
    assert len(read_csv(tmp_path / "slowdown.csv")) == 2 * 2 * 4 * 3


def test_the_scale_says_how_many_cores_and_of_which_family(tmp_path: Path) -> None:
    config = study_grid(config_of())
    write_scale(config, "host", config.study.policies, tmp_path / "host.csv")
    table = read_csv(tmp_path / "host.csv")
    assert set(table["cores"]) == {4}
    assert set(table["machine"]) == {"host, scaled"}
    assert set(table["relaxed"]) == {0}
    assert set(table["seed"]) == {3}


def write_cell(config: Config, path: Path) -> None:
    varied, policies = cell_config(config, path.parent.name, int(path.stem))
    write_sensitivity(varied, path.parent.name, int(path.stem), policies, path)


@pytest.fixture(scope="module")
def sensitivity(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("sensitivity")
    config = config_of(results={"folder": str(folder)})
    layout = Layout(config)
    for path in layout.cells()["sensitivity"]:
        write_cell(config, path)
    gather({"sensitivity": layout.cells()["sensitivity"]}, cell_columns(config), folder)
    return read_csv(folder / "sensitivity.csv")


def test_values_that_the_run_has_anyway_are_simulated_once_and_shown_with_each_assumption(
    sensitivity: pd.DataFrame,
) -> None:
    usual = sensitivity[sensitivity["is_default"]]
    assert usual["assumption"].tolist() == ["cost of a start"] * 2 + ["placement"] * 2
    assert len(usual.drop_duplicates(["policy", "qps_at_95"])) == 2


def test_each_row_says_which_value_of_which_assumption_it_is(sensitivity: pd.DataFrame) -> None:
    columns = ["assumption", "unit", "kind", "value", "label", "is_default", "plausible"]
    assert sensitivity[columns].drop_duplicates().values.tolist() == [
        ["cost of a start", "µs", "number", 55.0, "55", True, True],
        ["cost of a start", "µs", "number", 5000.0, "5000", False, False],
        ["placement", "", "category", 0.0, "all over", True, True],
    ]


def test_the_changed_key_is_what_is_simulated(sensitivity: pd.DataFrame) -> None:
    fcfs = sensitivity[
        (sensitivity["assumption"] == "cost of a start") & (sensitivity["policy"] == "FcfsMin")
    ]
    usual, dear = fcfs["qps_at_95"]
    assert dear < usual


def test_an_assumption_is_varied_for_each_workload_that_it_names(tmp_path: Path) -> None:
    varied = {"start": {**SENSITIVITY["start"], "workloads": ["mix", "large"]}}
    config = make_config(
        study=STUDY,
        sensitivity=varied,
        results={"folder": str(tmp_path)},
        workloads={"mix": {"small": 1, "large": 1}, "large": {"large": 1}},
    )
    cells = sensitivity_cells(config)
    for path in dict.fromkeys(cells.values()):
        write_cell(config, path)
    gather({"sensitivity": list(dict.fromkeys(cells.values()))}, cell_columns(config), tmp_path)
    table = read_csv(tmp_path / "sensitivity.csv")
    found = table[["workload", "models", "label"]].drop_duplicates().values.tolist()
    assert found == [
        ["mix", "small, large", "55"],
        ["large", "large", "55"],
        ["mix", "small, large", "5000"],
        ["large", "large", "5000"],
    ]


def test_the_grid_is_the_study_s_own(sensitivity: pd.DataFrame) -> None:
    assert set(sensitivity["seed"]) == {3}
