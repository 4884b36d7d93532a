"""The page of results: made of what runs wrote, and nothing else."""

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.evaluation.claim_tables import capacities
from tests.support.evaluation.measured_tables import metric_tables
from veltair.evaluation.experiment.layout import SHIPPED_STUDY
from veltair.evaluation.experiment.tables_io import write_csv
from veltair.evaluation.metrics.policies_table import NONE
from veltair.evaluation.reports.results_page import (
    CAPACITY,
    LAYER_TIMES,
    NOT_RECORDED,
    SOURCES,
    read_recorded,
    results_page,
    write_results_page,
)
from veltair.provenance import Provenance, ProvenanceError, collect, write_json

DOCS = Path(__file__).parents[3] / "docs"


def provenance(**changes: Any) -> Provenance:
    values = collect(command="script.py").as_dict()
    values |= {"commit": "0123456789abcdef", "dirty": False, "cpu": "Some CPU", "cores": (0, 1)}
    values |= {
        "caches": {"L2 Unified": "512K", "L3 Unified": "16384K"},
        "time_utc": "2026-01-02T03:04:05+00:00",
    }
    return Provenance(**{**values, **changes})


def figure(value: float, command: str = "snakemake --cores all benchmarks_engine") -> dict[str, Any]:
    samples = [value, value - 1, value + 1]
    return {"value": value, "unit": "µs; a | b", "samples": samples, "command": command}


def benchmark(folder: Path, name: str, figures: dict[str, Any], **changes: Any) -> Path:
    path = folder / f"{name}.json"
    write_json(path, {"figures": figures}, provenance(**changes))
    return path


def page_of(*paths: Path) -> str:
    return results_page([read_recorded(path) for path in paths])


def section(page: str, title: str) -> str:
    return page.partition(f"## {title}\n")[2].partition("\n## ")[0]


def tables_in(text: str) -> list[list[str]]:
    """Return the tables of a page, each as its lines."""
    blocks = [block.splitlines() for block in text.split("\n\n")]
    return [block for block in blocks if block and block[0].startswith("|")]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")]


def test_the_page_in_docs_is_what_the_recorded_files_give(tmp_path: Path) -> None:
    made = tmp_path / "results.md"
    write_results_page(DOCS / "results", SHIPPED_STUDY, made)
    assert made.read_text() == (DOCS / "results.md").read_text()


def test_layer_times_are_left_to_their_own_page(tmp_path: Path) -> None:
    write_csv(tmp_path / LAYER_TIMES, pd.DataFrame({"model": ["small"]}), provenance())
    write_results_page(tmp_path, SHIPPED_STUDY, tmp_path / "results.md")
    assert f"`{LAYER_TIMES}`" not in (tmp_path / "results.md").read_text()


def test_no_recorded_file_names_a_place_on_the_machine_that_made_it() -> None:
    for path in (DOCS / "results").rglob("*.json"):
        assert str(DOCS.parent) not in path.read_text()
        for name in json.loads(path.read_text()).get("inputs", ()):
            assert not os.path.isabs(name), (path, name)  # noqa: PTH117


def test_a_number_stands_with_unit_count_and_spread_of_its_samples(tmp_path: Path) -> None:
    page = page_of(benchmark(tmp_path, "engine", {"start_us": figure(7.0)}))
    header, _, row = tables_in(section(page, SOURCES["engine"].title))[0]
    assert cells(header) == ["quantity", "value", "unit", "n", "samples, least to largest, or 95 % interval"]
    assert cells(row) == ["`start_us`", "7", "µs; a ¦ b", "3", f"6{NONE}8"]


def test_a_number_with_an_interval_stands_with_it(tmp_path: Path) -> None:
    served = figure(7.0) | {"samples": [7.0], "interval": [6.0, None]}
    page = page_of(benchmark(tmp_path, "engine", {"served_qps": served}))
    (row,) = tables_in(section(page, SOURCES["engine"].title))[0][2:]
    assert cells(row) == ["`served_qps`", "7", "µs; a ¦ b", "1", f"6 to {NONE}"]


def test_measured_capacities_stand_with_their_intervals_or_as_bounds(tmp_path: Path) -> None:
    path = tmp_path / "measured.csv"
    write_csv(path, metric_tables()["measured_capacity"], provenance())
    text = section(page_of(path), SOURCES["measured"].title)
    assert "host, measured here. Queries/s; intervals over 5 rounds:" in text
    rows = {cells(row)[1]: cells(row) for row in tables_in(text)[0][2:]}
    assert rows["Bad"][2:] == ["< 10", "0 to 10"]
    assert rows["Good"][2:] == ["> 40", "40 or more"]
    assert rows["Planaria"][3].count(" to ") == 1


def test_the_command_machine_date_and_commit_stand_above_the_table(tmp_path: Path) -> None:
    page = page_of(benchmark(tmp_path, "engine", {"start_us": figure(7.0)}))
    text = section(page, SOURCES["engine"].title).partition("|")[0]
    assert "```bash\nsnakemake --cores all benchmarks_engine\n```" in text
    assert "2026-01-02, on 2 cores of Some CPU (L3 16384K), commit 0123456789ab. File: `engine.json`." in text


