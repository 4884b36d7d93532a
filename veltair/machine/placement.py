"""Placement: from a number of cores to core ids."""

from collections.abc import Callable, Collection, Mapping

from veltair.machine.topology import Machine

Placement = Callable[[int, Collection[int], Machine, Collection[int]], tuple[int, ...]]


def spread(
    cores: int, free: Collection[int], machine: Machine, held: Collection[int] = ()
) -> tuple[int, ...]:
    """Return free core ids dealt round-robin over the cache groups, as unpinned threads end up.

    Cores in use count as dealt already, so the emptiest group comes first, then the lowest id. `held`, the
    cores that a growing block has, are in use like any other. Raises ValueError if there are too few.
    """
    _check(cores, free, machine)
    available = set(free)
    deal: list[tuple[int, int, int]] = []
    for index, group in enumerate(machine.cache_groups):
        idle = sorted(core for core in group if core in available)
        used = len(group) - len(idle)
        deal.extend((used + rank, index, core) for rank, core in enumerate(idle))
    deal.sort()
    return tuple(core for _, _, core in deal[:cores])


def pinned(
    cores: int, free: Collection[int], machine: Machine, held: Collection[int] = ()
) -> tuple[int, ...]:
    """Return free core ids that share as few L3 caches with other blocks as possible.

    First come groups where only the block itself runs (`held`, the cores that a growing block has), then
    untouched groups, then the partly used group with the least room that suffices, or else the one with
    most room; ties to the lowest ids. Raises ValueError if there are too few.
    """
    _check(cores, free, machine)
    available, own = set(free), set(held)
    rooms: list[tuple[int, int, list[int]]] = []
    for index, group in enumerate(machine.cache_groups):
        idle = sorted(core for core in group if core in available)
        if idle:
            others = len(group) - len(idle) - len(own.intersection(group))
            mine = len(idle) < len(group)
            rooms.append((2 if others else 0 if mine else 1, index, idle))
    chosen: list[int] = []
    while len(chosen) < cores:
        need = cores - len(chosen)
        best = min(rooms, key=lambda room: _preference(room, need))
        rooms.remove(best)
        chosen.extend(best[2][:need])
    return tuple(chosen)


PLACEMENTS: Mapping[str, Placement] = {"spread": spread, "pinned": pinned}


def _preference(room: tuple[int, int, list[int]], need: int) -> tuple[int, bool, int, int]:
    """Order groups: by who else is there, then those that suffice with least room, then those with most."""
    kind, index, idle = room
    suffices = len(idle) >= need
    return kind, not suffices, len(idle) if suffices else -len(idle), index


def _check(cores: int, free: Collection[int], machine: Machine) -> None:
    unknown = set(free).difference(machine.core_ids)
    if unknown:
        raise ValueError(f"cores {sorted(unknown)} are not cores of {machine.name}; give its core ids")
    if not 1 <= cores <= len(set(free)):
        raise ValueError(
            f"cannot place {cores} cores on {machine.name}: {len(set(free))} are free; "
            "ask for at least 1 and at most the free ones"
        )
