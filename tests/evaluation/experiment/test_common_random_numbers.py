"""Noise that is drawn once for many runs."""

import numpy as np
import pytest

from veltair.evaluation.experiment import common_random_numbers as draws
from veltair.evaluation.experiment.common_random_numbers import Draws, Stream


def fresh() -> np.random.Generator:
    return np.random.default_rng(7)


def given(stream: Stream | np.random.Generator, asked: list[list[int]]) -> list[list[int]]:
    return [stream.integers(np.array(high)).tolist() for high in asked]


ASKED = [[10, 10, 4], [4] * 5, [10, 10, 4], [100]]


def test_every_stream_of_a_seed_gives_what_a_fresh_generator_gives() -> None:
    shared = Draws()
    for _ in range(3):
        assert given(shared.stream(1, fresh), ASKED) == given(fresh(), ASKED)


def test_streams_that_are_read_in_turn_do_not_disturb_each_other() -> None:
    shared = Draws()
    one, other = shared.stream(1, fresh), shared.stream(1, fresh)
    found = [(given(one, [asked]), given(other, [asked])) for asked in ASKED]
    assert [row for first, _ in found for row in first] == given(fresh(), ASKED)
    assert [row for _, second in found for row in second] == given(fresh(), ASKED)


def test_one_that_asks_for_something_else_gets_what_a_generator_would_give() -> None:
    shared = Draws()
    given(shared.stream(1, fresh), ASKED)
    others = [[10, 10, 4], [9, 9], [10, 10, 4], [100], [5] * 5]
    assert given(shared.stream(1, fresh), others) == given(fresh(), others)


def test_seeds_have_draws_of_their_own() -> None:
    shared = Draws()
    given(shared.stream(1, fresh), ASKED)
    other = given(shared.stream(2, lambda: np.random.default_rng(8)), ASKED)
    assert other == given(np.random.default_rng(8), ASKED) != given(fresh(), ASKED)


def test_what_is_not_remembered_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "MOST_REMEMBERED", 2)
    shared = Draws()
    for _ in range(2):
        assert given(shared.stream(1, fresh), ASKED * 2) == given(fresh(), ASKED * 2)
