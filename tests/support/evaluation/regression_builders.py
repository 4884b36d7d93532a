"""Runs of two states of the project, made up: metric tables and benchmarks with their provenance."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from veltair.provenance import Provenance, collect, write_json, write_result

COLUMNS = ("backend", "machine", "validated", "workload", "policy", "seed")


def origin(minute: int = 0, **changes: Any) -> Provenance:
    """Return the provenance of a result that was written at a minute of an hour."""
    made_up: dict[str, Any] = {
        "commit": "c0ffee",
        "changes": "",
        "cpu": "some CPU",
        "cores": (0, 1),
        "caches": {"L3 Unified": "16384K"},
        "time_utc": f"2026-11-21T10:{minute:02d}:00+00:00",
    }
    return replace(_collected(), **{**made_up, **changes})


@cache
def _collected() -> Provenance:
    return collect({}, command="made up")


def capacity_rows(backend: str, qps: Sequence[float], policy: str = "Planaria") -> list[dict[str, Any]]:
    """Return rows of capacity_seeds.csv or, of the engine, measured_capacity.csv; a row a seed."""
    if backend == "engine":
        return [
            {**_named(backend, policy, seed), "at_least_qps": value, "minimum_at_least_qps": 0.9 * value}
            for seed, value in enumerate(qps, start=1)
        ]
    return [
        {
            **_named(backend, policy, seed),
            "qps_at_95": value,
            "high_qps": 1.01 * value,
            "qps_at_95_minimum": 0.9 * value,
            "unservable": value == 0,
            "invalid": "",
        }
        for seed, value in enumerate(qps, start=1)
    ]


def _named(backend: str, policy: str, seed: int) -> dict[str, Any]:
    return dict(zip(COLUMNS, (backend, "box", backend == "engine", "mix", policy, seed), strict=True))


def write_metrics(folder: Path, rows: Sequence[dict[str, Any]], provenance: Provenance) -> Path:
    """Write a folder of metric tables with the capacities of some runs."""
    simulated, measured = (
        pd.DataFrame([row for row in rows if (row["backend"] == "engine") is engine])
        for engine in (False, True)
    )
    tables = {"measured_capacity.csv": measured} if len(measured) else {}
    if len(simulated):
        tables |= {"capacity_seeds.csv": simulated, "capacity.csv": simulated.drop(columns="seed")}
    for name, written in tables.items():
        text = written.to_csv(index=False, lineterminator="\n")
        write_result(folder / name, text.encode(), provenance)
    return folder


def write_benchmark_run(path: Path, figures: dict[str, tuple[float, str]], provenance: Provenance) -> Path:
    """Write a benchmark of figures, each a value and its unit."""
    values = {
        name: {"value": value, "unit": unit, "samples": [value], "command": "made up"}
        for name, (value, unit) in figures.items()
    }
    write_json(path, {"figures": values, "provenance": provenance.as_dict()}, provenance)
    return path


def write_benchmark_pairs(folder: Path, before: Sequence[float], after: Sequence[float]) -> tuple[Path, Path]:
    """Write the latency of a benchmark of pairs that were measured in turns; return both folders."""
    for pair, (old, new) in enumerate(zip(before, after, strict=True)):
        for index, (side, value) in enumerate((("A", old), ("B", new))):
            figures = {"event_us": (value, "µs/event")}
            write_benchmark_run(folder / side / f"{pair}.json", figures, origin(2 * pair + index))
    return folder / "A", folder / "B"


def read(path: Path) -> Any:
    """Return what a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))
