"""The page that puts the study before beside the study now."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.evaluation.claim_tables import capacities
from veltair.evaluation.experiment.layout import SHIPPED_STUDY
from veltair.evaluation.reports.what_changed import (
    NOTHING,
    SET_BACK,
    changes,
    moved_claims,
    moved_orders,
    write_what_changed,
)
from veltair.provenance import ProvenanceError

DOCS = Path(__file__).parents[3] / "docs"
OLD = {("mix", "Planaria"): [10.0, 12.0], ("mix", "Mine"): [5.0, 6.0], ("mix", "Same"): [10.0, 12.0]}
NEW = {("mix", "Planaria"): [20.0, 24.0], ("mix", "Mine"): [30.0, 36.0], ("mix", "Same"): [20.0, 24.0]}


def claim(**changed: Any) -> dict[str, Any]:
    values = {"id": "qps", "statement": "more", "paper_value": 1.5, "mean": 0.7}
    return {**values, "verdict": "DEVIATES", "fragile": False, **changed}


def sensitivity_rows() -> pd.DataFrame:
    """Return capacities at the defaults of now (40, 20) and with one key set back (20, 10), two seeds."""
    rows = capacities({("mix", "Planaria"): [30.0, 50.0], ("mix", "Mine"): [20.0, 20.0]})
    title, label = SET_BACK[0]
    usual = rows.assign(assumption=title, label="on", is_default=True)
    back = rows.assign(assumption=title, label=label, is_default=False, qps_at_95=rows["qps_at_95"] / 2)
    return pd.concat([usual, back], ignore_index=True)


def page() -> str:
    tables = (capacities(OLD), capacities(NEW))
    claims = ({"qps": claim()}, {"qps": claim(mean=1.6, verdict="PASS")})
    return "\n".join(changes(*tables, *claims, sensitivity_rows()))


def cells(text: str, first: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(f"| {first} ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_page_in_docs_is_what_the_recorded_files_give(tmp_path: Path) -> None:
    claims = DOCS / "results" / "shipped_claims.json"
    write_what_changed(DOCS / "what-changed", SHIPPED_STUDY, claims, tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == (DOCS / "what-changed.md").read_text()


def test_an_edited_table_of_before_is_refused(tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    for file in (DOCS / "what-changed").iterdir():
        (before / file.name).write_bytes(file.read_bytes())
    table = before / "capacity_seeds.csv"
    table.write_text(table.read_text().replace("light", "heavy"))
    with pytest.raises(ProvenanceError, match="produce it anew"):
        write_what_changed(before, SHIPPED_STUDY, DOCS / "results" / "shipped_claims.json", tmp_path / "p.md")


def test_a_policy_that_came_to_be_ahead_of_the_reference_is_a_conclusion_that_moved() -> None:
    moved = list(moved_orders(capacities(OLD), capacities(NEW)))
    assert moved == [
        "mix: Mine was behind Planaria, and is ahead of it now.",
        "mix: most was served by Planaria, and is by Mine now.",
    ]


def test_a_side_that_the_seeds_do_not_tell_is_neither_ahead_nor_behind() -> None:
    unsure = capacities({**NEW, ("mix", "Mine"): [10.0, 60.0]})
    assert "mix: Mine was behind Planaria, and is not told from it now." in moved_orders(
        capacities(OLD), unsure
    )


def test_two_equal_studies_moved_nothing() -> None:
    same = capacities(OLD)
    text = "\n".join(changes(same, same, {"qps": claim()}, {"qps": claim()}, sensitivity_rows()))
    assert f"## Which conclusions moved\n\n{NOTHING}" in text


def test_a_verdict_that_is_another_one_moved_and_so_did_one_that_became_fragile() -> None:
    old = {"a": claim(), "b": claim(), "c": claim()}
    new = {"a": claim(verdict="PASS"), "b": claim(fragile=True), "c": claim(mean=0.9), "d": claim()}
    assert list(moved_claims(old, new)) == [
        "Claim `a` (more): DEVIATES before, PASS now.",
        "Claim `b` (more): DEVIATES before, DEVIATES, FRAGILE now.",
        "Claim `d` (more): not judged before, DEVIATES now.",
    ]


def test_capacities_ratios_and_claims_stand_side_by_side() -> None:
    text = page()
    assert cells(text, "Mine") == [
        ["Mine", "5.5 → 33 (6 times)"],
        ["Mine", "0.5 → 1.5"],
    ]
    assert cells(text, "`qps`") == [["`qps`", "1.5", "0.7", "1.6", "DEVIATES", "PASS", "**moved**"]]


def test_what_serves_nothing_has_no_factor() -> None:
    nothing = capacities({**OLD, ("mix", "Mine"): [0.0, 0.0]})
    text = "\n".join(changes(nothing, capacities(NEW), {}, {}, sensitivity_rows()))
    assert cells(text, "Mine")[0] == ["Mine", "unservable → 33"]


def test_one_key_set_back_is_a_quotient_of_means_over_seeds() -> None:
    title, label = SET_BACK[0]
    assert cells(page(), f"{title}: {label}") == [[f"{title}: {label}", "mix", "0.5 times", "0.5 times"]]
