"""One search pass against a search for each pressure level: what it saves, and what its versions lose."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from veltair.compiler.footprint.version import Candidate
from veltair.compiler.search.kernel import cold_kernel
from veltair.machine.profile.corunner import CoRunner
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.pool import on_cores

# Searches a structure in a folder of its own and returns its candidates.
Search = Callable[[str, Any, Path], Sequence[Candidate]]
# Selects the versions that are served among them.
Choose = Callable[[Sequence[Candidate]], Sequence[Candidate]]
CHOOSING_ROUNDS, ROUNDS = 31, 101


@dataclass(frozen=True, slots=True)
class PassComparison:
    """One structure: wall seconds of one pass and of each level's own search, and the loss at each level.

    A loss is how much longer the version that the single pass serves at a level takes there than the best of
    that level's own search, as a share: 0.03 is 3 %.
    """

    structure: str
    single_s: float
    separate_s: tuple[float, ...]
    losses: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.losses or len(self.losses) != len(self.separate_s):
            raise ValueError(
                f"{self.structure}: {len(self.separate_s)} searches but {len(self.losses)} losses; "
                "give one of each a level"
            )

    @property
    def ratio(self) -> float:
        """Wall time of one pass ÷ of all levels' searches."""
        return self.single_s / sum(self.separate_s)


def compare_passes(
    functions: Mapping[str, Any],
    search: Search,
    target: Any,
    choose: Choose,
    machine: Machine,
    levels: Sequence[float],
    folder: Path,
) -> list[PassComparison]:
    """Search each structure once alone, and once at each level beside a co-runner; compare both.

    All searches have the machine's first core, the co-runner its last. A single pass serves, at each level,
    that of its selected versions which is fastest there, found in other runs than those that are compared.
    Raises ValueError on a machine of one core.
    """
    if machine.cores < 2:
        raise ValueError(f"{machine.name} has one core; a search beside a co-runner needs two")
    with on_cores(machine.core_ids[:1]):
        return [
            _compare(structure, function, search, target, choose, machine, levels, folder / structure)
            for structure, function in functions.items()
        ]


def _compare(
    structure: str,
    function: Any,
    search: Search,
    target: Any,
    choose: Choose,
    machine: Machine,
    levels: Sequence[float],
    folder: Path,
) -> PassComparison:
    start_s = time.perf_counter()
    versions = choose(search(structure, function, folder / "single"))
    single_s = time.perf_counter() - start_s
    served = [cold_kernel(function, version.trace, target) for version in versions]
    separate_s, losses = [], []
    for level in levels:
        with CoRunner(level, machine.core_ids[-1], machine, folder):
            start_s = time.perf_counter()
            candidates = search(structure, function, folder / f"level-{level:g}")
            separate_s.append(time.perf_counter() - start_s)
            best = min(candidates, key=lambda one: one.median_seconds)
            losses.append(loss(served, cold_kernel(function, best.trace, target)))
    print(f"{structure}: {single_s:.0f} s against {sum(separate_s):.0f} s", flush=True)
    return PassComparison(structure, single_s, tuple(separate_s), tuple(losses))


def loss(served: Sequence[Callable[[], float]], best: Callable[[], float]) -> float:
    """Return by what share the fastest of some kernels takes longer than another; each returns its seconds.

    It is chosen by medians, and compared in pairs of later runs.
    """
    chosen_by = [[kernel() for kernel in served] for _ in range(CHOOSING_ROUNDS)]
    medians = [median(column) for column in zip(*chosen_by, strict=True)]
    chosen = served[medians.index(min(medians))]
    ratios = []
    for number in range(ROUNDS):
        if number % 2 == 0:
            mine, other = chosen(), best()
        else:
            other, mine = best(), chosen()
        ratios.append(mine / other)
    return median(ratios) - 1
