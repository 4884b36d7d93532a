import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.evaluation.traffic_tables import MIB, traffic_table
from tests.support.table_builders import make_config
from veltair.compiler.build.build import LIBRARY, PLAN
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
def build(tmp_path: Path) -> Path:
    for name in (PLAN, LIBRARY):
        (tmp_path / name).write_text("made up")
    return tmp_path


def test_the_table_reads_back_and_knows_which_kernels_it_is_of(
    build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = traffic_table((1, 2), (3, 4))
    monkeypatch.setattr(traffic_steps, "check_traffic", lambda *_: made)
    write_traffic({"net": build}, build, build / "traffic.csv")
    pd.testing.assert_frame_equal(read_csv(build / "traffic.csv"), made)
    assert {Path(name).name for name in read_provenance(build / "traffic.csv").inputs} == {PLAN, LIBRARY}


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
    build: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> pd.DataFrame:
        raise CachegrindError("valgrind is not installed; install it")

    monkeypatch.setattr(traffic_steps, "check_traffic", fail)
    write_traffic({"net": build}, build, build / "traffic.csv")
    table = read_csv(build / "traffic.csv")
    assert list(table) == COLUMNS and table.empty
    assert "not compared with cachegrind: valgrind is not installed" in capsys.readouterr().out
