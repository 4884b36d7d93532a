"""Results of two states of the project, read and paired: what `compare` judges.

One side is a benchmark's JSON, a folder of metric tables, a folder of results (which holds one as `metrics`),
or a folder of several of these: then each is one run, in the order of their names, numbers by their value.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import nan
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from veltair.evaluation.metrics.policies_table import MEASURED
from veltair.evaluation.regression.judge import Better, Change, Quantity, better_of, compare_exactly, judge
from veltair.provenance import (
    SUFFIX,
    Provenance,
    ProvenanceError,
    provenance_of,
    provenance_path,
    read_provenance,
)

Part = Literal["simulated", "measured"]
PARTS: tuple[Part, ...] = ("simulated", "measured")
CAPACITY, MEASURED_CAPACITY, CURVES = "capacity.csv", "measured_capacity.csv", "curves.csv"
MACHINE = ("cpu", "cores", "caches")  # of a provenance: what measured results must share
SITE = ("machine", "workload", "policy")
# A policy beyond the rates that were measured counts as the bound that is known of it.
CAPACITY_METRICS: dict[str, Better] = {"at_least_qps": "higher", "minimum_at_least_qps": "higher"}
CURVE_METRICS: dict[str, Better] = {
    "satisfaction": "higher",
    "latency_mean_s": "lower",
    "latency_p95_s": "lower",
    "cpu_efficiency": "higher",
}
SeededQuantity = tuple[Quantity, int | None]  # a quantity of a run, and the seed that it was drawn with


class ComparisonError(ValueError):
    """Two sides that cannot be compared, or a path that holds no results."""


@dataclass(frozen=True, slots=True)
class RunResults:
    """One run: `measured` numbers by quantity and seed, `simulated` tables with every cell as it was written.

    `seeds` are those of the measured runs. `costs` are digests of the cost tables that were simulated from,
    by machine; empty where they are unknown.
    """

    path: Path
    provenance: Provenance
    measured: Mapping[SeededQuantity, float]
    simulated: Mapping[str, pd.DataFrame]
    seeds: tuple[int, ...]
    costs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changed, what could not be compared and why, and what a reader must know besides."""

    changes: tuple[Change, ...]
    refused: tuple[str, ...]
    notes: tuple[str, ...]


def compare(before: Path, after: Path, parts: Sequence[Part] = PARTS) -> Comparison:
    """Return how the results at `after` differ from those at `before`.

    Raises ComparisonError where a path holds no results, or the two sides have not as many runs or other
    seeds; ProvenanceError where a file is not the one it was written as.
    """
    sides = read_runs(before), read_runs(after)
    if len(sides[0]) != len(sides[1]):
        raise ComparisonError(
            f"{before} holds {len(sides[0])} runs and {after} {len(sides[1])}; give as many of the one as of "
            "the other, made in turns"
        )
    changes: list[Change] = []
    refused: list[str] = []
    for part, function in (("simulated", _compare_simulated), ("measured", _compare_measured)):
        if part in parts:
            try:
                changes += function(*sides)
            except ProvenanceError as error:
                refused.append(f"{part} results: {error}")
    if not changes and not refused:
        raise ComparisonError(
            f"{before} and {after} have no {' or '.join(parts)} result in common; give two runs of "
            "one configuration"
        )
    return Comparison(tuple(changes), tuple(refused), tuple(_notes(*sides)))


def read_runs(path: Path) -> list[RunResults]:
    """Return the runs at a path, in order. Raises ComparisonError if there are none."""
    if not path.exists():
        raise ComparisonError(
            f"{path} does not exist; give a folder of results or metrics, or a benchmark's JSON"
        )
    run = _read_run(path)
    if run is not None:
        return [run]
    # Hidden folders are other programs', such as a notebook's copies.
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")] if path.is_dir() else []
    inside = sorted(entries, key=_natural)
    runs = [found for entry in inside if (found := _read_run(entry)) is not None]
    if not runs:
        raise ComparisonError(
            f"{path} holds neither {CAPACITY} nor {MEASURED_CAPACITY}, nor does its folder metrics, is no "
            "benchmark's JSON, and has none of these inside; give a folder of results or metrics, or a "
            "benchmark's JSON"
        )
    return runs


