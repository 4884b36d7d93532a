import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.support.evaluation.plot_tables import rate_table, seed_table, target_table
from veltair.evaluation.figures.policy_plots import paper_qps_figure
from veltair.evaluation.figures.save import save


def figure() -> Figure:
    seeds = seed_table(["Planaria", "Veltair-FULL"], [1, 2], ["mix"])
    return paper_qps_figure(seeds, rate_table(seeds), target_table())


def test_the_same_figure_has_the_same_bytes(tmp_path: Path) -> None:
    written = [
        [path.read_bytes() for path in save(figure(), tmp_path / name, ("png", "svg", "pdf"))]
        for name in ("first", "second")
    ]
    assert written[0] == written[1]


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    here = save(figure(), tmp_path / "here")
    program = (
        "import sys; from pathlib import Path; from tests.evaluation.figures import test_save as t\n"
        "t.save(t.figure(), Path(sys.argv[1]))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "there")], check=True, env=environment)
    for path in here:
        assert path.read_bytes() == path.with_name(f"there{path.suffix}").read_bytes()


def test_files_carry_no_date(tmp_path: Path) -> None:
    svg = save(figure(), tmp_path / "qps", ("svg",))[0].read_text()
    assert "<dc:date>" not in svg


def test_a_stem_may_hold_a_dot(tmp_path: Path) -> None:
    paths = save(figure(), tmp_path / "load-0.7")
    assert [path.name for path in paths] == ["load-0.7.png", "load-0.7.svg"]


def test_a_write_that_fails_leaves_the_old_figure_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(target: Path, _content: bytes) -> None:
        target.write_bytes(b"half")
        raise OSError("no space left on device")

    (tmp_path / "qps.png").write_bytes(b"old")
    monkeypatch.setattr("veltair.provenance._write_through", full_disk)
    with pytest.raises(OSError, match="no space"):
        save(figure(), tmp_path / "qps")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("qps.png", b"old")]


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose from png, svg, pdf"):
        save(figure(), tmp_path / "qps", ("png", "gif"))
    assert list(tmp_path.iterdir()) == []
