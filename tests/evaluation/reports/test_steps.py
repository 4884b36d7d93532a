import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.support.evaluation.simulated_runs import SIMULATED, simulate_all
from tests.support.table_builders import make_config, noisy, write_made_up_tables
from veltair.config import Config
from veltair.evaluation.experiment.layout import CAPACITY, RECORDS, SLOTS
from veltair.evaluation.experiment.tables_io import read_csv, write_csv
from veltair.evaluation.loadgen.logs import LOADGEN
from veltair.evaluation.metrics.records import read_records
from veltair.evaluation.reports.steps import (
    check_golden,
    write_golden,
    write_metrics,
    write_summary,
)
from veltair.provenance import ProvenanceError, provenance_path, read_provenance, write_parquet

METRICS = (CAPACITY, "capacity_seeds.csv", "rates.csv", "tenant_rates.csv", "targets.csv")


@pytest.fixture(scope="module")
def config() -> Config:
    return make_config(simulated=SIMULATED)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_up_tables(tmp_path_factory.mktemp("tables"), slowdown=0.5, noise=noisy())


@pytest.fixture(scope="module")
def runs(config: Config, tables: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of a simulated run of each policy."""
    folder = tmp_path_factory.mktemp("runs")
    return simulate_all(config, tables, folder)


@pytest.fixture(scope="module")
def metrics(config: Config, tables: Path, runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metrics")
    write_metrics(config, [tables], runs, [], folder)
    return folder


def test_two_whole_runs_are_equal_to_the_last_bit(
    config: Config, tables: Path, runs: list[Path], metrics: Path, tmp_path: Path
) -> None:
    again = simulate_all(config, tables, tmp_path)
    write_metrics(config, [tables], again, [], tmp_path)
    for name in METRICS:
        assert (tmp_path / name).read_bytes() == (metrics / name).read_bytes()


def test_every_result_has_its_provenance_beside_it(runs: list[Path], metrics: Path) -> None:
    for path in [*(run / name for run in runs for name in (CAPACITY, RECORDS)), *(metrics / CAPACITY,)]:
        assert read_provenance(path).inputs


def test_metrics_merge_all_runs(metrics: Path) -> None:
    capacity, rates = read_csv(metrics / CAPACITY), read_csv(metrics / "rates.csv")
    # A row a policy over both seeds; a row a run: 6 loads x 2 seeds, Planaria's own capacity included.
    assert list(capacity["policy"]) == ["FcfsMin", "Planaria"]
    assert list(capacity["seeds"]) == [2, 2]
    assert rates.groupby("policy").size().to_dict() == {"FcfsMin": 12, "Planaria": 12}
    assert list(read_csv(metrics / "targets.csv")["model"]) == ["small", "large"]
    assert len(read_csv(metrics / "tenant_rates.csv")) == 2 * len(rates)


def test_metrics_have_targets_of_every_machine_once(config: Config, tables: Path, tmp_path: Path) -> None:
    # Two workloads share a model; its targets are the machine's, not the workload's.
    both = make_config(
        workloads={"mix": {"small": 1, "large": 1}, "light": {"small": 1}}, simulated=SIMULATED
    )
    write_metrics(both, [tables], simulate_all(both, tables, tmp_path), [], tmp_path)
    assert list(read_csv(tmp_path / "targets.csv")["model"]) == ["small", "large"]


@pytest.fixture(scope="module")
def measured(config: Config, runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a measured workload: simulated runs, as an engine would have served them.

    Each policy was asked in two rounds at two rates, of which one was left out of the second round; the last
    policy of the configuration first, as the drawn order may have it.
    """
    folder, frames = tmp_path_factory.mktemp("measured") / "mix", []
    slots = [(0, 0.3, 11, True), (0, 0.6, 12, True), (1, 0.3, 13, True), (1, 0.6, 14, False)]
    for run in reversed(runs):
        records = read_records(run / RECORDS)
        one = records[(records["qps"] == records["qps"].min()) & (records["seed"] == 1)]
        for _, share, seed, kept in slots:
            named = one.assign(backend="engine", validated=True, qps=100 * share, seed=seed)
            frames += [named] if kept else []
    write_parquet(folder / RECORDS, pd.concat(frames, ignore_index=True), read_provenance(runs[0] / RECORDS))
    rows = [
        {"workload": "mix", "policy": run.name, "round": number, "share": share, "qps": 100 * share}
        | {"seed": seed, "attempt": 0, "kept": kept, "problem": "" if kept else "late", "others_share": 0.01}
        | {"client": LOADGEN}
        for number, share, seed, kept in slots
        for run in runs
    ]
    write_csv(folder / SLOTS, pd.DataFrame(rows), read_provenance(runs[0] / RECORDS))
    return folder


def test_measured_runs_get_curves_capacities_and_ratios_beside_the_simulated_ones(
    config: Config, tables: Path, runs: list[Path], measured: Path, metrics: Path, tmp_path: Path
) -> None:
    write_metrics(config, [tables], runs, [measured], tmp_path)
    curves = read_csv(tmp_path / "curves.csv")
    assert curves.groupby("policy")["share"].apply(list).to_dict() == {
        "FcfsMin": [0.3, 0.6],
        "Planaria": [0.3, 0.6],
    }
    # At 0.6 only one round counts; the metrics are those of its run.
    assert (curves["queries"] == curves["share"].map({0.3: 2, 0.6: 1}) * curves["queries"].min()).all()
    assert curves["latency_mean_s"].gt(0).all()
    assert set(read_csv(tmp_path / "measured_capacity.csv")["rounds"]) == {2}
    assert len(read_csv(tmp_path / "measured_ratios.csv")) == 2
    assert len(read_csv(tmp_path / "slots.csv")) == 8
    rates = read_csv(tmp_path / "rates.csv")
    assert len(rates[rates["backend"] == "engine"]) == 6
    assert read_csv(tmp_path / CAPACITY).equals(read_csv(metrics / CAPACITY))


def test_measured_policies_come_in_the_order_of_the_configuration(
    config: Config, tables: Path, measured: Path, tmp_path: Path
) -> None:
    write_metrics(config, [tables], [], [measured], tmp_path)
    for name in ("curves.csv", "measured_capacity.csv"):
        named = list(dict.fromkeys(read_csv(tmp_path / name)["policy"]))
        assert named == [policy for policy in config.policies if policy in named] != named[::-1]


def test_the_summary_has_a_section_of_measured_runs_first(
    config: Config, tables: Path, runs: list[Path], measured: Path, tmp_path: Path
) -> None:
    write_metrics(config, [tables], runs, [measured], tmp_path)
    write_summary(tmp_path, [], tmp_path / "summary.md")
    text = (tmp_path / "summary.md").read_text()
    assert text.index("measured here") < text.index("simulated: UNVALIDATED")
    assert "Left out for all: round 1 at 0.6 of the sequential rate" in text


def test_a_run_that_simulates_nothing_has_a_summary_of_measured_runs_alone(
    config: Config, tables: Path, measured: Path, tmp_path: Path
) -> None:
    write_metrics(config, [tables], [], [measured], tmp_path)
    write_summary(tmp_path, [], tmp_path / "summary.md")
    text = (tmp_path / "summary.md").read_text()
    assert "measured here" in text
    assert "simulated" not in text
    assert not (tmp_path / CAPACITY).exists()


def test_runs_of_unlike_configurations_do_not_go_into_one_table(
    config: Config, tables: Path, runs: list[Path], tmp_path: Path
) -> None:
    for run in runs:
        shutil.copytree(run, tmp_path / run.name)
    beside = provenance_path(tmp_path / "Planaria" / RECORDS)
    values = json.loads(beside.read_text())
    values["settings"]["simulated.queries"] = 5
    beside.write_text(json.dumps(values | {"code": "0dd"}))
    with pytest.raises(ProvenanceError) as caught:
        write_metrics(config, [tables], [tmp_path / run.name for run in runs], [], tmp_path)
    assert 'code is "not noted" of ' in str(caught.value)
    assert "FcfsMin/records.parquet, but 5 of " in str(caught.value)


def test_the_summary_names_every_policy_and_figure(metrics: Path, tmp_path: Path) -> None:
    write_summary(metrics, [Path("figures/qps.svg")], tmp_path / "summary.md")
    text = (tmp_path / "summary.md").read_text()
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert {"FcfsMin", "Planaria"} <= set(rows)
    assert "figures/qps.svg" in text


def test_the_golden_summary_of_a_run_equals_itself(metrics: Path, tmp_path: Path) -> None:
    write_golden(metrics, tmp_path / "golden.csv")
    check_golden(tmp_path / "golden.csv", tmp_path / "golden.csv")


def test_a_changed_last_digit_differs_from_the_golden_summary(metrics: Path, tmp_path: Path) -> None:
    made, golden = tmp_path / "made.csv", tmp_path / "golden.csv"
    write_golden(metrics, golden)
    lines = golden.read_text().splitlines()
    value = str(read_csv(metrics / CAPACITY)["qps_at_95"].iloc[0])
    index = next(number for number, line in enumerate(lines) if value in line)
    changed = value[:-1] + ("1" if value[-1] != "1" else "2")
    made.write_text(golden.read_text().replace(value, changed, 1))
    with pytest.raises(ValueError, match=f"made.csv:{index + 1} differs from .*golden.csv"):
        check_golden(made, golden)


@pytest.mark.parametrize(
    "change", [lambda text: text + "more\n", lambda text: text.rsplit("\n", 2)[0] + "\n"]
)
def test_a_line_too_many_or_too_few_differs_from_the_golden_summary(tmp_path: Path, change) -> None:
    made, golden = tmp_path / "made.csv", tmp_path / "golden.csv"
    golden.write_text("a,b\n1,2\n3,4\n")
    made.write_text(change(golden.read_text()))
    with pytest.raises(ValueError, match="has not as many lines"):
        check_golden(made, golden)
