"""The shipped tables of the study's full grid: whole, of the full protocol, and enough for every figure."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from tests.support.evaluation.figure_texts import overlaps
from veltair.config import load
from veltair.evaluation.claims.report import write_claims
from veltair.evaluation.experiment.layout import SHIPPED_STUDY, Layout
from veltair.evaluation.experiment.tables_io import read_csv
from veltair.evaluation.metrics.policies_table import PolicyOrder
from veltair.evaluation.reports.paper_figures import PAPER_FIGURES, draw_paper_figure
from veltair.provenance import read_provenance

CONFIGS = Path(__file__).parents[3] / "workflow" / "config"
CONFIG = load([CONFIGS / "many_core.yaml", CONFIGS / "paper_sim.yaml"])
LAYOUT = Layout(CONFIG)
ORDER = PolicyOrder(**LAYOUT.policy_order())
TABLES = sorted(SHIPPED_STUDY.glob("*.csv"))


def table(name: str) -> pd.DataFrame:
    return read_csv(SHIPPED_STUDY / f"{name}.csv")


@pytest.mark.parametrize("name", LAYOUT.redrawn())
def test_each_figure_is_drawn_from_them_and_no_text_covers_another_or_leaves_it(name: str) -> None:
    figure = PAPER_FIGURES[name]
    order = {"order": ORDER} if figure.of_policies else {}
    assert overlaps(figure.draw(*map(table, figure.tables), **order)) == []


def test_each_table_is_the_one_that_its_provenance_is_of() -> None:
    assert TABLES
    for path in TABLES:
        assert read_provenance(path).dirty is False


def test_the_policies_are_compared_on_all_workloads_and_seeds_of_the_protocol() -> None:
    simulated = CONFIG.simulated
    seeds = table("capacity_seeds")
    found = set(zip(seeds["workload"], seeds["policy"], seeds["seed"], strict=True))
    expected = {
        (workload, policy, seed)
        for workload in simulated.workloads
        for policy in LAYOUT.compared
        for seed in simulated.seeds
    }
    assert found == expected
    assert set(seeds["machine"]) == {CONFIG.study.machine}


def test_every_assumption_was_varied_as_the_protocol_says() -> None:
    rows = table("sensitivity")
    found = set(zip(rows["assumption"], rows["seed"], strict=True))
    varied = CONFIG.sensitivity.values()
    assert found == {(assumption.title, seed) for assumption in varied for seed in CONFIG.study.seeds}
    assert table("scale")["cores"].nunique() == len(CONFIG.study.scale)


def test_the_claims_can_be_judged_by_them(tmp_path: Path) -> None:
    judged = write_claims(SHIPPED_STUDY, tmp_path, tmp_path / "claims.md")
    assert sum(one.verdict != "NOT COMPUTED" for one in judged) > len(judged) / 2


def test_the_picture_of_the_readme_is_the_one_that_they_give(tmp_path: Path) -> None:
    name = "paper_qps"
    shown = CONFIGS.parents[1] / "docs" / "images" / f"{name}.png"
    (drawn,) = draw_paper_figure(name, SHIPPED_STUDY, tmp_path, ["png"], ORDER)
    old, new = imread(shown), imread(drawn)
    assert old.shape == new.shape
    assert np.abs(old - new).mean() < 1e-3  # of a scale from 0 to 1