def test_code_that_was_not_committed_is_told(tmp_path: Path) -> None:
    page = page_of(benchmark(tmp_path, "engine", {"start_us": figure(7.0)}, dirty=True))
    assert "commit 0123456789ab, with changes that are not committed" in page


def test_numbers_of_two_commands_stand_in_two_tables(tmp_path: Path) -> None:
    figures = {"a": figure(1.0), "b": figure(2.0, "snakemake --cores all other")}
    page = page_of(benchmark(tmp_path, "engine", figures))
    first, second = tables_in(section(page, SOURCES["engine"].title))
    assert (cells(first[2])[0], cells(second[2])[0]) == ("`a`", "`b`")


def test_runs_of_two_machines_are_never_in_one_table(tmp_path: Path) -> None:
    small = benchmark(tmp_path / "small", "engine", {"start_us": figure(7.0)})
    large = benchmark(tmp_path / "large", "engine", {"start_us": figure(9.0)}, cpu="Large CPU")
    text = section(page_of(small, large), SOURCES["engine"].title)
    assert [[cells(line)[1] for line in table[2:]] for table in tables_in(text)] == [["7"], ["9"]]
    assert text.index("Some CPU") < text.index("| 7") < text.index("Large CPU") < text.index("| 9")


def test_what_was_not_recorded_says_which_command_makes_it() -> None:
    page = results_page([])
    for source in SOURCES.values():
        assert section(page, source.title).strip() == f"{NOT_RECORDED} It is made by `{source.command}`."


def test_a_benchmark_of_another_name_has_a_section_of_its_own(tmp_path: Path) -> None:
    page = page_of(benchmark(tmp_path, "mine", {"a": figure(1.0, "python mine.py")}))
    assert "```bash\npython mine.py\n```" in section(page, "mine")


def test_an_edited_number_is_refused(tmp_path: Path) -> None:
    path = benchmark(tmp_path, "engine", {"start_us": figure(7.0)})
    path.write_text(path.read_text().replace("7.0", "0.7"))
    with pytest.raises(ProvenanceError, match=r"produce it anew"):
        read_recorded(path)


def test_a_file_that_is_no_result_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    write_json(path, {"a": 1}, provenance())
    with pytest.raises(ValueError, match=r"other\.json is neither a benchmark .* nor judged claims"):
        page_of(path)


def test_a_claim_stands_beside_the_papers_value_and_says_unvalidated(tmp_path: Path) -> None:
    claim = {"id": "qps", "statement": "more", "paper_value": 1.5, "unit": "", "validated": False}
    judged = {**claim, "mean": 0.7, "low": 0.6, "high": 0.8, "count": 5, "verdict": "DEVIATES"}
    unknown = {**claim, "mean": None, "low": None, "high": None, "count": 0, "verdict": "NOT COMPUTED"}
    path = tmp_path / "shipped_claims.json"
    write_json(path, {"claims": [judged, unknown]}, provenance())
    rows = tables_in(section(page_of(path), SOURCES["shipped_claims"].title))[0][2:]
    assert cells(rows[0]) == ["`qps`", "more", "1.5", "0.7", "0.6 to 0.8", "5", "DEVIATES, UNVALIDATED"]
    assert cells(rows[1]) == ["`qps`", "more", "1.5", NONE, NONE, "0", "NOT COMPUTED"]


def test_answers_of_one_seed_stand_as_the_search_left_them(tmp_path: Path) -> None:
    path = tmp_path / "make.csv"
    seeds = {("mix", "Planaria"): [10.0], ("mix", "Open"): [4.0], ("mix", "None"): [0.0]}
    table = capacities(seeds, queries=100, fluid_qps=20.0, resolution=0.01, unservable=False)
    table.loc[table["policy"] == "Open", "high_qps"] = float("inf")
    write_csv(path, table, provenance())
    rows = tables_in(section(page_of(path), SOURCES["make"].title))[0][2:]
    assert [cells(row)[1] for row in rows] == ["10", "≥ 4", "< 1"]


def test_a_capacity_is_a_mean_over_seeds_or_says_why_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / CAPACITY
    seeds = {("light", "Planaria"): [10.0, 12.0], ("light", "Mine"): [5.0, 0.0], ("mix", "Mine"): [1.0, 1.0]}
    table = capacities(seeds, queries=100, fluid_qps=20.0, resolution=0.01)
    write_csv(path, table.assign(unservable=table["qps_at_95"] == 0), provenance())
    text = section(page_of(path), SOURCES["capacity_seeds"].title)
    header, _, *rows = tables_in(text)[0]
    assert "threadripper-3990x, simulated: UNVALIDATED" in text
    assert cells(header) == ["policy", "light", "mix"]
    # 11 +- 12.706 (t at 97.5 %, 1 degree of freedom) x sqrt(2) / sqrt(2)
    assert cells(rows[0]) == ["Planaria", "11 ± 12.7", "not run"]
    assert cells(rows[1]) == ["Mine", "unservable, 1 of 2 seeds", "1 ± 0"]
