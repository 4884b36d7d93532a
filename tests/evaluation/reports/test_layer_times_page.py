"""The page of layer times: made of what a run wrote, and nothing else."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from veltair.evaluation.experiment.tables_io import write_csv
from veltair.evaluation.metrics.policies_table import NONE
from veltair.evaluation.reports.layer_times_page import (
    COMMAND,
    LISTED,
    layer_times_page,
    write_layer_times_page,
)
from veltair.evaluation.reports.results_page import LAYER_TIMES, NOT_RECORDED, read_recorded
from veltair.provenance import ProvenanceError, collect

DOCS = Path(__file__).parents[3] / "docs"


def row(group: str, ours_s: float, theirs_s: float, **changes: Any) -> dict[str, Any]:
    values = {"model": "small", "cores": 1, "group": group, "layers": 1, "nodes": 1, "macs": 0}
    return {**values, "ours_s": ours_s, "onnxruntime_s": theirs_s, "lost_s": ours_s - theirs_s, **changes}


def between(ours_s: float, theirs_s: float, **changes: Any) -> dict[str, Any]:
    return row("between kernels", ours_s, theirs_s, layers=0, nodes=0, **changes)


def recorded(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / LAYER_TIMES
    write_csv(path, pd.DataFrame(rows), collect(command="script.py"))
    return path


def page_of(folder: Path, rows: list[dict[str, Any]]) -> str:
    return layer_times_page([read_recorded(recorded(folder, rows))])


def tables(page: str) -> list[list[list[str]]]:
    """Return the tables of a page without their headers, each as the cells of its rows."""
    blocks = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in block[2:]] for block in blocks]


def test_the_page_in_docs_is_what_the_recorded_files_give(tmp_path: Path) -> None:
    made = tmp_path / "layer_times.md"
    write_layer_times_page(DOCS / "results", made)
    assert made.read_text() == (DOCS / "layer_times.md").read_text()


def test_what_was_not_recorded_says_which_command_makes_it() -> None:
    assert layer_times_page([]).endswith(f"{NOT_RECORDED} It is made by `{COMMAND}`.\n")


def test_groups_stand_by_lost_time_then_what_is_between_then_all(tmp_path: Path) -> None:
    rows = [
        row("layout", 0.001, 0.0, nodes=0),
        row("3x3 8x8x16 → 16", 0.006, 0.003, macs=150_000_000, layers=2),
        between(0.001, 0.005),
        row("softmax", 0.002, 0.004),
    ]
    assert tables(page_of(tmp_path, rows))[1] == [
        ["3x3 8x8x16 → 16", "2", "0.15", "6", "3", "3", "60 %", "50", "100"],
        ["layout", "1", NONE, "1", "0", "1", "10 %", NONE, NONE],
        ["softmax", "1", NONE, "2", "4", "-2", "20 %", NONE, NONE],
        ["between kernels", "0", NONE, "1", "5", "-4", "10 %", NONE, NONE],
        ["**all**", "4", "0.15", "10", "12", "-2", "100 %", "30", "25"],
    ]


def test_many_groups_end_in_one_row_of_the_rest(tmp_path: Path) -> None:
    rows = [row(f"kind {number}", 0.001 * (20 - number), 0.0) for number in range(LISTED + 2)]
    table = tables(page_of(tmp_path, [*rows, between(0.001, 0.0)]))[1]
    assert [cells[0] for cells in table] == [
        *(f"kind {number}" for number in range(LISTED)),
        *("the rest: 2 groups", "between kernels", "**all**"),
    ]
    # 20 - 12 and 20 - 13 ms.
    assert table[LISTED][3] == "15"


def test_one_group_more_is_listed_and_no_rest(tmp_path: Path) -> None:
    rows = [row(f"kind {number}", 0.001, 0.0) for number in range(LISTED + 1)]
    assert "the rest" not in page_of(tmp_path, [*rows, between(0.001, 0.0)])


def test_each_model_has_a_table_for_each_count_of_cores_and_a_line_for_it_in_the_overview(
    tmp_path: Path,
) -> None:
    rows = [
        *(row("softmax", 0.004, 0.002), between(0.002, 0.004)),
        *(row("softmax", 0.003, 0.001, cores=2), between(0.001, 0.001, cores=2)),
        *(row("layout", 0.001, 0.001, model="large"), between(0.001, 0.001, model="large")),
    ]
    page = page_of(tmp_path, rows)
    overview, *groups = tables(page)
    assert overview == [
        ["small", "1", "6", "6", "1", "softmax", "2"],
        ["small", "2", "4", "2", "0.5", "softmax", "2"],
        ["large", "1", "2", "2", "1", "layout", "0"],
    ]
    assert len(groups) == 3
    assert (
        page.index("## small") < page.index("On 1 core:") < page.index("On 2 cores:") < page.index("## large")
    )


def test_command_and_origin_stand_above_the_tables(tmp_path: Path) -> None:
    text = page_of(tmp_path, [row("softmax", 0.1, 0.1), between(0.1, 0.1)]).partition("## All models")[2]
    assert f"```bash\n{COMMAND}\n```" in text.partition("|")[0]
    assert f"File: `{LAYER_TIMES}`." in text.partition("|")[0]


def test_an_edited_number_is_refused(tmp_path: Path) -> None:
    path = recorded(tmp_path, [row("softmax", 0.25, 0.1)])
    path.write_text(path.read_text().replace("0.25", "0.05"))
    with pytest.raises(ProvenanceError, match="produce it anew"):
        write_layer_times_page(tmp_path, tmp_path / "page.md")
