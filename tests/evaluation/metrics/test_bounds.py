from math import inf, isnan

import pytest

from veltair.evaluation.metrics.bounds import Bounds, Reach

KNOWN, BELOW, ABOVE, NOTHING = Bounds(6.0, 6.0), Bounds(0.0, 4.0), Bounds(30.0, inf), Bounds(0.0, inf)


@pytest.mark.parametrize(
    ("bounds", "reach", "value", "text"),
    [
        (KNOWN, Reach.KNOWN, 6.0, "6"),
        (BELOW, Reach.BELOW, 4.0, "< 4"),
        (ABOVE, Reach.ABOVE, 30.0, "> 30"),
    ],
)
def test_a_number_is_known_or_on_one_side_of_what_was_tried(
    bounds: Bounds, reach: Reach, value: float, text: str
) -> None:
    assert (bounds.reach, bounds.value, str(bounds)) == (reach, value, text)


def test_a_number_that_nothing_bounds_has_no_value() -> None:
    assert NOTHING.reach is Reach.UNKNOWN
    assert isnan(NOTHING.value)
    assert str(NOTHING) == "\N{EN DASH}"


@pytest.mark.parametrize(
    ("one", "other", "quotient"),
    [
        (KNOWN, Bounds(3.0, 3.0), Bounds(2.0, 2.0)),
        (BELOW, Bounds(8.0, 8.0), Bounds(0.0, 0.5)),  # at most 4 of 8
        (ABOVE, Bounds(10.0, 10.0), Bounds(3.0, inf)),
        (KNOWN, BELOW, Bounds(1.5, inf)),  # of less than 4
        (KNOWN, ABOVE, Bounds(0.0, 0.2)),  # of more than 30
        (ABOVE, BELOW, Bounds(7.5, inf)),
        (BELOW, ABOVE, Bounds(0.0, 4 / 30)),
        (BELOW, BELOW, NOTHING),
        (ABOVE, ABOVE, NOTHING),
    ],
)
def test_a_quotient_is_known_as_far_as_both_numbers_are(one: Bounds, other: Bounds, quotient: Bounds) -> None:
    assert one.over(other) == quotient


@pytest.mark.parametrize("pair", [(-1.0, 2.0), (3.0, 2.0), (inf, inf), (float("nan"), 1.0)])
def test_bounds_that_hold_no_number_are_refused(pair: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="give 0 <= at_least <= at_most"):
        Bounds(*pair)
