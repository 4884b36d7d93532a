import io
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.compiler.search.progress import Progress, in_words, reporting

HALFWAY = Progress("conv2d-1", 17, 256, 64, 128, trials_left=21_677, seconds_per_trial=0.31)


def test_a_line_says_where_the_search_is_and_how_long_it_takes() -> None:
    assert str(HALFWAY) == "structure 17 of 256, trial 64 of 128, 0.31 s a trial, 1 h 52 min left"


def test_before_anything_was_measured_no_time_is_told() -> None:
    assert str(replace(HALFWAY, seconds_per_trial=None)) == "structure 17 of 256, trial 64 of 128"


def test_the_time_left_is_that_of_the_trials_left() -> None:
    assert replace(HALFWAY, trials_left=100, seconds_per_trial=0.5).left_s == 50


@pytest.mark.parametrize(
    ("duration_s", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3569, "59 min"),
        (3599, "1 h 00 min"),
        (36_300, "10 h 05 min"),
    ],
)
def test_durations_are_rounded_to_what_one_plans_with(duration_s: float, words: str) -> None:
    assert in_words(duration_s) == words


@given(st.floats(0, 1e6))
def test_no_duration_has_sixty_of_anything(duration_s: float) -> None:
    assert not re.search(r"\b60 (s|min)", in_words(duration_s))


@pytest.mark.parametrize("wrong", [{"number": 0}, {"number": 257}, {"done": -1}, {"trials_left": -1}])
def test_impossible_progress_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="Progress: "):
        replace(HALFWAY, **wrong)


def test_a_log_gets_a_line_each_time() -> None:
    stream = io.StringIO()
    with reporting(stream) as report:
        report(HALFWAY)
        report(replace(HALFWAY, done=96))
    assert stream.getvalue().splitlines() == [
        f"{HALFWAY}: conv2d-1",
        f"{replace(HALFWAY, done=96)}: conv2d-1",
    ]


class Terminal(io.StringIO):
    """Stands for a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_with_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    with reporting(stream) as report:
        report(HALFWAY)
    assert str(HALFWAY) in stream.getvalue().replace("\x1b[0m", "") and "━" in stream.getvalue()
