"""The page about versions on many cores: its numbers, and the paragraph that follows from them."""

from pathlib import Path

from tests.support.choice_tables import choice_rows, layer_rows
from veltair.evaluation.experiment.layout import SHIPPED_STUDY
from veltair.evaluation.reports.premise_page import PICTURE, premise_page, write_premise_page

PAGE = Path(__file__).parents[3] / "docs" / "premise-many-core.md"
USUAL = ("as described", "", True)
STEEP, FLAT = ("steepness", "1.5", True), ("steepness", "0.5", True)
SLOW = ("bandwidth of DRAM", "0.25 times", False)
PAPER = {"light": 1.5, "heavy": 1.45}


def page(**gains: float) -> str:
    names = {"usual": USUAL, "steep": STEEP, "flat": FLAT, "slow": SLOW}
    return premise_page(choice_rows({names[name]: gain for name, gain in gains.items()}), layer_rows(), PAPER)


def table_rows(text: str, first: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(f"| {first} ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_page_in_docs_is_what_the_shipped_tables_give(tmp_path: Path) -> None:
    write_premise_page(SHIPPED_STUDY, tmp_path / "page.md", tmp_path)
    assert (tmp_path / "page.md").read_text() == PAGE.read_text()
    assert (tmp_path / f"{PICTURE}.png").exists()


def test_a_gain_stands_with_the_least_and_the_most_of_plausible_assumptions() -> None:
    found = table_rows(page(usual=0.1, steep=0.2, flat=0.04, slow=0.9), "light")
    hardest = next(row for row in found if row[1:3] == ["8", "1"])
    assert hardest[3:] == ["10", "4", "2", "20 %", "10 % [4 %, 20 %]", "15 %", "2 times"]


def test_each_assumption_has_a_row_that_says_whether_it_is_plausible() -> None:
    text = page(usual=0.1, steep=0.2, slow=0.9)
    assert table_rows(text, "bandwidth of DRAM") == [["bandwidth of DRAM", "0.25 times", "no", "90 %", "0 %"]]
    assert table_rows(text, "steepness") == [["steepness", "1.5", "yes", "20 %", "0 %"]]


def test_where_versions_gain_too_little_it_says_how_much_better_others_would_have_to_bear_it() -> None:
    text = page(usual=0.1, steep=0.2, slow=0.3)
    assert "too little under all of these" in text
    # Twice the time alone: to gain half, 2 / 1.5.
    assert "For 50 % others as fast alone would have to be slowed down no more than 1.33 times." in text
    assert "nearest comes bandwidth of DRAM 0.25 times: 30 %." in text


def test_where_a_machine_that_is_not_plausible_would_do_it_is_named() -> None:
    text = page(usual=0.1, slow=0.9)
    assert (
        "Of the machines that are not plausible these would do: bandwidth of DRAM 0.25 times: 90 %." in text
    )


def test_where_versions_gain_enough_it_says_so() -> None:
    assert "they gain 60 % (60 % to 60 % under plausible assumptions), enough." in page(usual=0.6)
    assert "enough under some of these." in page(usual=0.1, steep=0.7)


def test_the_fastest_version_of_a_layer_is_in_bold() -> None:
    layers = [row for row in table_rows(page(usual=0.1), "light") if row[2] == "3 conv2d" and row[3] == "8"]
    assert [row[4:] for row in layers] == [
        ["0", "**100**", "120"],
        ["0.5", "150", "**126**"],
        ["1", "200", "**132**"],
    ]
