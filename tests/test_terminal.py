import os
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from veltair.terminal import count, imported_packages, positive

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


@pytest.mark.parametrize("package", ["compiler", "config", "evaluation", "serving"])
def test_a_command_under_another_python_s_packages_ends_in_one_line_that_names_pythonpath(
    package: str, tmp_path: Path
) -> None:
    for name in ("numpy", "yaml", "pydantic"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('built for another Python')\n")
    done = subprocess.run(
        [sys.executable, "-m", f"veltair.{package}", "--help"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "cannot import what it needs (" in line and f"PYTHONPATH is {tmp_path}:" in line


def test_a_program_of_a_user_gets_the_error_itself(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="another"), imported_packages(as_program=True):
        raise ImportError("built for another Python")
