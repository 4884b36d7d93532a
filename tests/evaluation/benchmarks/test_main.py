import json
from pathlib import Path

import pandas as pd
import pytest

from tests.support.table_builders import make_config, write_made_up_tables
from veltair.evaluation.benchmarks.main import write_main
from veltair.evaluation.experiment.benchmark_file import BenchmarkResult, write_benchmark
from veltair.provenance import read_provenance


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What write_main writes of two policies and one oracle."""
    folder = tmp_path_factory.mktemp("benchmarks")
    oracle = folder / "small.csv"
    pd.DataFrame({"relative_error": [1e-7, 3e-6, 2e-6]}).to_csv(oracle, index=False)
    tables = write_made_up_tables(folder / "tables")
    simulated = {"machines": ["host"], "workloads": ["mix"], "queries": 50}
    write_main(make_config(simulated=simulated), tables, [oracle], folder / "main.json")
    return json.loads((folder / "main.json").read_text())


def test_each_policy_has_the_speed_of_simulator_and_dispatcher(document: dict) -> None:
    assert set(document["figures"]) == {
        "events_per_s_FcfsMin",
        "events_per_s_Planaria",
        "event_us_FcfsMin",
        "event_us_Planaria",
        "oracle_error_small",
    }


def test_a_figure_is_the_median_of_its_samples_in_a_unit(document: dict) -> None:
    for name, figure in document["figures"].items():
        samples = sorted(figure["samples"])
        assert figure["value"] == samples[len(samples) // 2] > 0, name
        assert figure["unit"] and figure["command"]


def test_the_error_of_a_model_is_its_worst(document: dict) -> None:
    assert document["figures"]["oracle_error_small"]["value"] == 3e-6


def test_a_benchmark_file_holds_figures_and_where_they_come_from(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    write_benchmark(path, {"speed": BenchmarkResult(2.0, "m/s", (1.0, 2.0, 3.0), "walk")}, make_config(), [])
    document = json.loads(path.read_text())
    assert document["figures"] == {
        "speed": {"value": 2.0, "unit": "m/s", "samples": [1.0, 2.0, 3.0], "command": "walk"}
    }
    assert document["provenance"]["commit"]
    assert read_provenance(path).commit == document["provenance"]["commit"]
