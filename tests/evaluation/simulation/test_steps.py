import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.support.evaluation.simulated_runs import SIMULATED, simulate_all
from tests.support.table_builders import make_config, make_tables, noisy, write_made_up_tables
from veltair.config import Config
from veltair.evaluation.experiment.layout import CAPACITY, RECORDS
from veltair.evaluation.experiment.tables_io import read_csv
from veltair.evaluation.simulation.steps import simulate_capacity, simulation_settings
from veltair.machine.costs.block_costs import COLUMNS, recorded_block_costs
from veltair.machine.costs.folder import BLOCKS, read_tables, write_tables
from veltair.machine.costs.oversubscription import recorded_oversubscription
from veltair.provenance import collect, read_provenance


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


def test_times_of_the_configuration_become_seconds() -> None:
    simulated = SIMULATED | {"start_cost_us": 20, "resize_cost_us": 5, "queries": 7, "drain_qos": 3}
    settings = simulation_settings(make_config(simulated=simulated))
    assert (settings.queries, settings.drain_qos) == (7, 3.0)
    assert (settings.costs.start_s, settings.costs.resize_s) == pytest.approx((20e-6, 5e-6))


MEASURED = {f"{name}_cost_us": "measured" for name in ("start", "resize", "grant", "join", "yield")}


def test_costs_of_blocks_are_those_of_the_tables_where_the_configuration_asks_for_the_measured_ones() -> None:
    rows = [("start", "small", 4, 0, 0.4), ("grant", "small", 4, 0, 0.3)]
    rows += [("shrink", "small", 4, 0, 0.2), ("grow", "small", 4, 0, 0.3), ("yield", "small", 4, 0, 0.1)]
    known = replace(make_tables(), block_samples=pd.DataFrame(rows, columns=list(COLUMNS)))
    settings = simulation_settings(make_config(simulated=SIMULATED | MEASURED), known)
    assert (settings.costs.start_s, settings.costs.resize_s) == (0.4, 0.2)
    assert (settings.costs.grant_s, settings.costs.join_s) == (0.3, pytest.approx(0.1))
    assert settings.costs.yield_s == 0.1


def test_costs_of_blocks_that_nobody_measured_are_those_recorded_of_the_loop_in_c_by_default() -> None:
    recorded = replace(recorded_block_costs(), oversubscription=recorded_oversubscription())
    assert simulation_settings(make_config(simulated=SIMULATED), make_tables()).costs == recorded
    assert simulation_settings(make_config(simulated=SIMULATED | MEASURED)).costs == recorded


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
        write_tables(folder, replace(read_tables(tables), block_samples=samples), collect({}))
        simulate_capacity(config, folder, "mix", "FcfsMin", folder / CAPACITY)
        answers.append(read_csv(folder / CAPACITY)["qps_at_95"].mean())
        assert str(folder / BLOCKS) in read_provenance(folder / CAPACITY).inputs
    assert answers[0] > answers[1]


def test_simulated_steps_start_without_loading_the_compiler() -> None:
    # TVM takes longer to load than some of the study's hundreds of jobs take.
    lines = "import sys; import veltair.evaluation.simulation.steps; print('tvm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "False"
