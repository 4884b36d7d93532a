import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.evaluation.runtimes.paired_latency import (
    MINIMUM_ROUNDS,
    MOST_ROUNDS,
    MOST_RUNS,
    PairedLatencies,
    block_runs,
    compare,
    rounds_within,
)


class Network:
    """Takes the given seconds a run, the first of each block twice as long; notes who was asked when."""

    def __init__(self, name: str, run_s: float, asked: list[str]) -> None:
        self.name, self.run_s, self.asked = name, run_s, asked

    def time(self, runs: int) -> list[float]:
        self.asked.append(self.name)
        return [2 * self.run_s] + [self.run_s] * (runs - 1)


def compared(ours_s: float, theirs_s: float, budget_s: float = 1.0) -> tuple[PairedLatencies, list[str]]:
    asked: list[str] = []
    networks = Network("ours", ours_s, asked), Network("theirs", theirs_s, asked)
    return compare(*networks, budget_s, sleep=lambda seconds: asked.append("pause")), asked


def test_the_ratio_is_theirs_over_ours() -> None:
    found, _ = compared(0.01, 0.015)
    assert found.ratio == pytest.approx(1.5)


def test_a_network_against_itself_has_ratio_1() -> None:
    found, _ = compared(0.01, 0.01)
    assert found.ratios == (1.0,) * len(found.ours_s)


def test_the_first_run_of_a_block_does_not_count() -> None:
    found, _ = compared(0.04, 0.05)  # blocks of two runs
    assert set(found.ours_s) == {0.04}
    assert set(found.theirs_s) == {0.05}


def test_the_only_run_of_a_block_counts() -> None:
    found, _ = compared(3.0, 4.0)
    assert set(found.ours_s) == {6.0}


def test_who_goes_first_alternates_and_nobody_follows_without_a_pause() -> None:
    _, asked = compared(0.01, 0.01)
    measured = asked[asked.index("pause") :]
    assert measured[:8] == ["pause", "ours", "pause", "theirs", "pause", "theirs", "pause", "ours"]


def test_both_run_for_a_second_before_anything_is_measured() -> None:
    runs = {"ours": 0.0, "theirs": 0.0}

    class Counted(Network):
        def time(self, runs_: int) -> list[float]:
            seconds = super().time(runs_)
            if "pause" not in self.asked:
                runs[self.name] += sum(seconds)
            return seconds

    asked: list[str] = []
    networks = Counted("ours", 0.01, asked), Counted("theirs", 0.3, asked)
    compare(*networks, 0.1, sleep=lambda seconds: asked.append("pause"))
    assert min(runs.values()) >= 1.0


def test_blocks_fill_a_tenth_of_a_second_with_1_to_20_runs() -> None:
    assert [block_runs(run_s) for run_s in (1e-5, 0.01, 0.04, 0.2, 5.0)] == [MOST_RUNS, 10, 2, 1, 1]


@given(st.floats(0, 1e3), st.floats(1e-6, 1e3))
def test_rounds_fit_the_budget_unless_that_is_too_few(budget_s: float, round_s: float) -> None:
    rounds = rounds_within(budget_s, round_s)
    assert MINIMUM_ROUNDS <= rounds <= MOST_ROUNDS
    assert rounds == MINIMUM_ROUNDS or rounds * round_s <= budget_s * (1 + 1e-9)


def test_a_comparison_of_unlike_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="2 and 1 rounds; give both equally many"):
        PairedLatencies((1.0, 1.0), (1.0,))


def test_a_latency_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="a latency is not above 0"):
        PairedLatencies((1.0,), (0.0,))
