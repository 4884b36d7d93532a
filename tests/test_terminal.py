import os
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from veltair.terminal import count, positive

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_a_command_prints_every_letter_whatever_the_locale(locale: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONIOENCODING"}
    done = subprocess.run(
        [sys.executable, "-m", "veltair.config", "workflow/config/many_core.yaml"],
        cwd=ROOT,
        env=environment | locale,
        capture_output=True,
        check=True,
    )
    assert "\N{GREEK SMALL LETTER ALPHA}" in done.stdout.decode("utf-8")


@pytest.mark.parametrize("text", ["1", "64", "007"])
def test_a_count_is_a_whole_number_of_1_or_more(text: str) -> None:
    assert count(text) == int(text)


@pytest.mark.parametrize("text", ["0", "-4", "1.5", "", "two", "1e3", "٣", "9" * 5000])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is not a whole number of 1 or more"):
        count(text)


def test_a_positive_number_may_have_any_form() -> None:
    assert [positive(text) for text in ("2", "0.5", "1e3")] == [2.0, 0.5, 1000.0]


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e999", "", "fast"])
def test_what_is_no_positive_number_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is not a number above 0"):
        positive(text)
