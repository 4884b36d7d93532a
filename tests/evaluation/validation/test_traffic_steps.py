import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.evaluation.traffic_tables import MIB, traffic_table
from tests.support.table_builders import make_config
from veltair.compiler.select.store import StoreError
from veltair.evaluation.experiment.tables_io import read_csv, write_csv
from veltair.evaluation.validation import traffic_steps
from veltair.evaluation.validation.cachegrind import COLUMNS, CachegrindError
from veltair.evaluation.validation.network_caches import COLUMNS as NETWORK_COLUMNS
from veltair.evaluation.validation.traffic_steps import (
    compare_network_traffic,
    write_network_traffic,
    write_traffic,
)
from veltair.provenance import collect, read_provenance


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setattr(traffic_steps, "build_model", lambda *_: None)
    (tmp_path / "net.onnx").write_text("made up")
    return {"net": tmp_path / "net.onnx"}


def written(models: dict[str, Path], folder: Path) -> pd.DataFrame:
    write_traffic(make_config(), models, folder, folder / "cache", folder / "traffic.csv")
    return read_csv(folder / "traffic.csv")


def test_the_table_reads_back_and_knows_which_models_it_is_of(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = traffic_table((1, 2), (3, 4))
    monkeypatch.setattr(traffic_steps, "check_traffic", lambda *_: made)
    pd.testing.assert_frame_equal(written(models, tmp_path), made)
    assert {Path(name).name for name in read_provenance(tmp_path / "traffic.csv").inputs} == {"net.onnx"}


def test_layers_are_built_for_avx2_whatever_this_cpu_has(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[tuple[Any, ...]] = []
    monkeypatch.setattr(traffic_steps, "build_model", lambda *given: built.append(given))
    monkeypatch.setattr(traffic_steps, "check_traffic", lambda *_: traffic_table((1, 2), (3, 4)))
    written(models, tmp_path)
    ((model, stores, *_, cpu),) = built
    assert (model, cpu) == (models["net"], "x86-64-v3")
    assert [store.name for store in stores] == ["avx2"]


def test_models_without_shipped_candidates_leave_the_table_empty_and_a_line_says_why(
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any) -> None:
        raise StoreError("net: 1 layer structures have no candidates")

    monkeypatch.setattr(traffic_steps, "build_model", fail)
    assert written(models, tmp_path).empty
    assert "not compared with cachegrind: net: 1 layer structures have no" in capsys.readouterr().out


def test_networks_are_compared_in_a_benchmark_and_on_a_page(tmp_path: Path) -> None:
    rows = [("net", layer, "warm", 1, 4 * MIB, MIB, MIB, MIB, MIB, 8 * MIB, MIB) for layer in range(2)]
    tables = [tmp_path / "net.csv", tmp_path / "other.csv"]
    for path, made in zip(tables, (rows, []), strict=True):
        write_csv(path, pd.DataFrame(made, columns=NETWORK_COLUMNS), collect())
    figures, report = tmp_path / "traffic.json", tmp_path / "traffic.md"
    compare_network_traffic(tables, make_config(), "snakemake traffic", figures, report)
    found = json.loads(figures.read_text())["figures"]
    assert found["traffic_network_factor"]["value"] == 1.0
    assert found["traffic_network_factor_alone"]["value"] == 4.0
    assert "goals 1.1 and 1.25: met" in report.read_text()


def test_a_network_that_cannot_be_simulated_has_an_empty_table_and_a_line_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> Any:
        raise LookupError("layer structure conv-1 has no versions")

    (tmp_path / "net.onnx").write_text("made up")
    monkeypatch.setattr(traffic_steps, "build_without_fma", fail)
    write_network_traffic(tmp_path / "net.onnx", tmp_path, tmp_path, tmp_path / "net.csv")
    assert list(read_csv(tmp_path / "net.csv")) == NETWORK_COLUMNS
    assert "net is not compared with callgrind: layer structure conv-1" in capsys.readouterr().out


def test_without_valgrind_the_table_is_empty_and_a_line_says_why(
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any) -> pd.DataFrame:
        raise CachegrindError("valgrind is not installed; install it")

    monkeypatch.setattr(traffic_steps, "check_traffic", fail)
    table = written(models, tmp_path)
    assert list(table) == COLUMNS and table.empty
    assert "not compared with cachegrind: valgrind is not installed" in capsys.readouterr().out
