"""The search's result on disk: a table of all candidates, and the traces of those that may be chosen."""

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from veltair.compiler.select import Selection, select
from veltair.compiler.tiling import Tiling
from veltair.compiler.version import Candidate
from veltair.provenance import write_atomically

CANDIDATES = "candidates.parquet"
TRACES = "traces.json.gz"
MOST_VERSIONS = 8  # the saturation study keeps up to this many


class StoreError(ValueError):
    """A store of candidates that cannot be used; the message says what to do."""


def write_store(folder: Path, candidates: Mapping[str, Sequence[Candidate]], slack: float) -> None:
    """Write all candidates, and the traces that any selection of up to 8 versions at this slack needs."""
    rows = [
        {
            "structure": one.structure,
            "candidate": one.index,
            "parallelism": one.tiling.parallelism,
            "blocking_bytes": one.tiling.blocking_bytes,
            "compulsory_bytes": one.tiling.compulsory_bytes,
            "run_seconds": list(one.run_seconds),
        }
        for group in candidates.values()
        for one in group
    ]
    table = io.BytesIO()
    pd.DataFrame(rows).to_parquet(table, index=False, compression="zstd")
    traces = {structure: _traces(group, slack) for structure, group in candidates.items()}
    text = json.dumps(traces, sort_keys=True, separators=(",", ":"))
    write_atomically(
        {
            folder / CANDIDATES: table.getvalue(),
            folder / TRACES: gzip.compress(text.encode(), mtime=0),
        }
    )


def read_store(folder: Path, structures: Iterable[str]) -> dict[str, tuple[Candidate, ...]]:
    """Return all candidates of the structures; those whose trace was not kept have the trace None.

    Raises StoreError if the store is missing or corrupt, or lacks a structure.
    """
    for path in (folder / CANDIDATES, folder / TRACES):
        if not path.is_file():
            raise StoreError(f"{path} is missing; search (`search.reuse: false`)")
    try:
        table = pd.read_parquet(folder / CANDIDATES)
        traces: dict[str, dict[str, Any]] = json.loads(gzip.decompress((folder / TRACES).read_bytes()))
        groups = {str(name): rows for name, rows in table.groupby("structure", sort=False)}
    except (OSError, EOFError, ValueError, KeyError, zlib.error) as error:
        raise StoreError(
            f"{folder} is corrupt ({error}); restore it or search (`search.reuse: false`)"
        ) from error
    found = {}
    for structure in structures:
        if structure not in groups:
            raise StoreError(
                f"{folder} has no candidates of layer structure {structure}; it was searched for other "
                "models: set `search.reuse: false`"
            )
        found[structure] = tuple(
            Candidate(
                structure,
                row["candidate"],
                Tiling(row["parallelism"], row["blocking_bytes"], row["compulsory_bytes"]),
                tuple(row["run_seconds"]),
                traces.get(structure, {}).get(str(row["candidate"])),
            )
            for row in groups[structure].to_dict("records")
        )
    return found


def choose(
    candidates: Mapping[str, Sequence[Candidate]], selection: Selection
) -> dict[str, tuple[Candidate, ...]]:
    """Select the versions of each structure. Raises StoreError if the trace of one was not kept."""
    chosen = {structure: select(group, selection) for structure, group in candidates.items()}
    for structure, group in chosen.items():
        for one in group:
            if one.trace is None:
                raise StoreError(
                    f"the trace of candidate {one.index} of {structure} was not kept, for it is in no "
                    f"selection of up to {MOST_VERSIONS} versions at the slack of the search; set "
                    "`search.reuse: false`"
                )
    return chosen


def _traces(group: Sequence[Candidate], slack: float) -> dict[str, Any]:
    if not any(one.run_seconds for one in group):
        return {}
    kept = {
        one.index: one.trace
        for count in range(1, MOST_VERSIONS + 1)
        for one in select(group, Selection(slack, count))
    }
    return {str(index): kept[index] for index in sorted(kept)}
