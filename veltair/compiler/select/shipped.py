"""Which stores of candidates serve this CPU, and which structure comes from which of them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from veltair.compiler.footprint.version import Candidate
from veltair.compiler.select.store import (
    FILES,
    StoreError,
    damaged_structures,
    find_candidates,
    outdated_structures,
)
from veltair.data import shipped
from veltair.provenance import CPU_INFO

SHIPPED = shipped("candidates")
RECORDS = shipped("search")
AVX512, AVX2 = "avx512", "avx2"
# By folder, the best first: what a CPU must have, as Linux names it, to run what was searched for there.
INSTRUCTION_SETS = {
    AVX512: frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    AVX2: frozenset({"avx2", "fma"}),
}
# By the names that `build.cpu` has, what such a CPU can do.
CPU_FLAGS = {
    "x86-64-v3": INSTRUCTION_SETS[AVX2],
    "x86-64-v4": INSTRUCTION_SETS[AVX2] | INSTRUCTION_SETS[AVX512],
}


@dataclass(frozen=True, slots=True)
class ServedStores:
    """Candidates by structure, the store that each comes from, and those structures that no store has.

    `damaged` are structures whose traces in a store were not those that had been written: another store
    served them, or they are missing. The same holds for those of `outdated`, which have a recipe that this
    program cannot build any more, with the reason.
    """

    candidates: dict[str, tuple[Candidate, ...]]
    stores: dict[str, Path]
    missing: tuple[str, ...]
    damaged: tuple[str, ...]
    outdated: Mapping[str, str] = field(default_factory=dict)


def shipped_stores(root: Path = SHIPPED, flags: Collection[str] | None = None) -> list[Path]:
    """Return the stores below a folder that a CPU with these flags can run, the best first.

    `flags` None means this CPU's. Schedules for AVX2 run on AVX-512 too, the other way round they do not.
    """
    here = host_flags() if flags is None else frozenset(flags)
    folders = [root / name for name, needed in INSTRUCTION_SETS.items() if needed <= here]
    return [folder for folder in folders if any((folder / name).is_file() for name in FILES)]


def shipped_records(root: Path = RECORDS, flags: Collection[str] | None = None) -> list[Path]:
    """Return the folders of packed records whose candidates a CPU with these flags can run."""
    here = host_flags() if flags is None else frozenset(flags)
    return [
        root / name for name, needed in INSTRUCTION_SETS.items() if needed <= here and (root / name).is_dir()
    ]


def cpu_flags(cpu: str) -> frozenset[str]:
    """Return what a CPU of a name in `CPU_FLAGS` can do; "auto" is this one.

    Raises StoreError where this CPU cannot run what is built for the other.
    """
    here = host_flags()
    if cpu == "auto":
        return here
    if lacking := CPU_FLAGS[cpu] - here:
        raise StoreError(f"build.cpu is {cpu}, but this CPU lacks {', '.join(sorted(lacking))}; write auto")
    return CPU_FLAGS[cpu]


def host_flags() -> frozenset[str]:
    """Return what this CPU can do, in Linux's names."""
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(flags.split())


def serve(stores: Sequence[Path], structures: Iterable[str]) -> ServedStores:
    """Return the candidates of the structures, each from the first store in which one of its candidates ran.

    Raises StoreError for a store that cannot be read.
    """
    wanted = list(structures)
    candidates: dict[str, tuple[Candidate, ...]] = {}
    indices: dict[str, Path] = {}
    damaged: list[str] = []
    outdated: dict[str, str] = {}
    for folder in stores:
        rest = [structure for structure in wanted if structure not in candidates]
        damaged += [structure for structure in damaged_structures(folder) if structure in rest]
        outdated |= outdated_structures(folder, rest)
        for structure, group in find_candidates(folder, rest).items():
            if any(one.run_seconds and one.trace is not None for one in group):
                candidates[structure], indices[structure] = group, folder
    missing = tuple(structure for structure in wanted if structure not in candidates)
    return ServedStores(candidates, indices, missing, tuple(dict.fromkeys(damaged)), outdated)
