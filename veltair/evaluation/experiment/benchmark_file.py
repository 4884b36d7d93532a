"""The file that every benchmark of this project writes: numbers with unit, samples and command."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from veltair.config import Config
from veltair.provenance import collect, write_json


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """One number: the median of its samples, in a unit, and the command that measures it again.

    One that is no median of samples is its own sample, and may have an `interval` of 95 %.
    """

    value: float
    unit: str
    samples: tuple[float, ...]
    command: str
    interval: tuple[float | None, float | None] | None = None


def median_result(samples: Sequence[float], unit: str, command: str) -> BenchmarkResult:
    """Return the median of some samples."""
    return BenchmarkResult(median(samples), unit, tuple(samples), command)


def write_benchmark(
    path: Path, figures: Mapping[str, BenchmarkResult], config: Config, inputs: Sequence[Path]
) -> None:
    """Write {"figures": {name: {value, unit, samples, command}}, "provenance": ...}, intervals if any."""
    provenance = collect(config.model_dump(mode="json"), inputs=inputs)
    document = {
        "figures": {name: _values(figure) for name, figure in figures.items()},
        "provenance": provenance.as_dict(),
    }
    write_json(path, document, provenance)


def _values(figure: BenchmarkResult) -> dict[str, Any]:
    values = asdict(figure)
    return values if figure.interval else {key: value for key, value in values.items() if key != "interval"}