def made_in_turns(before: Sequence[RunResults], after: Sequence[RunResults]) -> bool:
    """Return whether each pair of runs was over before the next began, in the order of their names."""
    times = [
        tuple(sorted((old.provenance.time_utc, new.provenance.time_utc)))
        for old, new in zip(before, after, strict=True)
    ]
    return len(times) > 1 and all(first[1] <= second[0] for first, second in pairwise(sorted(times)))


def _read_run(path: Path) -> RunResults | None:
    if path.suffix == ".json" and path.is_file() and not path.name.endswith(SUFFIX):
        return _read_benchmark(path)
    for folder in (path, path / "metrics"):
        if any((folder / name).is_file() for name in (CAPACITY, MEASURED_CAPACITY)):
            return _read_metrics(folder, path)
    return None


def _read_benchmark(path: Path) -> RunResults | None:
    document = _read_json(path)
    if not isinstance(document, dict) or "figures" not in document:
        return None
    try:
        return _benchmark_of(path, document)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ProvenanceError):
            raise
        raise ComparisonError(
            f"{path} is no benchmark as ours are written ({type(error).__name__}: {error}); make it anew"
        ) from error


def _benchmark_of(path: Path, document: Mapping[str, Any]) -> RunResults:
    if provenance_path(path).exists():
        provenance = read_provenance(path)
    else:
        provenance = provenance_of(document["provenance"])
    figures: dict[SeededQuantity, float] = {
        (Quantity("benchmark", name, better_of(name, figure["unit"])), None): float(figure["value"])
        for name, figure in document["figures"].items()
    }
    return RunResults(path, provenance, figures, {}, (), {})


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ComparisonError(
            f"{path} is no JSON, such as a file that was cut off ({error}); make it anew"
        ) from error


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype="str", keep_default_na=False)
    except ValueError as error:
        raise ComparisonError(
            f"{path} is no table, such as one that was cut off ({error}); make it anew"
        ) from error


def _read_metrics(folder: Path, given: Path) -> RunResults:
    files = sorted(folder.glob("*.csv"))
    provenances = {file.name: read_provenance(file) for file in files}
    tables = {file.name: _read_table(file) for file in files}
    simulated = {name: rows for name, table in tables.items() if len(rows := _without_measured(table))}
    if not any("backend" in table for table in simulated.values()):
        simulated = {}  # what is left are targets of this machine, which were measured
    try:
        measured = _measured(tables)
        seeds = {int(row["seed"]) for row in _measured_rows(tables.get(MEASURED_CAPACITY))}
    except (LookupError, ValueError) as error:
        raise ComparisonError(
            f"{folder} has tables of other columns or values than ours ({type(error).__name__}: {error}); "
            "make them anew"
        ) from error
    origin = provenances.get(CAPACITY) or provenances[MEASURED_CAPACITY]
    return RunResults(given, origin, measured, simulated, tuple(sorted(seeds)), _costs(given))


def _without_measured(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["backend"] != MEASURED].reset_index(drop=True) if "backend" in table else table


def _measured(tables: Mapping[str, pd.DataFrame]) -> dict[SeededQuantity, float]:
    """Return the measured numbers of the metric tables, by the seed of all their schedules."""
    found: dict[SeededQuantity, float] = {}
    for name, metrics in ((MEASURED_CAPACITY, CAPACITY_METRICS), (CURVES, CURVE_METRICS)):
        for row in _measured_rows(tables.get(name)):
            seed = int(row["seed"])
            # The rates themselves follow from the profile, which is measured anew.
            at = f" at {row['share']} of the sequential rate" if "share" in row else ""
            subject = ", ".join(str(row[column]) for column in SITE) + at
            for metric, better in metrics.items():
                found[Quantity(subject, metric, better), seed] = _number(row[metric])
    return found


def _measured_rows(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    if table is None or "backend" not in table:
        return []
    rows = table[table["backend"] == MEASURED].to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows]


def _number(text: str) -> float:
    return float(text) if text else nan


