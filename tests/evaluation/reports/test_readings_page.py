"""The page of the readings: made of what a run wrote, and nothing else."""

from pathlib import Path
from typing import Any

import pandas as pd

from veltair.evaluation.experiment.tables_io import write_csv
from veltair.evaluation.reports.readings_page import (
    COMMAND,
    draw_readings,
    readings_page,
    write_readings_page,
)
from veltair.evaluation.reports.results_page import NOT_RECORDED, READINGS, read_recorded
from veltair.provenance import collect

DOCS = Path(__file__).parents[3] / "docs"


def row(alpha: float, growth: bool, qps: float, **changes: Any) -> dict[str, Any]:
    values = {"backend": "simulator", "machine": "toy", "validated": False, "workload": "mix"}
    values |= {"policy": "Veltair-FULL", "against": "Planaria", "seed": 1, "queries": 100, "qps": qps}
    values |= {"against_qps": 10.0, "is_paper": alpha == 1.0 and not growth}
    return {**values, "alpha": alpha, "growth": growth, **changes}


ROWS = [row(1.0, False, 5.0), row(1.0, True, 15.0), row(0.6, False, 5.0), row(0.6, True, 15.5)]


def recorded(folder: Path) -> Path:
    path = folder / READINGS
    write_csv(path, pd.DataFrame(ROWS), collect(command="script.py"))
    return path


def cells(page: str, first: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_in_docs_is_what_the_recorded_file_gives(tmp_path: Path) -> None:
    made = tmp_path / "docs" / "readings.md"
    write_readings_page(DOCS / "results" / READINGS, made, tmp_path / "docs" / "images" / "readings.png")
    assert made.read_text() == (DOCS / "readings.md").read_text()


def test_it_names_what_matters_and_what_does_not(tmp_path: Path) -> None:
    page = readings_page(read_recorded(recorded(tmp_path)), "figure.png")
    assert "at least 10%: `growth` (100%); less than 2%: `alpha`" in page
    assert "The best value of each on average: `alpha: 0.6`, `growth: yes`" in page
    assert "2 of 4 readings are ahead in every workload. The highest ratio that any has: mix 1.55" in page
    assert "![Veltair-FULL over Planaria by the value of each option](figure.png)" in page


def test_the_best_reading_comes_first_and_the_papers_has_its_rank(tmp_path: Path) -> None:
    page = readings_page(read_recorded(recorded(tmp_path)), "figure.png")
    assert cells(page, "1") == ["1", "0.6", "yes", "1.55", "1.55"]
    assert cells(page, "3, preset `paper`") == ["3, preset `paper`", "1", "no", "0.5", "0.5"]


def test_what_was_not_recorded_says_which_command_makes_it(tmp_path: Path) -> None:
    write_readings_page(tmp_path / "none.csv", tmp_path / "page.md", tmp_path / "figure.png")
    assert (tmp_path / "page.md").read_text().endswith(f"{NOT_RECORDED} It is made by `{COMMAND}`.\n")
    assert not (tmp_path / "figure.png").exists()


def test_the_figure_of_a_run_is_drawn_in_the_formats_that_are_asked_for(tmp_path: Path) -> None:
    draw_readings(recorded(tmp_path), tmp_path / "figures", ["png", "svg"])
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["readings.png", "readings.svg"]
