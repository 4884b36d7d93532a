from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.machine.topology.placement import PLACEMENTS, Holdings, Placement, pinned, remember, spread
from veltair.machine.topology.topology import Machine


def make_machine(groups: int, size: int) -> Machine:
    ids = tuple(tuple(range(index * size, (index + 1) * size)) for index in range(groups))
    return Machine("made-up", 1, ids, 2**20, 2**24, 1e11, 1e11, validated=False)


SHAPES = [(1, 2), (2, 4), (16, 4), (16, 8), (3, 6)]


@st.composite
def requests(draw: st.DrawFn) -> tuple[int, set[int], Machine, set[int]]:
    """Cores wanted, free ids, machine, and ids held by the block that asks: disjoint from the free ones."""
    machine = make_machine(*draw(st.sampled_from(SHAPES)))
    free = draw(st.sets(st.sampled_from(machine.core_ids), min_size=1))
    held = draw(st.sets(st.sampled_from(machine.core_ids))) - free
    return draw(st.integers(1, len(free))), free, machine, held


def groups_of(ids: tuple[int, ...], machine: Machine) -> set[int]:
    return {index for index, group in enumerate(machine.cache_groups) if set(ids).intersection(group)}


@given(requests(), st.sampled_from(list(PLACEMENTS.values())))
def test_exactly_the_wanted_number_of_distinct_free_cores_is_chosen(
    request_: tuple[int, set[int], Machine, set[int]], place: Placement
) -> None:
    cores, free, machine, held = request_
    chosen = place(cores, free, machine, held)
    assert len(chosen) == len(set(chosen)) == cores
    assert free.issuperset(chosen)


@given(requests(), st.sampled_from(list(PLACEMENTS.values())), st.randoms())
def test_the_order_of_the_free_cores_does_not_matter(
    request_: tuple[int, set[int], Machine, set[int]], place: Placement, random: object
) -> None:
    cores, free, machine, held = request_
    shuffled = sorted(free)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert place(cores, shuffled, machine, held) == place(cores, free, machine, held)


@given(requests(), st.sampled_from(list(PLACEMENTS.values())))
def test_a_remembered_placement_answers_alike_and_is_asked_once(
    request_: tuple[int, set[int], Machine, set[int]], place: Placement
) -> None:
    cores, free, machine, held = request_
    asked = []

    def counted(*question: Any) -> tuple[int, ...]:
        asked.append(question)
        return place(*question)

    placed = remember(counted, machine)
    right = place(cores, free, machine, held)
    assert [placed(cores, free, machine, held) for _ in range(3)] == [right] * 3
    assert len(asked) == 1


@given(st.sampled_from(SHAPES), st.data())
def test_spread_on_an_idle_machine_fills_the_groups_evenly(
    shape: tuple[int, int], data: st.DataObject
) -> None:
    machine = make_machine(*shape)
    cores = data.draw(st.integers(1, machine.cores))
    chosen = spread(cores, machine.core_ids, machine)
    filled = [len(set(chosen).intersection(group)) for group in machine.cache_groups]
    assert max(filled) - min(filled) <= 1


@given(st.sampled_from(SHAPES), st.lists(st.integers(1, 24), max_size=6))
def test_pinned_blocks_of_whole_groups_never_share_a_group(shape: tuple[int, int], wants: list[int]) -> None:
    machine = make_machine(*shape)
    free, used = set(machine.core_ids), []
    for groups in wants:
        cores = groups * shape[1]
        if cores > len(free):
            continue
        chosen = pinned(cores, free, machine)
        free -= set(chosen)
        used.append(groups_of(chosen, machine))
    assert sum(len(groups) for groups in used) == len(set().union(*used))


