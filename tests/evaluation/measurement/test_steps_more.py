import fcntl
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.table_builders import make_config, make_tables, noisy, write_made_up_tables
from veltair.config import Config
from veltair.evaluation.experiment.machine_lock import machine_to_itself, measuring_lock
from veltair.evaluation.experiment.scenario import CAPACITY, RECORDS, policy_maker, scenario_of
from veltair.evaluation.experiment.tables_io import read_csv, write_csv
from veltair.evaluation.measurement.steps import RUNS
from veltair.evaluation.reports.steps import (
    check_golden,
    draw_figures,
    write_golden,
    write_metrics,
    write_summary,
)
from veltair.evaluation.simulation.steps import simulate_capacity, simulate_loads, simulation_settings
from veltair.machine.costs.block_costs import COLUMNS
from veltair.machine.costs.folder import BLOCKS, read_tables, write_tables
from veltair.provenance import ProvenanceError, collect, provenance_path, read_provenance

NOTHING = collect({})
METRICS = (CAPACITY, "capacity_seeds.csv", "rates.csv", "model_rates.csv", "targets.csv")
SIMULATED = {"machines": ["host"], "workloads": ["mix"], "queries": 100, "resolution": 0.2, "seeds": [1, 2]}


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
    write_metrics(config, [tables], runs, folder)
    return folder


def simulate_all(config: Config, tables: Path, folder: Path) -> list[Path]:
    folders = [folder / policy for policy in config.policies]
    for path in folders:
        path.mkdir()
        simulate_capacity(config, tables, "mix", path.name, path / CAPACITY)
    capacities = [path / CAPACITY for path in folders]
    for path in folders:
        simulate_loads(config, tables, "mix", path.name, capacities, path / RECORDS)
    return folders


def test_a_capacity_file_has_a_row_a_seed(runs: list[Path]) -> None:
    table = read_csv(runs[0] / CAPACITY)
    assert list(table["seed"]) == [1, 2]
    assert set(table["policy"]) == {"FcfsMin"}


def test_the_search_aims_at_the_satisfaction_of_the_configuration(tables: Path, tmp_path: Path) -> None:
    answers = {}
    for target in (0.5, 0.95):
        config = make_config(simulated=SIMULATED, qos={"satisfaction": target})
        simulate_capacity(config, tables, "mix", "FcfsMin", tmp_path / f"{target}.csv")
        answers[target] = read_csv(tmp_path / f"{target}.csv")["qps_at_95"].mean()
    assert answers[0.5] > answers[0.95]


def test_records_are_those_of_the_shared_loads_and_of_the_policy_s_own_capacity(runs: list[Path]) -> None:
    planaria = read_csv(runs[1] / CAPACITY).set_index("seed")["qps_at_95"]
    own = read_csv(runs[0] / CAPACITY).set_index("seed")["qps_at_95"]
    records = pd.read_parquet(runs[0] / RECORDS)
    for seed in (1, 2):
        wanted = sorted([*(planaria[seed] * share for share in (0.3, 0.5, 0.7, 0.9, 1.1)), own[seed]])
        assert sorted(records.loc[records["seed"] == seed, "qps"].unique()) == pytest.approx(wanted)


def test_both_policies_have_the_same_arrivals_at_the_loads_that_they_share(runs: list[Path]) -> None:
    first, second = (pd.read_parquet(run / RECORDS) for run in runs)
    key = ["qps", "seed", "query_id"]
    both = first.merge(second, on=key)
    assert len(both) >= 10 * 100
    for column in ("model", "arrival_s", "qos_s"):
        assert both[f"{column}_x"].equals(both[f"{column}_y"].rename(f"{column}_x"))


def test_two_whole_runs_are_equal_to_the_last_bit(
    config: Config, tables: Path, runs: list[Path], metrics: Path, tmp_path: Path
) -> None:
    again = simulate_all(config, tables, tmp_path)
    write_metrics(config, [tables], again, tmp_path)
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
    assert len(read_csv(metrics / "model_rates.csv")) == 2 * len(rates)


def test_metrics_have_targets_of_every_machine_once(config: Config, tables: Path, tmp_path: Path) -> None:
    # Two workloads share a model; its targets are the machine's, not the workload's.
    both = make_config(
        workloads={"mix": {"small": 1, "large": 1}, "light": {"small": 1}}, simulated=SIMULATED
    )
    write_metrics(both, [tables], simulate_all(both, tables, tmp_path), tmp_path)
    assert list(read_csv(tmp_path / "targets.csv")["model"]) == ["small", "large"]


def test_a_rate_that_gave_no_valid_run_is_marked_in_the_rates(
    config: Config, tables: Path, runs: list[Path], tmp_path: Path
) -> None:
    for run in runs:
        shutil.copytree(run, tmp_path / run.name)
    measured = tmp_path / "FcfsMin"
    rates = sorted(pd.read_parquet(measured / RECORDS)["qps"].unique())
    problems = pd.DataFrame({"qps": rates, "problem": ["the clock jumped", *[""] * (len(rates) - 1)]})
    write_csv(measured / RUNS, problems, NOTHING)
    write_metrics(config, [tables], [measured, tmp_path / "Planaria"], tmp_path)
    table = read_csv(tmp_path / "rates.csv")
    assert list(table.loc[table["invalid"] != "", "qps"]) == [rates[0]]
    assert set(table["invalid"]) == {"", "the clock jumped"}


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
        write_metrics(config, [tables], [tmp_path / run.name for run in runs], tmp_path)
    assert 'code is "not noted" of ' in str(caught.value)
    assert "FcfsMin/records.parquet, but 5 of " in str(caught.value)


