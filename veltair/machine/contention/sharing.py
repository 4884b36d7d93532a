"""Who gets how much of what blocks share: the L3 by where their cores are, memory bandwidth max-min fair.

Pure. A `CacheGroupShare` says where a block's cores are: (cache group, its cores there), each group once.
Under `spread` nobody asks for it: every block has a part of every group.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from math import inf

from veltair.machine.topology.topology import Machine

CacheGroupShare = tuple[tuple[int, int], ...]
# What a block draws through, as (resource, share of its bytes); each resource once.
Use = tuple[tuple[int, float], ...]

_ALL_OF_DRAM: Use = ((0, 1.0),)


def groups_of(machine: Machine) -> Mapping[int, int]:
    """Return the cache group of each core id."""
    return {core: group for group, cores in enumerate(machine.cache_groups) for core in cores}


def cores_by_group(cores: Collection[int], groups: Mapping[int, int]) -> CacheGroupShare:
    """Return how many of these core ids are in each cache group."""
    return tuple(sorted(Counter(groups[core] for core in cores).items()))


def spread_l3_bytes(machine: Machine, cores: int, busy_cores: int) -> float:
    """Return the L3 of a block whose cores are dealt over all groups, beside others: `busy_cores` in all.

    A core has the L3 of its group to itself until there are more cores at work than groups.
    """
    return cores * min(float(machine.l3_bytes), machine.total_l3_bytes / busy_cores)


def pinned_l3_bytes(machine: Machine, group_cores: CacheGroupShare, busy: Mapping[int, int]) -> float:
    """Return the L3 of a pinned block: of each of its groups the part of the cores at work there.

    `busy` counts the cores at work in each group, its own included.
    """
    l3_bytes = 0.0
    for group, cores in group_cores:
        l3_bytes += machine.l3_bytes * (cores / busy[group])
    return l3_bytes


def capacities(machine: Machine, placement: str) -> tuple[float, ...]:
    """Return the bandwidths that blocks share, bytes/s: DRAM first, then each link if blocks are pinned.

    Blocks that are spread load all links alike, so these limit them together.
    """
    links = len(machine.cache_groups) // machine.link_groups
    if placement == "spread":
        return (min(machine.dram_bytes_per_s, links * machine.link_bytes_per_s),)
    if machine.link_bytes_per_s == inf:
        return (machine.dram_bytes_per_s,)
    return (machine.dram_bytes_per_s, *[machine.link_bytes_per_s] * links)


def use_of(machine: Machine, group_cores: CacheGroupShare) -> Use:
    """Return through what a pinned block draws: DRAM, and its links by its cores behind each."""
    if machine.link_bytes_per_s == inf:
        return _ALL_OF_DRAM
    cores = sum(count for _, count in group_cores)
    behind: Counter[int] = Counter()
    for group, count in group_cores:
        behind[group // machine.link_groups] += count
    return (*_ALL_OF_DRAM, *((1 + link, count / cores) for link, count in sorted(behind.items())))


def pinned_bytes_per_s(machine: Machine, cores: int, use: Use) -> float:
    """Return the most bandwidth that a pinned block can have: the machine's, its cores' or its links'."""
    links = min((machine.link_bytes_per_s / share for _, share in use[1:]), default=inf)
    return min(machine.dram_bytes_per_s, cores * machine.core_dram_bytes_per_s, links)


def max_min_fair(
    demands: Sequence[float], uses: Sequence[Use], capacities: Sequence[float]
) -> Sequence[float]:
    """Return what each gets of what it asks for: nobody gains by taking from one who has less.

    All in bytes/s. Progressive filling (Bertsekas and Gallager, Data Networks, 1992, section 6.5.2): all rise
    together until they have what they ask for, or something that they draw through is full.
    """
    wanted = [0.0] * len(capacities)
    for demand, use in zip(demands, uses, strict=True):
        for resource, share in use:
            wanted[resource] += demand * share
    if all(want <= capacity for want, capacity in zip(wanted, capacities, strict=True)):
        return demands
    return _fill(demands, uses, capacities)


def _fill(demands: Sequence[float], uses: Sequence[Use], capacities: Sequence[float]) -> list[float]:
    granted, taken = list(demands), [0.0] * len(capacities)
    rising, level = list(range(len(demands))), 0.0
    while rising:
        room, full = _level(rising, uses, capacities, taken)
        # In exact numbers the level never falls.
        level = max(level, room)
        done = [index for index in rising if demands[index] <= level]
        if not done:
            done = [index for index in rising if any(resource == full for resource, _ in uses[index])]
            for index in done:
                granted[index] = level
        for index in done:
            for resource, share in uses[index]:
                taken[resource] += granted[index] * share
        gone = set(done)
        rising = [index for index in rising if index not in gone]
    return granted


def _level(
    rising: Sequence[int], uses: Sequence[Use], capacities: Sequence[float], taken: Sequence[float]
) -> tuple[float, int]:
    """Return how far all can rise together, and the resource that is full then."""
    weights = [0.0] * len(capacities)
    for index in rising:
        for resource, share in uses[index]:
            weights[resource] += share
    level, full = inf, 0
    for resource, weight in enumerate(weights):
        if weight > 0.0 and (room := (capacities[resource] - taken[resource]) / weight) < level:
            level, full = room, resource
    return level, full
