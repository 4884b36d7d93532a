import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.support.table_builders import config_values, make_config, make_tables, write_made_up_tables
from veltair.compiler.select.select import Selection
from veltair.evaluation.__main__ import main
from veltair.evaluation.experiment.layout import CAPACITY, Layout
from veltair.evaluation.experiment.scenario import policy_maker, scenario_of
from veltair.evaluation.experiment.tables_io import write_csv
from veltair.evaluation.simulation.run import simulate
from veltair.evaluation.simulation.steps import simulation_settings
from veltair.evaluation.simulation.timeline_steps import (
    TimelineRequest,
    draw_timeline,
    find_tables,
    record_simulation,
)
from veltair.provenance import collect, read_provenance


@pytest.fixture
def values(tmp_path: Path) -> dict[str, object]:
    """A configuration whose host's tables lie where a run puts them."""
    made = config_values(
        profile={"costs": "measured"},
        results={"folder": str(tmp_path / "results")},
        figures={"folder": str(tmp_path / "figures"), "formats": ["svg"]},
        measured={"enabled": False},
    )
    write_made_up_tables(tmp_path / "results" / "costs" / "host")
    return made


def test_a_picture_and_a_trace_are_written_with_where_they_come_from(
    values: dict[str, object], tmp_path: Path
) -> None:
    request = TimelineRequest("Planaria", qps=100.0, seed=3)
    trace, picture = draw_timeline(make_config(**values), request, tmp_path / "out")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads(trace.read_text())["otherData"]["run"] == (
        "Planaria, mix at 100 queries/s, seed 3; simulator, toy, UNVALIDATED"
    )
    assert read_provenance(trace).seed == 3


def test_the_recorded_run_is_the_one_that_the_study_simulates() -> None:
    config = make_config()
    scenario = scenario_of(config, make_tables(slowdown=0.5), "mix")
    make, settings = policy_maker(config, "Planaria"), simulation_settings(config)
    _, records, _ = simulate(scenario, make, settings, 150.0, 1)
    ends = {record.query.id: record.end_s for record in records}
    spans = record_simulation(scenario, make, settings, 150.0, 1).spans
    assert {span.query.id: span.end_s for span in sorted(spans, key=lambda span: span.end_s)} == ends


def test_without_a_rate_the_policys_capacity_is_taken_where_it_was_searched(
    values: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(**values)
    table = pd.DataFrame({"seed": [1, 2], "qps_at_95": [77.0, 88.0]})
    path = Layout(config).simulated("host", "mix", "Planaria") / CAPACITY
    write_csv(path, table, collect({}))
    trace, _ = draw_timeline(config, TimelineRequest("Planaria", seed=2), tmp_path / "out")
    assert "at 88 queries/s" in json.loads(trace.read_text())["otherData"]["run"]
    assert "at its QPS at 95 % QoS, 88 queries/s" in capsys.readouterr().out


def test_without_a_rate_and_without_a_search_half_of_the_bound_is_taken_and_said(
    values: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(**values)
    draw_timeline(config, TimelineRequest("Planaria"), tmp_path / "out")
    half_qps = scenario_of(config, make_tables(), "mix").fluid_qps / 2
    assert f"at {half_qps:.4g} queries/s, 50% of the bound" in capsys.readouterr().out


def test_tables_of_a_described_machine_are_derived_where_no_run_wrote_them(values: dict[str, object]) -> None:
    tables, source = find_tables(Layout(make_config(**values)), "threadripper-3990x", Selection(1.5, 5))
    assert tables.machine.cores == 64
    assert source.parts[-2:] == ("host", "costs.parquet")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (TimelineRequest("Mine"), "has no 'Mine'; choose from FcfsMin, Planaria"),
        (TimelineRequest("Planaria", workload="night"), "has no 'night'; choose from mix"),
        (TimelineRequest("Planaria", machine="moon"), "no machine 'moon' is described"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(
    values: dict[str, object], tmp_path: Path, request_: TimelineRequest, message: str
) -> None:
    with pytest.raises(LookupError, match=message):
        draw_timeline(make_config(**values), request_, tmp_path)


def test_the_command_draws_into_the_folder_of_the_figures_and_says_where(
    values: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    command = ["timeline", "--config", str(path), "--policy", "FcfsMin", "--qps", "50", "--window", "0", "1"]
    assert main(command) == 0
    picture = tmp_path / "figures" / "timeline" / "toy-mix-FcfsMin.png"
    assert picture.exists()
    assert str(picture) in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--policy", "Mine"], ["--policy", "FcfsMin", "--window", "2", "1"]])
def test_the_command_tells_what_is_wrong_in_one_line(
    values: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    assert main(["timeline", "--config", str(path), "--qps", "50", *wrong]) == 2
    assert capsys.readouterr().err.startswith("error: ")
