"""Tests of where activations lie."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.machine.models.activations import ALIGNMENT_BYTES, Life, place


@st.composite
def lives(draw: st.DrawFn) -> Life:
    first = draw(st.integers(0, 9))
    return Life(first, draw(st.integers(first, 9)), draw(st.integers(0, 1000)))


@given(st.lists(lives(), max_size=12))
def test_activations_that_live_at_once_share_no_byte(every: list[Life]) -> None:
    offsets, nbytes = place(every)
    for number, one in enumerate(every):
        assert offsets[number] % ALIGNMENT_BYTES == 0
        assert offsets[number] + one.nbytes <= nbytes
        for other in range(number):
            if one.meets(every[other]):
                apart = (
                    offsets[number] + max(1, one.nbytes) <= offsets[other]
                    or offsets[other] + max(1, every[other].nbytes) <= offsets[number]
                )
                assert apart


@given(st.lists(lives(), min_size=1, max_size=12))
def test_all_together_take_at_least_what_lives_at_once_and_at_most_their_sum(every: list[Life]) -> None:
    _, nbytes = place(every)
    rounded = [max(1, -(-one.nbytes // 64)) * 64 for one in every]
    at_once = [
        sum(size for one, size in zip(every, rounded, strict=True) if one.first <= layer <= one.last)
        for layer in range(10)
    ]
    assert max(at_once) <= nbytes <= sum(rounded)


def test_a_chain_takes_its_two_largest_neighbours() -> None:
    chain = [Life(number, number + 1, nbytes) for number, nbytes in enumerate((64, 640, 128, 192, 64))]
    offsets, nbytes = place(chain)
    assert nbytes == 640 + 128
    assert offsets == [640, 0, 640, 0, 192]


def test_the_place_of_one_that_is_dead_is_taken_by_one_of_another_size() -> None:
    offsets, nbytes = place([Life(0, 1, 256), Life(1, 2, 64), Life(2, 3, 128)])
    assert (offsets, nbytes) == ([0, 256, 0], 320)


def test_no_activations_take_no_memory() -> None:
    assert place([]) == ([], 0)


@pytest.mark.parametrize("life", [(1, 0, 4), (-1, 0, 4), (0, 0, -1)])
def test_a_life_that_cannot_be_is_refused(life: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="the first not after the last"):
        Life(*life)