@given(st.sampled_from(SHAPES), st.data())
def test_pinned_on_an_idle_machine_uses_the_fewest_groups(
    shape: tuple[int, int], data: st.DataObject
) -> None:
    machine = make_machine(*shape)
    cores = data.draw(st.integers(1, machine.cores))
    assert len(groups_of(pinned(cores, machine.core_ids, machine), machine)) == -(-cores // shape[1])


def test_spread_deals_one_core_to_each_group_in_turn() -> None:
    machine = make_machine(4, 4)
    assert spread(6, machine.core_ids, machine) == (0, 4, 8, 12, 1, 5)


def test_spread_counts_cores_in_use_as_dealt() -> None:
    # Groups 0-3 and 4-7; 0 and 1 are in use: group 1 gets two before group 0 gets its third.
    assert spread(3, [2, 3, 4, 5, 6, 7], make_machine(2, 4)) == (4, 5, 2)


def test_pinned_takes_untouched_groups_before_shared_ones() -> None:
    # Core 0 is another block's: its group is avoided while others suffice.
    machine = make_machine(3, 4)
    assert pinned(5, set(range(1, 12)), machine) == (4, 5, 6, 7, 8)


def test_pinned_picks_the_tightest_shared_group_that_suffices() -> None:
    # Free: 3 of group 0, 1 of group 1, 2 of group 2. Two cores fit group 2 exactly.
    assert pinned(2, [1, 2, 3, 7, 10, 11], make_machine(3, 4)) == (10, 11)


def test_pinned_takes_the_roomiest_shared_group_when_none_suffices() -> None:
    # Five wanted: all 3 of group 0, then the tightest for the 2 that remain.
    assert pinned(5, [1, 2, 3, 7, 10, 11], make_machine(3, 4)) == (1, 2, 3, 10, 11)


def test_pinned_grows_a_block_inside_its_own_group_first() -> None:
    # The block holds 0 and 1 alone in group 0; 4 is another's; group 2 is untouched.
    free = [2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert pinned(3, free, make_machine(3, 4), held=[0, 1]) == (2, 3, 8)


def test_pinned_does_not_count_a_shared_group_as_its_own() -> None:
    # The block holds 0, another holds 1: the untouched group is better.
    assert pinned(2, [2, 3, 4, 5, 6, 7], make_machine(2, 4), held=[0]) == (4, 5)


@pytest.mark.parametrize("place", PLACEMENTS.values())
@pytest.mark.parametrize("cores", [0, -1, 3])
def test_a_number_that_is_not_free_is_refused(place: Placement, cores: int) -> None:
    with pytest.raises(ValueError, match="2 are free"):
        place(cores, [0, 1], make_machine(1, 4), ())


@pytest.mark.parametrize("place", PLACEMENTS.values())
def test_a_core_that_the_machine_lacks_is_refused(place: Placement) -> None:
    with pytest.raises(ValueError, match=r"cores \[9\] are not cores of made-up"):
        place(1, [0, 9], make_machine(1, 4), ())


# Core ids as servers number them: blocks of ids, every n-th id, and two sockets that alternate.
SERVERS = {
    "64 cores, 16 groups of 4": tuple(tuple(range(4 * group, 4 * group + 4)) for group in range(16)),
    "128 cores, 16 groups of 8": tuple(tuple(range(8 * group, 8 * group + 8)) for group in range(16)),
    "64 cores, 8 groups of every eighth": tuple(tuple(range(group, 64, 8)) for group in range(8)),
    "128 cores, 2 sockets that alternate": tuple(tuple(range(socket, 128, 2)) for socket in range(2)),
    "64 cores, one L3": (tuple(range(64)),),
}


def server(name: str, unit: int = 1) -> Machine:
    return Machine(name, unit, SERVERS[name], 2**19, 2**24, 1e11, 1e11, validated=False)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Machine, str, list[tuple[str, int, int]]]:
    """A server, a placement, and what blocks ask for: (what, query, cores), each possible in its turn."""
    machine = server(draw(st.sampled_from(sorted(SERVERS))))
    unit = draw(st.sampled_from([1, len(machine.cache_groups[0])]))
    held: dict[int, int] = {}
    steps: list[tuple[str, int, int]] = []
    for query in range(draw(st.integers(1, 25))):
        free = machine.cores - sum(held.values())
        what = draw(st.sampled_from(["take", "grow", "shrink", "release"] if held else ["take"]))
        if what == "take" and free >= unit:
            held[query] = unit * draw(st.integers(1, free // unit))
            steps.append(("take", query, held[query]))
        elif what in {"grow", "shrink"} and held:
            block = draw(st.sampled_from(sorted(held)))
            least, most = (held[block], held[block] + free) if what == "grow" else (unit, held[block])
            held[block] = unit * draw(st.integers(least // unit, most // unit))
            steps.append(("resize", block, held[block]))
        elif what == "release" and held:
            block = draw(st.sampled_from(sorted(held)))
            del held[block]
            steps.append(("release", block, 0))
    return machine, draw(st.sampled_from(sorted(PLACEMENTS))), steps


def replay(
    machine: Machine, placement: str, steps: list[tuple[str, int, int]]
) -> Iterator[dict[int, tuple[int, ...]]]:
    """Yield who holds which cores after each step; a resize is adopted at once."""
    holdings = Holdings(machine, PLACEMENTS[placement])
    counts: dict[int, int] = {}
    for what, query, cores in steps:
        if what == "release":
            holdings.release(query)
            del counts[query]
        else:
            (holdings.take if what == "take" else holdings.resize)(query, cores)
            counts[query] = cores
        if what == "resize":
            holdings.adopt(query, cores)
        held = {block: holdings.of(block) for block in counts}
        assert {block: len(ids) for block, ids in held.items()} == counts
        yield held


@given(histories())
def test_no_core_of_a_server_is_ever_held_by_two_blocks(
    history: tuple[Machine, str, list[tuple[str, int, int]]],
) -> None:
    machine, placement, steps = history
    for held in replay(machine, placement, steps):
        ids = [core for cores in held.values() for core in cores]
        assert len(set(ids)) == len(ids)
        assert set(ids).issubset(machine.core_ids)


@given(histories())
def test_blocks_pinned_to_whole_cache_groups_share_no_l3_whatever_starts_grows_shrinks_and_ends(
    history: tuple[Machine, str, list[tuple[str, int, int]]],
) -> None:
    machine, _, steps = history
    size = len(machine.cache_groups[0])
    whole = all(cores % size == 0 for _, _, cores in steps)
    for held in replay(machine, "pinned", steps):
        groups = [group for ids in held.values() for group in groups_of(ids, machine)]
        assert not whole or len(set(groups)) == len(groups)


@given(st.sampled_from(sorted(SERVERS)), st.data())
def test_a_block_spread_over_an_idle_server_draws_on_as_many_l3_as_it_has_cores(
    name: str, data: st.DataObject
) -> None:
    machine = server(name)
    cores = data.draw(st.integers(1, machine.cores))
    used = groups_of(spread(cores, machine.core_ids, machine), machine)
    assert len(used) == min(cores, len(machine.cache_groups))


def test_spread_deals_over_the_l3_of_a_64_core_server_and_pinned_fills_them() -> None:
    machine = server("64 cores, 16 groups of 4")
    assert spread(18, machine.core_ids, machine) == (*range(0, 64, 4), 1, 5)
    assert pinned(18, machine.core_ids, machine) == tuple(range(18))


def test_pinned_keeps_to_a_socket_whose_ids_alternate_with_the_others() -> None:
    machine = server("128 cores, 2 sockets that alternate")
    assert pinned(64, machine.core_ids, machine) == tuple(range(0, 128, 2))
    assert spread(4, machine.core_ids, machine) == (0, 1, 2, 3)


def test_cores_that_a_block_gives_up_are_free_only_when_it_adopts_the_new_count() -> None:
    holdings = Holdings(make_machine(1, 4), pinned)
    holdings.take(7, 4)
    holdings.resize(7, 1)
    assert holdings.of(7) == (0, 1, 2, 3)
    with pytest.raises(ValueError, match="0 are free"):
        holdings.take(8, 1)
    holdings.adopt(7, 1)
    holdings.take(8, 3)
    assert (holdings.of(7), holdings.of(8)) == ((0,), (1, 2, 3))


def test_cores_that_a_block_gains_are_its_own_before_it_adopts_them() -> None:
    holdings = Holdings(make_machine(1, 4), pinned)
    holdings.take(7, 1)
    holdings.resize(7, 3)
    assert holdings.of(7) == (0, 1, 2)


def test_a_block_that_adopts_an_older_count_keeps_what_a_later_growth_reserved() -> None:
    holdings = Holdings(make_machine(1, 8), pinned)
    holdings.take(7, 4)
    holdings.resize(7, 2)
    holdings.resize(7, 6)
    holdings.adopt(7, 2)
    assert holdings.of(7) == (0, 1, 2, 3, 4, 5)


def test_a_block_that_runs_cannot_be_started_again_and_one_that_does_not_cannot_change() -> None:
    holdings = Holdings(make_machine(1, 4), pinned)
    holdings.take(7, 1)
    with pytest.raises(ValueError, match=r"query 7 holds cores \[0\] already"):
        holdings.take(7, 1)
    for change in (lambda: holdings.resize(8, 2), lambda: holdings.adopt(8, 1), lambda: holdings.release(8)):
        with pytest.raises(LookupError, match="query 8 holds no cores"):
            change()


def test_a_placement_that_picks_a_core_in_use_is_refused() -> None:
    holdings = Holdings(make_machine(1, 4), lambda cores, free, machine, held=(): tuple(range(cores)))
    holdings.take(1, 2)
    with pytest.raises(ValueError, match=r"cores \[0\] would be used by two blocks at once"):
        holdings.take(2, 1)
    assert (holdings.of(1), holdings.free_cores) == ((0, 1), 2)


def test_a_block_gets_the_cores_that_are_named_or_nothing():
    machine = replace(make_machine(2, 2), cache_groups=((0, 2), (1, 3)))
    holdings = Holdings(machine, spread)
    holdings.take(1, 2, first=1)
    assert holdings.of(1) == (2, 1)
    with pytest.raises(ValueError, match=r"cores \[1\] would be used by two blocks at once"):
        holdings.take(2, 2, first=2)
    holdings.release(1)
    assert holdings.free_cores == 4


def test_a_block_that_shares_cores_holds_none():
    holdings = Holdings(make_machine(2, 2), spread)
    holdings.enter(1)
    assert (holdings.of(1), holdings.free_cores) == ((), 4)
    with pytest.raises(ValueError, match="query 1 holds cores"):
        holdings.enter(1)
    holdings.release(1)
    assert holdings.of(1) == ()