def _costs(results: Path) -> dict[str, str]:
    """Return the digests of the cost tables that a folder of results was simulated from, by machine."""
    found: dict[str, str] = {}
    for beside in sorted(results.glob(f"simulated/*/*/*/{CAPACITY}{SUFFIX}")):
        document = _read_json(beside)
        inputs = document.get("inputs") if isinstance(document, dict) else None
        if not isinstance(inputs, dict):
            raise ComparisonError(f"{beside} names no inputs; produce the result beside it anew")
        digests = [str(digest) for name, digest in inputs.items() if name.endswith("costs.parquet")]
        found |= dict.fromkeys([beside.parts[-4]], *digests[:1])
    return found


def _compare_simulated(before: Sequence[RunResults], after: Sequence[RunResults]) -> list[Change]:
    changes: dict[Quantity, Change] = {}
    for old, new in zip(before, after, strict=True):
        _check_costs(old, new)
        for name in sorted({*old.simulated} & {*new.simulated}):
            for change in compare_exactly(name, old.simulated[name], new.simulated[name]):
                # Of several pairs the first that differs is told.
                if change.quantity not in changes or not changes[change.quantity].alarm:
                    changes[change.quantity] = change
    return list(changes.values())


def _check_costs(old: RunResults, new: RunResults) -> None:
    unlike = [name for name in old.costs if new.costs.get(name, old.costs[name]) != old.costs[name]]
    if unlike:
        raise ProvenanceError(
            f"{old.path} and {new.path} were simulated from unlike cost tables ({', '.join(unlike)}), so "
            "equality means nothing; simulate both from the same ones, such as the shipped "
            "(`profile.costs: shipped`)"
        )


def _compare_measured(before: Sequence[RunResults], after: Sequence[RunResults]) -> list[Change]:
    runs = [run for run in (*before, *after) if run.measured]
    if not runs:
        return []
    for run in runs[1:]:
        _check_machine(runs[0], run)
    samples: dict[Quantity, tuple[list[float], list[float]]] = {}
    for old, new in zip(before, after, strict=True):
        if old.seeds != new.seeds:
            raise ComparisonError(
                f"{old.path} was measured with seeds {list(old.seeds)} and {new.path} with "
                f"{list(new.seeds)}; give pairs of equal seeds"
            )
        for (quantity, seed), value in old.measured.items():
            if (quantity, seed) in new.measured:
                values = samples.setdefault(quantity, ([], []))
                values[0].append(value)
                values[1].append(new.measured[quantity, seed])
    return judge(samples, made_in_turns(before, after))


def _check_machine(one: RunResults, other: RunResults) -> None:
    """Raise ProvenanceError unless two runs were measured on one machine; the code may differ."""
    unlike = [
        f"{name} is {getattr(one.provenance, name)!r} and {getattr(other.provenance, name)!r}"
        for name in MACHINE
        if getattr(one.provenance, name) != getattr(other.provenance, name)
    ]
    if unlike:
        raise ProvenanceError(
            f"{one.path} and {other.path} come from unlike machines: {'; '.join(unlike)}; measure both on "
            "one machine, in turns, or compare simulated results only (--only simulated)"
        )


def _notes(before: Sequence[RunResults], after: Sequence[RunResults]) -> list[str]:
    """Return what differs between the sides besides their results."""
    found = []
    for name in ("commit", "changes", "config", "kernel", "python", "packages"):
        old, new = (
            sorted({str(getattr(run.provenance, name)) for run in side if getattr(run.provenance, name)})
            for side in (before, after)
        )
        if old != new:
            found.append(f"{name}: {_brief(old)} before, {_brief(new)} after")
    return found


def _brief(values: Sequence[str]) -> str:
    """Return digests by their first digits, and nothing of what is too long to read."""
    return ", ".join(value[:12] if len(value) in (40, 64) else value for value in values)[:200] or "none"


@cache
def _words(name: str) -> tuple[tuple[int, str], ...]:
    return tuple((int(word), "") if word.isdigit() else (-1, word) for word in re.findall(r"\d+|\D+", name))


def _natural(path: Path) -> tuple[tuple[int, str], ...]:
    return _words(path.name)
