from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.support.evaluation.isolation_tables import equal_drops_table, neighbour_table
from tests.support.evaluation.measured_tables import metric_tables
from tests.support.evaluation.plot_tables import (
    conflict_table,
    corun_table,
    cost_table,
    fidelity_table,
    granularity_table,
    need_table,
    rate_table,
    scale_table,
    seed_table,
    sensitivity_table,
    slowdown_table,
    target_table,
)
from veltair.evaluation.reports import paper_figures
from veltair.evaluation.reports.paper_figures import PAPER_FIGURES, draw_paper_figure


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all tables that figures are drawn from, small."""
    seeds = seed_table(["Planaria", "Veltair-FULL"], [1, 2], ["mix"])
    tables = {
        "capacity_seeds": seeds,
        "rates": rate_table(seeds),
        "targets": target_table(),
        "granularity": granularity_table([1]),
        "conflicts": conflict_table(),
        "core_need": need_table(["resnet50"]),
        "slowdown": slowdown_table(["resnet50"]),
        "sensitivity": sensitivity_table([1, 2]),
        "scale": scale_table([1]),
        "noisy_neighbour": neighbour_table(["Planaria"], [1]),
        "equal_drops": equal_drops_table(seeds),
        "fidelity": fidelity_table(),
        "cost_fit": cost_table(["resnet50"]),
        "corun_fit": corun_table(),
        **metric_tables(),
    }
    made = tmp_path_factory.mktemp("tables")
    for name, table in tables.items():
        table.to_csv(made / f"{name}.csv", index=False)
    return made


@pytest.mark.parametrize("name", PAPER_FIGURES)
def test_a_figure_drawn_twice_from_its_tables_has_the_same_bytes(
    name: str, folder: Path, tmp_path: Path
) -> None:
    (once,), (again,) = (draw_paper_figure(name, folder, tmp_path / part, ["svg"]) for part in ("a", "b"))
    assert once.read_bytes() == again.read_bytes()


def test_a_figure_is_written_in_each_format(folder: Path, tmp_path: Path) -> None:
    written = draw_paper_figure("paper_corun_fit", folder, tmp_path, ["png", "svg"])
    assert [path.name for path in written] == ["paper_corun_fit.png", "paper_corun_fit.svg"]


def test_the_paper_s_own_ratios_are_drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(
        paper_figures, "paper_ratio_figure", lambda *given: drawn.append(given[-2]) or Figure()
    )
    draw_paper_figure("paper_ratio", folder, folder, ["svg"])
    assert drawn == [{"light": 1.71, "medium": 1.62, "heavy": 1.45}]


def test_an_unknown_figure_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="choose from measured, paper_qps, paper_ratio"):
        draw_paper_figure("paper_speed", tmp_path, tmp_path, ["png"])


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"capacity_seeds\.csv is missing"):
        draw_paper_figure("paper_qps", tmp_path, tmp_path, ["png"])