def test_the_summary_names_every_policy_and_figure(metrics: Path, tmp_path: Path) -> None:
    write_summary(metrics, [Path("figures/qps.svg")], tmp_path / "summary.md")
    text = (tmp_path / "summary.md").read_text()
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert {"FcfsMin", "Planaria"} <= set(rows)
    assert "figures/qps.svg" in text


def test_figures_are_drawn_in_every_format(metrics: Path, tmp_path: Path) -> None:
    draw_figures(metrics, tmp_path, ["svg"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "efficiency.svg",
        "latency.svg",
        "qps.svg",
    ]


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


@given(st.lists(st.floats(allow_nan=False, allow_infinity=True), min_size=1))
def test_every_number_of_a_csv_file_reads_back_to_the_last_bit(tmp_path_factory, values) -> None:
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    write_csv(path, pd.DataFrame({"value": values}), NOTHING)
    assert np.array_equal(read_csv(path)["value"].to_numpy(), np.array(values))


def test_empty_texts_of_a_csv_file_read_back_as_empty_texts(tmp_path: Path) -> None:
    table = pd.DataFrame({"policy": ["A", "B"], "invalid": ["", ""], "answer": ["1, or 2", ""]})
    write_csv(tmp_path / "table.csv", table, NOTHING)
    assert read_csv(tmp_path / "table.csv").to_dict("list") == table.to_dict("list")


def test_a_second_measurement_waits_until_the_first_has_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock, order = tmp_path / "new" / "lock", []

    def measure() -> None:
        with machine_to_itself(lock):
            order.append("second")

    with machine_to_itself(lock):
        second = Thread(target=measure)
        second.start()
        second.join(timeout=0.3)
        assert second.is_alive()
        order.append("first")
    second.join()
    assert order == ["first", "second"]
    assert f"waiting for another measurement on this machine to end ({lock})" in capsys.readouterr().out


def test_a_measurement_that_was_killed_leaves_no_lock_behind(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        first.stdout.readline()
        with lock.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        first.kill()
    with machine_to_itself(lock):
        pass


def test_all_runs_of_a_user_share_a_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    first = measuring_lock()
    monkeypatch.chdir(tmp_path)
    assert measuring_lock() == first
    assert first.parent == tmp_path


def test_times_of_the_configuration_become_seconds() -> None:
    simulated = SIMULATED | {"start_cost_us": 20, "resize_cost_us": 5, "queries": 7, "drain_qos": 3}
    settings = simulation_settings(make_config(simulated=simulated))
    assert (settings.queries, settings.drain_qos) == (7, 3.0)
    assert (settings.costs.start_s, settings.costs.resize_s) == pytest.approx((20e-6, 5e-6))


MEASURED = {f"{name}_cost_us": "measured" for name in ("start", "resize", "grant", "join")}


def test_costs_of_blocks_are_those_of_the_tables_where_the_configuration_asks_for_the_measured_ones() -> None:
    rows = [("start", "small", 4, 0, 0.4), ("grant", "small", 4, 0, 0.3)]
    rows += [("shrink", "small", 4, 0, 0.2), ("grow", "small", 4, 0, 0.3)]
    known = replace(make_tables(), block_samples=pd.DataFrame(rows, columns=list(COLUMNS)))
    settings = simulation_settings(make_config(simulated=SIMULATED | MEASURED), known)
    assert (settings.costs.start_s, settings.costs.resize_s) == (0.4, 0.2)
    assert (settings.costs.grant_s, settings.costs.join_s) == (0.3, pytest.approx(0.1))


def test_costs_of_blocks_that_nobody_measured_are_the_defaults_of_their_keys() -> None:
    measured = make_config(simulated=SIMULATED | MEASURED)
    assert simulation_settings(measured, make_tables()) == simulation_settings(
        make_config(simulated=SIMULATED)
    )


def test_a_number_goes_over_what_was_measured() -> None:
    samples = pd.DataFrame([("start", "small", 4, 0, 0.4)], columns=list(COLUMNS))
    config = make_config(simulated=SIMULATED | {"start_cost_us": 7})
    settings = simulation_settings(config, replace(make_tables(), block_samples=samples))
    assert settings.costs.start_s == pytest.approx(7e-6)


def test_a_simulation_charges_the_costs_of_its_tables(tables: Path, tmp_path: Path) -> None:
    config, answers = make_config(simulated=SIMULATED | MEASURED), []
    for start_s in (0.0, 0.005):
        samples = pd.DataFrame([("start", "small", 4, 0, start_s)], columns=list(COLUMNS))
        folder = tmp_path / str(start_s)
        folder.mkdir()
        write_tables(folder, replace(read_tables(tables), block_samples=samples), NOTHING)
        simulate_capacity(config, folder, "mix", "FcfsMin", folder / CAPACITY)
        answers.append(read_csv(folder / CAPACITY)["qps_at_95"].mean())
        assert str(folder / BLOCKS) in read_provenance(folder / CAPACITY).inputs
    assert answers[0] > answers[1]


def test_a_site_has_the_targets_of_the_configuration_in_seconds(config: Config, tables: Path) -> None:
    assert scenario_of(config, read_tables(tables), "mix").qos_s == {"small": 0.020, "large": 0.040}


def test_a_policy_gets_the_options_of_the_configuration(config: Config, tables: Path) -> None:
    layers = {"Blocks": {"path": "baselines.fixed_blocks:FixedBlocks", "options": {"layers": 1}}}
    changed = make_config(policies=layers)
    context = scenario_of(config, read_tables(tables), "mix").context
    first, second = (policy_maker(changed, "Blocks")(context) for _ in range(2))
    assert first is not second
    assert type(first).__name__ == "FixedBlocks"
