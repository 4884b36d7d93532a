import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.table_builders import make_config
from tests.support.traffic_tables import traffic_table
from tests.support.validation_builders import pressing_tables
from veltair.config import Config
from veltair.config.part import parse_part, part_of
from veltair.evaluation.experiment.layout import RECORDS
from veltair.evaluation.experiment.reads import validation_keys
from veltair.evaluation.experiment.scenario import policy_maker, scenario_of
from veltair.evaluation.experiment.tables_io import read_csv, write_csv
from veltair.evaluation.metrics.records import Run, to_frame
from veltair.evaluation.simulation.run import make_simulator, scenario_arrivals
from veltair.evaluation.simulation.steps import simulation_settings
from veltair.evaluation.validation import steps as validation_steps
from veltair.evaluation.validation.co_run_errors import predict_pairs
from veltair.evaluation.validation.co_runs import ALONE, BESIDE, COLUMNS, draw_pairs, tenants
from veltair.evaluation.validation.compared_traces import RUNS, with_load
from veltair.evaluation.validation.steps import ValidationFiles, ValidationResults, write_validation
from veltair.evaluation.validation.trace_errors import TraceError
from veltair.machine.costs.block_costs import COLUMNS as BLOCK_COLUMNS
from veltair.machine.costs.folder import BLOCKS, COSTS, Tables, write_tables
from veltair.provenance import collect, read_provenance, write_parquet
from veltair.serving.loop.dispatcher import Dispatcher, serve

QPS = 60.0
Changes = Callable[[pd.DataFrame], pd.DataFrame]


