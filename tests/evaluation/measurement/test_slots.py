import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.evaluation.measurement.slots import Grid, Slot

GRID = Grid((0.25, 0.5, 1.0), 40.0, seed=7)
NAMES = ["A", "B", "C", "D"]


@given(st.integers(0, 20))
def test_a_round_serves_every_rate_and_at_each_every_server_once(number: int) -> None:
    slots = GRID.round(number, NAMES)
    assert sorted(slot.share for slot, _ in slots) == [0.25, 0.5, 1.0]
    assert all(slot.qps == 40.0 * slot.share and slot.round == number for slot, _ in slots)
    assert all(sorted(order) == NAMES for _, order in slots)


def test_rounds_are_the_same_whenever_they_are_planned() -> None:
    assert GRID.round(3, NAMES) == Grid((0.25, 0.5, 1.0), 40.0, seed=7).round(3, NAMES)


def test_another_seed_gives_other_orders_and_schedules() -> None:
    other = Grid((0.25, 0.5, 1.0), 40.0, seed=8)
    assert [other.round(number, NAMES) for number in range(3)] != [GRID.round(n, NAMES) for n in range(3)]


def test_no_two_slots_share_a_schedule() -> None:
    seeds = [slot.seed for number in range(20) for slot, _ in GRID.round(number, NAMES)]
    assert len(set(seeds)) == len(seeds) == 60
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_who_takes_part_changes_no_schedule() -> None:
    few, many = ({slot.share: slot for slot, _ in GRID.round(1, names)} for names in (["A"], NAMES))
    assert few == many


def test_nobody_always_comes_first_or_after_the_same_one() -> None:
    orders = [order for number in range(40) for _, order in GRID.round(number, NAMES)]
    firsts = [order[0] for order in orders]
    assert all(15 <= firsts.count(name) <= 45 for name in NAMES)  # of 120, 30 each in the mean
    after_a = [order[order.index("A") + 1] for order in orders if order[-1] != "A"]
    assert {name: after_a.count(name) > 15 for name in "BCD"} == dict.fromkeys("BCD", True)


def test_rates_come_in_every_order() -> None:
    firsts = [GRID.round(number, NAMES)[0][0].share for number in range(60)]
    assert min(firsts.count(share) for share in GRID.shares) > 8


def test_a_slot_is_named_by_round_share_and_rate() -> None:
    assert str(Slot(2, 0.5, 20.0, 1)) == "round 2, 0.5 of the sequential rate (20 QPS)"


@pytest.mark.parametrize(
    ("shares", "qps"), [((), 1.0), ((0.5, 0.5), 1.0), ((0.5, 0.2), 1.0), ((0.0, 0.5), 1.0), ((0.5,), np.nan)]
)
def test_a_grid_without_ascending_rates_is_refused(shares: tuple[float, ...], qps: float) -> None:
    with pytest.raises(ValueError, match="give ascending ones above 0"):
        Grid(shares, qps, 1)
