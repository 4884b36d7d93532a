"""The versions of a described machine: chosen by its own costs among all candidates, not among the host's."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from veltair.compiler.footprint.traffic import Tiling, curve
from veltair.compiler.footprint.version import Candidate
from veltair.compiler.select.select import Selection
from veltair.compiler.select.shipped import AVX2, SHIPPED
from veltair.compiler.select.store import choose, find_candidates, read_info
from veltair.machine.costs.candidate_costs import modelled_costs
from veltair.machine.costs.derivation import derive
from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import CostTable
from veltair.machine.topology.topology import Machine

# Every machine described here has AVX2; whether it has AVX-512 its description does not tell.
STORE = SHIPPED / AVX2
_SIZES = ("parallelism", "blocking_bytes", "compulsory_bytes")
_SOURCE = ["model", "layer", "source"]

Candidates = Mapping[str, Sequence[Candidate]]


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A version: its tiling, and of which of the host's versions it has the times, multiplied by `scale`.

    `exact`: it is that version itself.
    """

    tiling: Tiling
    source: int
    scale: float = 1.0
    exact: bool = True


def derive_described(host: Tables, machine: Machine, selection: Selection, store: Path = STORE) -> Tables:
    """Return modelled tables of a described machine in its own versions: `derive` of `own_versions`."""
    return derive(own_versions(host, machine, selection, store), machine)


def own_versions(host: Tables, machine: Machine, selection: Selection, store: Path = STORE) -> Tables:
    """Return the host's tables in the versions that a described machine chooses.

    They are chosen among the candidates of a store by the machine's costs at several core counts and shares
    of its caches and bandwidth. Layers that the store lacks keep the host's versions. Raises StoreError for
    a store that cannot be read.
    """
    structures = {layer.structure for layers in host.layers.values() for layer in layers}
    candidates = find_candidates(store, structures)
    costs = modelled_costs(machine, read_info(store).core_peak_flops)
    return with_versions(host, choose(candidates, selection, costs), candidates)


def with_versions(host: Tables, chosen: Candidates, candidates: Candidates) -> Tables:
    """Return the host's tables in other versions: those chosen for each structure, of all its candidates.

    A version that the host profiled has its times. Another has those of the profiled version whose time in
    the search is nearest, x the ratio of both times in the search: so it is timed inside the network as
    that one was, and repeats spread alike. It has no times on several cores, and what a tiling tells beside
    sizes and curve, such as its residency, is that version's. Layers that look rows up keep the host's
    versions, for candidates are told as if they touched all rows.
    """
    picked = {
        model: tuple(
            tuple(_versions(tilings, chosen.get(layer.structure, ()), candidates.get(layer.structure, ())))
            for layer, tilings in zip(layers, host.tilings[model], strict=True)
        )
        for model, layers in host.layers.items()
    }
    tilings = {
        model: tuple(tuple(one.tiling for one in versions) for versions in layers)
        for model, layers in picked.items()
    }
    return replace(host, tilings=tilings, costs=_costs(host, picked))


def _versions(
    tilings: Sequence[Tiling], chosen: Sequence[Candidate], candidates: Sequence[Candidate]
) -> Iterator[_Chosen]:
    """Yield the versions of a layer whose versions here have some tilings."""
    searched_s = [_searched_s(tiling, candidates) for tiling in tilings]
    known = [number for number, seconds in enumerate(searched_s) if seconds is not None]
    if not (chosen and known):
        yield from (_Chosen(tiling, number) for number, tiling in enumerate(tilings))
        return
    for candidate in chosen:
        ratios = {number: candidate.median_seconds / (searched_s[number] or 1.0) for number in known}
        source = min(known, key=lambda number: (max(ratios[number], 1 / ratios[number]), number))
        # Of candidates alike in these sizes the fastest one was built.
        same = [number for number in known if _is_of(candidate, tilings[number]) and ratios[number] == 1.0]
        if same:
            yield _Chosen(tilings[same[0]], same[0])
        else:
            yield _Chosen(_like(tilings[source], candidate), source, ratios[source], exact=False)


def _like(tiling: Tiling, candidate: Candidate) -> Tiling:
    """Return the tiling of a candidate; what is not its own is that of a version of the same layer."""
    # Layers that look rows up have no curve, whatever the version.
    fetched = curve(candidate.traffic_bytes) if tiling.fetched_bytes else ()
    return replace(
        tiling, fetched_bytes=fetched, **{name: getattr(candidate.tiling, name) for name in _SIZES}
    )


def _searched_s(tiling: Tiling, candidates: Sequence[Candidate]) -> float | None:
    """Return the time in the search of the fastest candidate of a version's sizes; None if there is none."""
    times = (one.median_seconds for one in candidates if one.run_seconds and _is_of(one, tiling))
    return min(times, default=None)


def _is_of(candidate: Candidate, tiling: Tiling) -> bool:
    """Return whether a candidate has the sizes of a version."""
    return all(getattr(candidate.tiling, name) == getattr(tiling, name) for name in _SIZES)


def _costs(host: Tables, picked: Mapping[str, Sequence[Sequence[_Chosen]]]) -> CostTable:
    rows = [
        (model, layer, one.source, number, one.scale, one.exact, float(one.tiling.compulsory_bytes))
        for model, layers in picked.items()
        for layer, versions in enumerate(layers)
        for number, one in enumerate(versions)
    ]
    names = [*_SOURCE, "number", "scale", "exact", "compulsory_bytes"]
    repeats = host.costs.repeats.rename(columns={"version": "source"})
    found = repeats.merge(pd.DataFrame(rows, columns=names), on=_SOURCE)
    found = found[found["exact"] | ((found["cores"] == 1) & (found["level"] == 0))]
    found = found.assign(
        version=found["number"],
        seconds=found["seconds"] * found["scale"],
        footprint_bytes=found["compulsory_bytes"],
    )
    return CostTable(found[list(host.costs.repeats.columns)].reset_index(drop=True), host.costs.machine)
