"""The search's result on disk: a table of all candidates, the traces of those that may be chosen, and hashes.

The hashes stand in `search.json`. A table that is not the one that was written is refused; a structure whose
traces are not is left out, and no other is touched.
"""

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from veltair.compiler.footprint.traffic import CACHE_BYTES, Tiling
from veltair.compiler.footprint.version import Candidate
from veltair.compiler.recipes.plan import parse
from veltair.compiler.recipes.recipe import RecipeError, is_recipe
from veltair.compiler.select.core_counts import doubling
from veltair.compiler.select.select import Costs, FrontMetric, Selection, rounds_costs, select
from veltair.provenance import write_atomically

CANDIDATES = "candidates.parquet"
TRACES = "traces.json.gz"
STORE_INFO = "search.json"
FILES = (CANDIDATES, TRACES, STORE_INFO)
MOST_VERSIONS = 8  # the saturation study keeps up to this many
ONE_CORE = rounds_costs((1,))
# What a trial took where the shipped candidates were searched, on two cores of an AMD EPYC; for estimates
# before a first trial is measured.
SECONDS_PER_TRIAL = 0.35
# How many recipes, and how many schedules written by hand, a structure gets that is served without a search.
FEW = 1


class StoreError(ValueError):
    """A store of candidates that cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class SearchInfo:
    """What the candidates of a store were searched for, and where they were measured.

    `cpu` is LLVM's name of the CPU they were built for, `cores` the core count of the largest machine they
    are for, `measured_cores` how many cores ran them, `core_peak_flops` the peak of one of these (0: not
    known), `slack` the one that tells which traces are kept, `seconds_per_trial` what a candidate took.
    """

    cpu: str
    cores: int
    measured_cores: int
    slack: float
    seed: int
    core_peak_flops: float = 0.0
    seconds_per_trial: float = SECONDS_PER_TRIAL

    def __post_init__(self) -> None:
        for name in ("cores", "measured_cores", "slack"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} of a search is {getattr(self, name)}; it is 1 or more")
        if not (self.seconds_per_trial > 0 and self.core_peak_flops >= 0):
            raise ValueError(
                f"a search of {self.seconds_per_trial} s a trial on {self.core_peak_flops} FLOP/s: "
                "give a time above 0 and no negative speed"
            )


def write_store(folder: Path, candidates: Mapping[str, Sequence[Candidate]], info: SearchInfo) -> None:
    """Write all candidates, and the traces that selections of up to 8 versions at this slack need.

    Times are kept as 32-bit floats. Which traces a selection needs depends on the core counts of its machine:
    kept are those for all machines of 1, 2, 4, … cores up to `info.cores`.
    """
    rounded = {structure: [_rounded(one) for one in group] for structure, group in candidates.items()}
    table = io.BytesIO()
    _frame(rounded).to_parquet(table, index=False, compression="zstd")
    traces = {structure: _kept_traces(group, info) for structure, group in rounded.items()}
    document = {
        **asdict(info),
        "cache_bytes": list(CACHE_BYTES),
        "table_sha256": hashlib.sha256(table.getvalue()).hexdigest(),
        "structures": {
            structure: {
                "trials": len(group),
                "ran": sum(bool(one.run_seconds) for one in group),
                "traces_sha256": _digest(traces[structure]),
            }
            for structure, group in rounded.items()
        },
    }
    write_atomically(
        {
            folder / CANDIDATES: table.getvalue(),
            folder / TRACES: gzip.compress(_text(traces).encode(), mtime=0),
            folder / STORE_INFO: (json.dumps(document, indent=1) + "\n").encode(),
        }
    )


def read_info(folder: Path) -> SearchInfo:
    """Return what the candidates of a store were searched for. Raises StoreError."""
    document = _document(folder)
    try:
        return SearchInfo(**{field.name: document[field.name] for field in fields(SearchInfo)})
    except (KeyError, TypeError, ValueError) as error:
        raise _corrupt(folder / STORE_INFO, error) from error


def read_store(folder: Path, structures: Iterable[str]) -> dict[str, tuple[Candidate, ...]]:
    """Return all candidates of the structures; those whose trace was not kept have the trace None.

    Raises StoreError if the store is missing or corrupt, or lacks a structure.
    """
    wanted = list(structures)
    found = find_candidates(folder, wanted)
    for structure in wanted:
        if structure not in found:
            raise StoreError(
                f"{folder} has no candidates of layer structure {structure}, or its traces are damaged or "
                "outdated; search it (`search.missing: search`)"
            )
    return {structure: found[structure] for structure in wanted}


def find_candidates(folder: Path, structures: Iterable[str]) -> dict[str, tuple[Candidate, ...]]:
    """Return the candidates of those structures that the store has whole, in the order of the table.

    Those are left out that have a recipe which this program cannot build, see `outdated_structures`.
    Raises StoreError if the store is missing or corrupt.
    """
    info, document = read_info(folder), _document(folder)
    table, traces = _read_table(folder, document), _read_traces(folder)
    wanted = set(structures)
    try:
        intact = {
            name
            for name, entry in document["structures"].items()
            if name in wanted
            and _digest(traces.get(name)) == entry["traces_sha256"]
            and _why_outdated(traces[name]) is None
        }
        rows = table[table["structure"].isin(intact)]
        return {
            str(name): _candidates(str(name), group, traces[str(name)], info.measured_cores)
            for name, group in rows.groupby("structure", sort=False, observed=True)
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _corrupt(folder, error) from error


def damaged_structures(folder: Path) -> list[str]:
    """Return the structures of a store whose traces are not those that were written."""
    traces = _read_traces(folder)
    entries = _document(folder)["structures"].items()
    return [name for name, entry in entries if _digest(traces.get(name)) != entry["traces_sha256"]]


def outdated_structures(folder: Path, structures: Iterable[str]) -> dict[str, str]:
    """Return those structures of a store that have a recipe which this program cannot build, and why not.

    Those whose traces are damaged are not among them.
    """
    traces, entries = _read_traces(folder), _document(folder)["structures"]
    reasons = {one: _why_outdated(traces[one]) for one in structures if one in traces and one in entries}
    return {
        one: reason
        for one, reason in reasons.items()
        if reason is not None and _digest(traces[one]) == entries[one]["traces_sha256"]
    }


def choose(
    candidates: Mapping[str, Sequence[Candidate]], selection: Selection, costs: Costs = ONE_CORE
) -> dict[str, tuple[Candidate, ...]]:
    """Select the versions of each structure; where the trace of one was not kept, of those that have theirs.

    That happens where slack or core counts are not among those that the store was written for. Raises
    StoreError if a structure has no candidate that ran and whose trace was kept.
    """
    return {structure: _choose(structure, group, selection, costs) for structure, group in candidates.items()}


def _choose(
    structure: str, group: Sequence[Candidate], selection: Selection, costs: Costs
) -> tuple[Candidate, ...]:
    if any(one.run_seconds for one in group):
        chosen = select(group, selection, costs)
        if all(one.trace is not None for one in chosen):
            return chosen
    kept = [one for one in group if one.run_seconds and one.trace is not None]
    if not kept:
        raise StoreError(
            f"no candidate of layer structure {structure} ran, or none of their traces was kept; search it "
            "anew with more trials (`search.trials`, `search.reuse: false`)"
        )
    return select(kept, selection, costs)


def _rounded(one: Candidate) -> Candidate:
    return replace(one, run_seconds=tuple(float(np.float32(second)) for second in one.run_seconds))


def _frame(candidates: Mapping[str, Sequence[Candidate]]) -> pd.DataFrame:
    rows = [
        (
            one.structure,
            one.index,
            one.tiling.parallelism,
            one.tiling.blocking_bytes,
            one.tiling.compulsory_bytes,
            one.origin,
            np.array(one.traffic_bytes, np.int64),
            np.array(one.run_seconds, np.float32),
        )
        for group in candidates.values()
        for one in group
    ]
    columns = ["structure", "candidate", "parallelism", "blocking_bytes", "compulsory_bytes", "origin"]
    frame = pd.DataFrame(rows, columns=[*columns, "traffic_bytes", "run_seconds"])
    return frame.astype({"structure": "category", "origin": "category"})


def _candidates(
    structure: str, rows: pd.DataFrame, traces: Mapping[str, Any], measured_cores: int
) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(
            structure,
            int(row["candidate"]),
            Tiling(int(row["parallelism"]), int(row["blocking_bytes"]), int(row["compulsory_bytes"])),
            tuple(map(float, row["run_seconds"])),
            traces.get(str(row["candidate"])),
            row["origin"],
            tuple(map(int, row["traffic_bytes"])),
            measured_cores,
        )
        for row in rows.to_dict("records")
    )


def _document(folder: Path) -> dict[str, Any]:
    for name in FILES:
        if not (folder / name).is_file():
            raise StoreError(f"{folder / name} is missing; restore it or search (`search.reuse: false`)")
    try:
        document: dict[str, Any] = json.loads((folder / STORE_INFO).read_text(encoding="utf-8"))
        return {**document, "structures": dict(document["structures"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _corrupt(folder / STORE_INFO, error) from error


def _read_table(folder: Path, document: Mapping[str, Any]) -> pd.DataFrame:
    content = (folder / CANDIDATES).read_bytes()
    if hashlib.sha256(content).hexdigest() != document.get("table_sha256"):
        raise _corrupt(folder / CANDIDATES, f"its hash is not the one in {STORE_INFO}")
    return pd.read_parquet(io.BytesIO(content))


def _read_traces(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        return dict(json.loads(gzip.decompress((folder / TRACES).read_bytes())))
    except (OSError, EOFError, ValueError, TypeError, zlib.error) as error:
        raise _corrupt(folder / TRACES, error) from error


def _why_outdated(traces: Mapping[str, Any]) -> str | None:
    for trace in filter(is_recipe, traces.values()):
        try:
            parse(trace)
        except RecipeError as error:
            return str(error)
    return None


def _corrupt(path: Path, error: object) -> StoreError:
    return StoreError(f"{path} is corrupt ({error}); restore it or search (`search.reuse: false`)")


def _kept_traces(group: Sequence[Candidate], info: SearchInfo) -> dict[str, Any]:
    if not any(one.run_seconds for one in group):
        return {}
    metrics: list[FrontMetric] = list(get_args(FrontMetric))
    if not all(one.traffic_bytes for one in group if one.run_seconds):
        metrics.remove("traffic")
    kept = {
        one.index: one.trace
        for cores in doubling(info.cores)
        for metric in metrics
        for count in range(1, MOST_VERSIONS + 1)
        for one in select(group, Selection(info.slack, count, metric), rounds_costs(doubling(cores)))
        if one.trace is not None
    }
    return {str(index): kept[index] for index in sorted(kept)}


def _digest(traces: Any) -> str:
    return hashlib.sha256(_text(traces).encode()).hexdigest()


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
