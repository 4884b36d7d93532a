"""Placement: from a number of cores to core ids, and who holds which.

`spread` deals cores over all cache groups, as unpinned threads end up: blocks share every L3. `pinned` keeps
blocks apart: where cores are given in whole cache groups, no two blocks ever share an L3.
"""

from collections.abc import Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from itertools import chain

from veltair.machine.topology.topology import Machine

Placement = Callable[[int, Collection[int], Machine, Collection[int]], tuple[int, ...]]

_MACHINES_REMEMBERED = 8
_ANSWERS_REMEMBERED = 4096


def spread(
    cores: int, free: Collection[int], machine: Machine, held: Collection[int] = ()
) -> tuple[int, ...]:
    """Return free core ids dealt round-robin over the cache groups, as unpinned threads end up.

    Cores in use count as dealt already, so the emptiest group comes first, then the lowest id. `held`, the
    cores that a growing block has, are in use like any other. Raises ValueError if there are too few.
    """
    groups, available = _checked(cores, free, machine)
    rounds: list[list[int]] = [[] for _ in range(max(map(len, groups)))]
    for group in groups:
        idle = sorted(group & available)
        for turn, core in enumerate(idle, start=len(group) - len(idle)):
            rounds[turn].append(core)
    return tuple(chain.from_iterable(rounds))[:cores]


def pinned(
    cores: int, free: Collection[int], machine: Machine, held: Collection[int] = ()
) -> tuple[int, ...]:
    """Return free core ids that share as few L3 caches with other blocks as possible.

    First come groups where only the block itself runs (`held`, the cores that a growing block has), then
    untouched groups, then the partly used group with the fewest free cores that suffice, or else the
    one with most; ties to the lowest ids. Raises ValueError if there are too few.
    """
    groups, available = _checked(cores, free, machine)
    own = frozenset(held)
    alone: list[frozenset[int]] = []
    untouched: list[frozenset[int]] = []
    shared: list[frozenset[int]] = []
    for group in groups:
        if idle := group & available:
            if len(idle) == len(group):
                untouched.append(idle)
            else:
                (alone if len(idle) + len(group & own) == len(group) else shared).append(idle)
    chosen: list[int] = []
    for candidates in (alone, untouched, shared):
        chosen += _fill(cores - len(chosen), candidates)
    return tuple(chosen)


def remember(place: Placement, machine: Machine) -> Placement:
    """Return a placement for this machine that looks up what it was asked before: starts wait for it."""

    @lru_cache(maxsize=_ANSWERS_REMEMBERED)
    def known(cores: int, free: frozenset[int], held: frozenset[int]) -> tuple[int, ...]:
        return place(cores, free, machine, held)

    def placed(
        cores: int, free: Collection[int], machine: Machine, held: Collection[int] = ()
    ) -> tuple[int, ...]:
        return known(cores, frozenset(free), frozenset(held))

    return placed


PLACEMENTS: Mapping[str, Placement] = {"spread": spread, "pinned": pinned}


class Holdings:
    """Which block holds which cores of a machine, where each grant goes by one placement.

    The same grants and releases, in the same order, give the same ids. A block keeps the cores that it had
    first for longest. Blocks are named by their query.
    """

    def __init__(self, machine: Machine, place: Placement) -> None:
        """Begin with all cores free."""
        self._machine, self._place = machine, place
        self._free = set(machine.core_ids)
        self._held: dict[int, list[int]] = {}
        self._targets: dict[int, int] = {}

    @property
    def free_cores(self) -> int:
        """How many cores no block holds."""
        return len(self._free)

    def of(self, query_id: int) -> tuple[int, ...]:
        """Return the cores that a block holds, none if it does not run."""
        return tuple(self._held.get(query_id, ()))

    def take(self, query_id: int, cores: int, first: int | None = None) -> None:
        """Give a block that starts its cores: core number `first` and those after it, if it is given.

        Raises ValueError if it runs already, or if too few or not these are free.
        """
        if query_id in self._held:
            raise ValueError(f"query {query_id} holds cores {self._held[query_id]} already; release them")
        self._held[query_id] = self._chosen(cores, (), first)
        self._targets[query_id] = cores

    def enter(self, query_id: int) -> None:
        """Let a block start that shares its cores: it holds none. Raises ValueError if it runs already."""
        if query_id in self._held:
            raise ValueError(f"query {query_id} holds cores {self._held[query_id]} already; release them")
        self._held[query_id] = []
        self._targets[query_id] = 0

    def resize(self, query_id: int, cores: int) -> None:
        """Reserve what a block is to gain; what it is to lose it keeps until it adopts the new count.

        Raises LookupError if it does not run, ValueError if too few cores are free.
        """
        held = self._running(query_id)
        if (missing := cores - len(held)) > 0:
            held += self._chosen(missing, held)
        self._targets[query_id] = cores

    def adopt(self, query_id: int, cores: int) -> None:
        """Free the cores that a block gives up now that it runs on `cores`; those of a later growth it keeps.

        Raises LookupError if it does not run.
        """
        held = self._running(query_id)
        kept = max(cores, self._targets[query_id])
        self._free.update(held[kept:])
        del held[kept:]

    def release(self, query_id: int) -> None:
        """Free all cores of a block that ended. Raises LookupError if it does not run."""
        self._free.update(self._running(query_id))
        del self._held[query_id], self._targets[query_id]

    def _chosen(self, cores: int, held: Collection[int], first: int | None = None) -> list[int]:
        """Return cores that the placement picks, or those from one on; they are free no more."""
        if first is None:
            chosen = self._place(cores, self._free, self._machine, held)
        else:
            chosen = self._machine.core_ids[first : first + cores]
        if not self._free.issuperset(chosen):
            raise ValueError(
                f"cores {sorted(set(chosen) - self._free)} would be used by two blocks at once; only free "
                "ones may be picked"
            )
        self._free.difference_update(chosen)
        return list(chosen)

    def _running(self, query_id: int) -> list[int]:
        held = self._held.get(query_id)
        if held is None:
            raise LookupError(f"query {query_id} holds no cores; start a block of it first")
        return held


@lru_cache(maxsize=_MACHINES_REMEMBERED)
def _sets(cache_groups: tuple[tuple[int, ...], ...]) -> tuple[tuple[frozenset[int], ...], frozenset[int]]:
    """Return the groups and all cores as sets, made once: every start of a block waits for its placement."""
    groups = tuple(frozenset(group) for group in cache_groups)
    return groups, frozenset(chain.from_iterable(groups))


def _fill(cores: int, groups: list[frozenset[int]]) -> list[int]:
    """Return up to so many cores: of the smallest group that suffices, or after all of the largest."""
    groups.sort(key=len, reverse=True)  # stable: ties stay in the order of the groups
    chosen: list[int] = []
    for index, group in enumerate(groups):
        need = cores - len(chosen)
        if need <= len(group):
            tightest = min((other for other in groups[index:] if len(other) >= need), key=len)
            return chosen + sorted(tightest)[:need]
        chosen += sorted(group)
    return chosen


def _checked(
    cores: int, free: Collection[int], machine: Machine
) -> tuple[tuple[frozenset[int], ...], AbstractSet[int]]:
    groups, known = _sets(machine.cache_groups)
    available = free if isinstance(free, set | frozenset) else frozenset(free)
    if not available <= known:
        raise ValueError(
            f"cores {sorted(available - known)} are not cores of {machine.name}; give its core ids"
        )
    if not 1 <= cores <= len(available):
        raise ValueError(
            f"cannot place {cores} cores on {machine.name}: {len(available)} are free; "
            "ask for at least 1 and at most the free ones"
        )
    return groups, available
