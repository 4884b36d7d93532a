from pathlib import Path

import pandas as pd
import pytest

from tests.support.evaluation.premise_tables import made_up_times
from veltair.evaluation.versions.premise import analyse
from veltair.evaluation.versions.premise_report import premise_markdown, write_premise
from veltair.provenance import collect, write_parquet


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return made_up_times(local_slowdown=1.5)


@pytest.fixture(scope="module")
def written(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("premise")
    write_parquet(folder / "times.parquet", table, collect({}))
    for name in ("one", "other"):
        write_premise(folder / "times.parquet", folder / f"{name}.md", folder / name, ["png", "svg"])
    return folder


def test_the_first_words_are_the_verdict(table: pd.DataFrame) -> None:
    text = premise_markdown(analyse(table), table, "some CPU")
    assert text.splitlines()[2].startswith("**Supported on this machine.**")


def test_no_effect_is_reported_as_plainly(table: pd.DataFrame) -> None:
    none = made_up_times(local_slowdown=1.0)
    assert "**Not supported on this machine.**" in premise_markdown(analyse(none), none, "some CPU")


def test_every_number_has_its_interval_and_count(table: pd.DataFrame) -> None:
    text = premise_markdown(analyse(table), table, "some CPU")
    (row,) = [line for line in text.splitlines() if line.startswith("| a core that reads DRAM")]
    assert row.count("[") == 4
    assert "n = 12" in row
    assert "n = 6" in row


def test_it_says_what_was_measured_where(table: pd.DataFrame) -> None:
    text = premise_markdown(analyse(table), table, "some CPU")
    assert "some CPU" in text
    assert "net; 12 structures, 6 fresh processes, 3 runs of each version in each" in text


def test_text_and_figure_are_written(written: Path) -> None:
    assert (written / "one.md").read_text().startswith("# Do parallel versions")
    assert (written / "one.png").stat().st_size > 10_000


@pytest.mark.parametrize("form", ["png", "svg", "md"])
def test_equal_times_give_equal_files(written: Path, form: str) -> None:
    assert (written / f"one.{form}").read_bytes() == (written / f"other.{form}").read_bytes()
