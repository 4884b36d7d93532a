import json
from pathlib import Path

from tests.support.table_builders import make_config
from veltair.evaluation.experiment.benchmark_file import BenchmarkResult, median_result, write_benchmark
from veltair.provenance import read_provenance


def test_a_result_is_the_median_of_its_samples() -> None:
    found = median_result([3.0, 1.0, 2.0], "m/s", "walk")
    assert found == BenchmarkResult(2.0, "m/s", (3.0, 1.0, 2.0), "walk")


def test_a_benchmark_file_holds_figures_and_where_they_come_from(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    figures = {
        "speed": BenchmarkResult(2.0, "m/s", (1.0, 2.0, 3.0), "walk"),
        "ratio": BenchmarkResult(1.5, "times", (1.5,), "walk", (1.2, None)),
    }
    write_benchmark(path, figures, make_config(), [])
    document = json.loads(path.read_text())
    assert document["figures"] == {
        "speed": {"value": 2.0, "unit": "m/s", "samples": [1.0, 2.0, 3.0], "command": "walk"},
        "ratio": {
            "value": 1.5,
            "unit": "times",
            "samples": [1.5],
            "command": "walk",
            "interval": [1.2, None],
        },
    }
    assert document["provenance"]["commit"]
    assert read_provenance(path).commit == document["provenance"]["commit"]
