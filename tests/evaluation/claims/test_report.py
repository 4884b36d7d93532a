import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.support.evaluation.claim_tables import (
    SOURCE,
    capacities,
    capacity_ratio,
    claim,
    rates,
    sensitivity,
)
from veltair.evaluation.__main__ import main
from veltair.evaluation.claims.report import claims_markdown, counts, write_claims
from veltair.evaluation.claims.rules import Claim, Verdict
from veltair.evaluation.claims.values import JudgedClaim
from veltair.provenance import read_provenance

GOLDEN = Path(__file__).parents[2] / "golden" / "claims.md"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder of results from which one claim of each verdict is judged, with the claims themselves."""
    full, planaria, layers = "Veltair-FULL", "Planaria", "LayerWise"
    capacity = capacities(
        {
            ("mix", full): [160.0, 165.0],
            ("mix", planaria): [100.0, 100.0],
            ("mix", layers): [20.0, 20.0],
            ("heavy", full): [110.0, 110.0],
            ("heavy", planaria): [100.0, 101.0],
            ("light", full): [130.0],
            ("light", planaria): [100.0],
        }
    )
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    latencies = {(full, 50): [0.03, 0.03], (planaria, 50): [0.05, 0.05]}
    tables = {
        "capacity_seeds": capacity,
        "rates": rates(latencies),
        "sensitivity": sensitivity({0: 1.7, 55: 1.6, 200: 1.1}, default=55),
    }
    for name, table in tables.items():
        table.to_csv(metrics / f"{name}.csv", index=False)
    (tmp_path / "benchmarks").mkdir()
    figure = {"value": 7.9, "samples": [7.9]}
    document = {"figures": {"anchor_ms": figure}}
    (tmp_path / "benchmarks" / "validation.json").write_text(json.dumps(document))
    values = [one.model_dump(mode="json", exclude_none=True) for one in made_up_claims()]
    text = yaml.safe_dump({"source": SOURCE.model_dump(), "claims": values})
    (tmp_path / "claims.yaml").write_text(text)
    return tmp_path


def made_up_claims() -> list[Claim]:
    latency = {**capacity_ratio(), "kind": "latency_ratio", "load": 0.5}
    anchor = {"kind": "benchmark", "file": "validation", "figure": "anchor_ms", "modelled": True}
    missing = {"kind": "benchmark", "file": "compiler", "figure": "single_pass_ratio"}
    return [
        claim(id="qps-mix", metric=capacity_ratio(beside="LayerWise")),
        claim(id="qps-heavy", metric=capacity_ratio(workload="heavy")),
        claim(id="qps-light", metric=capacity_ratio(workload="light")),
        claim(id="latency-mix", statement="half the latency", metric=latency, value=0.5, accepted=[0, 0.75]),
        claim(id="ms", metric=anchor, rule="anchor", value=6, accepted=[4.5, 7.5], precision=0.5, unit="ms"),
        claim(id="passes", metric=missing, value=0.2, accepted=[0, 0.6], command="make x", minutes=None),
    ]


def judge(run: Path) -> list[JudgedClaim]:
    return write_claims(run / "metrics", run / "benchmarks", run / "claims.md", run / "claims.yaml")


def test_one_claim_of_each_kind_is_judged_as_worked_by_hand(run: Path) -> None:
    found = {one.claim.id: (one.verdict, one.fragile) for one in judge(run)}
    assert found == {
        "qps-mix": (Verdict.PASS, True),  # 1.6 and 1.65; at 200 µs 1.1
        "qps-heavy": (Verdict.DEVIATES, False),  # 1.1 and 1.089; nothing was varied for it
        "qps-light": (Verdict.WITHIN, False),  # one seed, 1.3; nothing was varied for it
        "latency-mix": (Verdict.WITHIN, False),  # 0.6 twice: four fifths of the effect
        "ms": (Verdict.DEVIATES, False),
        "passes": (Verdict.NOT_COMPUTED, False),
    }


def test_the_page_is_the_golden_one(run: Path) -> None:
    judge(run)
    assert (run / "claims.md").read_text() == GOLDEN.read_text()


def test_a_deviation_is_printed_as_large_as_a_pass(run: Path) -> None:
    text = claims_markdown(judge(run), SOURCE)
    first = next(line for line in text.splitlines() if "PASS" in line)
    assert "**1 PASS**" in first
    assert "**2 DEVIATES**" in first
    assert "| **DEVIATES**" in text


def test_a_class_that_nothing_was_varied_for_is_said_to_be_unexamined(run: Path) -> None:
    text = claims_markdown(judge(run), SOURCE)
    (line,) = [line for line in text.splitlines() if line.startswith("- `qps-heavy`")]
    assert line.endswith("not examined for this class, as varied for mix only: cost of a start")
    assert "whether it is fragile was not examined for this class" in next(
        row for row in text.splitlines() if row.startswith("| `qps-light`")
    )


def test_the_json_says_the_same_as_the_page(run: Path) -> None:
    judged = judge(run)
    document = json.loads((run / "claims.json").read_text())
    assert document["counts"] == counts(judged)
    assert [one["verdict"] for one in document["claims"]] == [str(one.verdict) for one in judged]
    assert document["claims"][0]["accepted"] == [1.25, None]
    read_provenance(run / "claims.json")


def test_the_command_judges_a_folder_of_results(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["--results", str(run), "--benchmarks", str(run / "benchmarks")]
    assert main(["claims", *folders, "--claims", str(run / "claims.yaml")]) == 0
    assert capsys.readouterr().out.startswith("1 PASS, 2 WITHIN, 2 DEVIATES, 1 NOT COMPUTED, 1 FRAGILE")


def test_another_machine_can_be_judged(run: Path) -> None:
    folders = ["--results", str(run), "--benchmarks", str(run / "benchmarks")]
    assert main(["claims", *folders, "--claims", str(run / "claims.yaml"), "--machine", "mine"]) == 0
    verdicts = [one["verdict"] for one in json.loads((run / "claims.json").read_text())["claims"]]
    assert verdicts[:4] == ["NOT COMPUTED"] * 4


def test_claims_that_are_wrong_end_the_command_with_2(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "claims.yaml").write_text("claims: []")
    assert main(["claims", "--results", str(run), "--claims", str(run / "claims.yaml")]) == 2
    assert "is not a file of claims" in capsys.readouterr().err


def test_a_run_that_has_written_nothing_yet_has_every_claim_not_computed(tmp_path: Path) -> None:
    judged = write_claims(tmp_path / "metrics", tmp_path / "benchmarks", tmp_path / "claims.md")
    assert {one.verdict for one in judged} == {Verdict.NOT_COMPUTED}
    assert "snakemake --cores all claims" in (tmp_path / "claims.md").read_text()


def test_empty_cells_of_a_table_are_no_reason_to_leave_a_run_out(run: Path) -> None:
    path = run / "metrics" / "capacity_seeds.csv"
    assert pd.read_csv(path)["invalid"].isna().all()
    assert judge(run)[0].verdict is Verdict.PASS