def as_it_is(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


class Folder:
    """What a validation reads, made up: what was "measured" is what the simulator says, unless changed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tables, self.config = folder, pressing_tables(), make_config()
        self.record = folder / "record.json"
        write_tables(folder / "host", self.tables, collect({"made": "up"}))

    def files(
        self,
        change: Changes = as_it_is,
        problem: str = "",
        wrong_answers: int = 0,
        policies: tuple[str, ...] = ("FcfsMin", "Planaria"),
    ) -> ValidationFiles:
        """Write all of it; `change` is applied to the records of each run."""
        co_runs = self.folder / "co_runs.parquet"
        provenance = collect({}, inputs=[self.folder / "host" / COSTS])
        write_parquet(co_runs, simulated_co_runs(self.tables), provenance)
        records = []
        for policy in policies:
            path = self.folder / policy / RECORDS
            write_parquet(path, change(self.run(policy)), provenance)
            write_csv(
                path.parent / RUNS,
                pd.DataFrame([{"qps": QPS, "problem": problem, "wrong_answers": wrong_answers}]),
                provenance,
            )
            records.append(path)
        return ValidationFiles(self.folder / "host", co_runs, records)

    def run(self, policy: str) -> pd.DataFrame:
        """Return the records of one policy, as if an engine had served them."""
        config: Config = self.config
        scenario, settings = scenario_of(config, self.tables, "mix"), simulation_settings(config)
        arrivals = scenario_arrivals(scenario, settings, QPS, seed=1)
        simulator = make_simulator(scenario, settings, arrivals, seed=1)
        served = serve(
            Dispatcher(policy_maker(config, policy)(scenario.context), scenario.context), simulator
        )
        return to_frame(served, Run("engine", "toy", True, "mix", policy, QPS, 1))

    def validate(self, files: ValidationFiles) -> tuple[list[str], dict[str, Any], str]:
        """Return the verdict lines, the numbers and the report."""
        figures, report = self.folder / "validation.json", self.folder / "validation.md"
        results = ValidationResults(figures, report, self.record, self.folder / "tables")
        # As the rule does: with the keys that it declares.
        keys = validation_keys(self.config)
        config = parse_part(part_of(self.config.model_dump(mode="json"), keys), "rule validation")
        lines = write_validation(config, files, results, "snakemake --cores all validation")
        return lines, json.loads(figures.read_text())["figures"], report.read_text()


def simulated_co_runs(tables: Tables) -> pd.DataFrame:
    """Return samples of pairs that are slowed exactly as predicted with twice the demand."""
    pairs = dict(enumerate(draw_pairs(tenants(tables), tables.machine.cores, seed=1, count=8)))
    slowdowns = predict_pairs(tables, pairs, "spread", 2.0)
    rows = [
        (corun, side, tenant.model, tenant.choice, tenant.cores, 0, kind, seconds)
        for corun, pair in pairs.items()
        for side, tenant in enumerate(pair)
        for kind, seconds in ((ALONE, 1.0), (BESIDE, slowdowns[corun][side]))
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@dataclass(frozen=True)
class Plain:
    """A validation of what the simulator itself made: its folder, verdict lines, numbers and report."""

    folder: Folder
    lines: list[str]
    figures: dict[str, Any]
    report: str


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    folder = Folder(tmp_path_factory.mktemp("plain"))
    return Plain(folder, *folder.validate(folder.files()))


def test_a_trace_that_the_simulator_itself_made_has_no_error_and_the_null_model_has(plain: Plain) -> None:
    lines, figures, report = plain.lines, plain.figures, plain.report
    for name in ("qps_error", "p50_error", "p95_error", "satisfaction_error_points"):
        assert figures[name]["value"] == pytest.approx(0.0, abs=1e-9)
    assert figures["p50_error_null"]["value"] > 0.02
    assert len(lines) == 7 and "| `p50_error` " in report


def test_the_demand_that_made_the_co_runs_is_found_and_held_out_pairs_agree(plain: Plain) -> None:
    figures = plain.figures
    assert figures["corun_demand_scale"]["value"] == pytest.approx(2.0)
    assert figures["corun_error_median"]["value"] == pytest.approx(0.0, abs=1e-9)
    assert figures["corun_error_median_null"]["value"] > 0.1


def test_the_tables_behind_the_figures_name_the_machine(plain: Plain) -> None:
    for name in ("fidelity", "corun_fit", "cost_fit"):
        table = pd.read_csv(plain.folder.folder / "tables" / f"{name}.csv")
        assert set(table["machine"]) == {"toy"} and not table["validated"].any()


def test_what_is_not_computed_is_counted_and_named(folder: Folder) -> None:
    _, figures, report = folder.validate(folder.files(policies=("FcfsMin",)))
    assert figures["not_computed"]["value"] == 1
    assert "ranking_tau: none of 0 pairs" in figures["not_computed"]["unit"]
    assert "`ranking_tau` is not computed" in report


def test_four_cores_are_never_labelled_validated(plain: Plain) -> None:
    label = plain.figures["may_be_labelled_validated"]
    assert label["value"] == 0 and "it has 4 cores" in label["unit"]


def test_the_record_says_whether_the_validation_passed_and_why_not(folder: Folder) -> None:
    folder.validate(folder.files())
    record = json.loads(folder.record.read_text())
    assert (record["passed"], record["machine"]["name"]) == (False, "toy")
    assert "it has 4 cores" in record["why"]
    assert read_provenance(folder.record).inputs


def test_a_passed_validation_says_where_its_record_goes(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation_steps, "may_be_validated", lambda *_: (True, ""))
    lines, *_ = folder.validate(folder.files())
    assert lines[-1].startswith(f"all goals are met: copy {folder.record} and its provenance to")
    assert json.loads(folder.record.read_text())["passed"]


def test_published_numbers_about_models_that_the_tables_lack_come_from_the_shipped_ones(
    folder: Folder,
) -> None:
    files = folder.files()
    described = ValidationFiles(files.tables, files.co_runs, files.records, files.tables)
    _, figures, report = folder.validate(described)
    assert figures["anchor_four_googlenets_slowdown"]["value"] >= 1.0
    assert "layer_wise_qps_at_99: add policy LayerWise to `policies`" in figures["not_computed"]["unit"]
    assert "shipped" in report


def test_traffic_that_was_simulated_is_among_the_numbers(folder: Folder) -> None:
    traffic = folder.folder / "traffic.csv"
    write_csv(traffic, traffic_table((4, 2), (2, 2)), collect({}))
    _, figures, report = folder.validate(replace(folder.files(), traffic=traffic))
    assert figures["traffic_ratio_median"]["value"] == 1.5 and "## Traffic" in report


def test_runs_with_other_tables_are_refused(folder: Folder) -> None:
    files = folder.files()
    costs = files.tables / COSTS
    table = pd.read_parquet(costs).assign(traffic_bytes=1.0)
    write_parquet(costs, table, collect({}))
    with pytest.raises(TraceError, match="measured with other cost tables"):
        folder.validate(files)


def test_a_run_out_of_order_is_refused(folder: Folder) -> None:
    def turn(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(arrival_s=frame["arrival_s"].to_numpy()[::-1])

    with pytest.raises(TraceError, match="out of order"):
        folder.validate(folder.files(turn))


def test_a_run_with_wrong_answers_is_left_out(folder: Folder) -> None:
    with pytest.raises(TraceError, match="no measured run gave right answers"):
        folder.validate(folder.files(wrong_answers=1))


def test_a_run_that_loadgen_issued_late_is_replayed_as_it_came(folder: Folder) -> None:
    assert folder.validate(folder.files(problem="LoadGen was late"))[1]["p50_error"]["value"] < 1e-9


def test_a_policy_that_the_configuration_lacks_is_refused(folder: Folder) -> None:
    def rename(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(policy="Unknown")

    with pytest.raises(
        TraceError, match="Unknown on mix was measured, but the configuration has no such policy"
    ):
        folder.validate(folder.files(rename))


@pytest.mark.parametrize(
    ("asked", "load", "expected"),
    [
        ({}, {"decision_s": 2e-4, "loadgen_cores": 0.1, "pace": 1.5}, (2e-4, 0.1, 1.5)),
        ({}, {"decision_s": nan, "loadgen_cores": nan, "pace": nan}, (0.0, 0.0, 1.0)),
        ({}, {}, (0.0, 0.0, 1.0)),
        (
            {"decision_us": 0, "loadgen_cores": 0, "pace": 1},
            {"decision_s": 2e-4, "loadgen_cores": 0.1, "pace": 1.5},
            (0.0, 0.0, 1.0),
        ),
        ({"decision_us": 50, "loadgen_cores": 0.2, "pace": 2}, {}, (5e-5, 0.2, 2.0)),
    ],
)
def test_a_run_is_replayed_with_the_load_that_was_measured_with_it_or_that_is_given(
    asked, load, expected
) -> None:
    simulated = {"machines": ["host"], "workloads": ["mix"], **asked}
    config = make_config(simulated=simulated)
    found = with_load(config, simulation_settings(config, pressing_tables()), load)
    assert (found.costs.decision_s, found.loadgen_cores, found.pace) == pytest.approx(expected)


def test_the_load_of_each_recorded_run_is_read_beside_it(folder: Folder) -> None:
    files = folder.files(policies=("FcfsMin",))
    path = files.records[0].parent / RUNS
    runs = read_csv(path).assign(decision_s=0.01, loadgen_cores=0.0)
    write_csv(path, runs, collect({}))
    # What was "measured" is the simulator without this term.
    assert folder.validate(files)[1]["p50_error"]["value"] > 0.1


def test_the_simulator_charges_what_blocks_cost_on_the_machine_of_the_trace(folder: Folder) -> None:
    costly = {"machines": ["host"], "workloads": ["mix"], "queries": 100, "start_cost_us": "measured"}
    folder.config = make_config(simulated=costly)
    files = folder.files()  # recorded with the default of the key
    assert folder.validate(files)[1]["p50_error"]["value"] == pytest.approx(0.0, abs=1e-9)
    samples = pd.DataFrame([("start", "small", 4, 0, 0.01)], columns=list(BLOCK_COLUMNS))
    write_parquet(folder.folder / "host" / BLOCKS, samples, collect({}))
    figures = folder.validate(files)[1]
    assert figures["p50_error"]["value"] > 0.1
    assert figures["charged_start_us"]["value"] == pytest.approx(10_000)
