"""The page of operators lists them all, and says of each what an import of ONNX's own tests says."""

from pathlib import Path

import pytest

from veltair.compiler.operator_table import (
    WORDS,
    OperatorRow,
    in_words,
    operator_table,
    page,
    standard_operators,
)

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


def rows() -> dict[str, list[str]]:
    """Return the cells of the page by operator."""
    cells = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return {first: rest for first, *rest in cells if first not in ("operator", "---")}


def test_the_page_lists_every_operator_of_the_standard_domain() -> None:
    assert list(rows()) == standard_operators()
    assert {"Conv", "LSTM", "Attention", "RMSNormalization"} <= set(standard_operators())


def test_each_operator_is_right_or_refused_with_a_reason() -> None:
    for name, line in rows().items():
        right, refused, why = [*line, "", ""][:3]
        assert right or why, name
        assert bool(refused.strip()) <= bool(why.strip()), name


@pytest.mark.parametrize("operator", ["Celu", "Max", "Squeeze", "TopK"])
def test_a_row_says_what_an_import_says(operator: str) -> None:
    (row,) = operator_table(only=[operator])
    assert f"{row}\n" in PAGE.read_text()


@pytest.mark.long
def test_the_page_is_what_a_new_table_says() -> None:
    assert PAGE.read_text() == page(operator_table())


def test_a_row_counts_and_gives_the_reasons_most_frequent_first() -> None:
    row = OperatorRow("Frob", right=2)
    row.refused.update(["empty tensors", "it computes nothing", "empty tensors"])
    assert str(row) == "| Frob | 2 | 3 | empty tensors; it computes nothing |"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "test: operator TopK of node n is not supported: TVM has no kernel for it. Replace it",
            "TVM has no kernel for it",
        ),
        ("test: input x is UINT8; export the model", "inputs of other types than float32, int32, int64"),
        ("test: node n (Div) divides by a constant 0; mend it", "it divides by a constant 0; mend it"),
        ("test: something else", "something else"),
    ],
)
def test_a_refusal_is_told_without_what_is_of_one_model(message: str, words: str) -> None:
    assert in_words(message) == words


def test_no_word_hides_another() -> None:
    assert len({pattern for pattern, _ in WORDS}) == len(WORDS)
