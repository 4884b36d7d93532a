from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.traffic_tables import traffic_table
from veltair.compiler.build.build import LIBRARY, PLAN
from veltair.evaluation.experiment.tables_io import read_csv
from veltair.evaluation.validation import traffic_steps
from veltair.evaluation.validation.cachegrind import COLUMNS, CachegrindError
from veltair.evaluation.validation.traffic_steps import write_traffic
from veltair.provenance import read_provenance


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
