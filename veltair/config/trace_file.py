"""Recorded arrivals as CSV: when queries came and, if it says so, for which model."""

import csv
import math
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

TIME, MODEL = "arrival_s", "model"


class TraceError(ValueError):
    """A file is no recorded trace; the message tells the line."""


class RecordedTrace(NamedTuple):
    """The arrivals of one model, in seconds from the file's first one, and how long the recording lasts.

    `length_s` is from the first arrival of the file to its last, and one mean gap more, after which it can
    begin anew.
    """

    arrivals_s: tuple[float, ...]
    length_s: float


def read_trace(path: Path, model: str, served: Collection[str]) -> RecordedTrace:
    """Return what a file has recorded for a model: all of its lines, unless these name their models.

    Raises TraceError, which names file and line, for a time that is no number, below 0 or before the line
    above, for a model that is not among those `served`, and where nothing is left; OSError for an unreadable
    file.
    """
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        header = [name.strip() for name in next(lines, [])]
        if TIME not in header or not set(header) <= {TIME, MODEL} or len(header) != len(set(header)):
            raise TraceError(
                f"{path}, line 1: the columns are {', '.join(header) or 'none'}; give {TIME} and, if wanted, "
                f"{MODEL}"
            )
        times: list[float] = []
        own: list[float] = []
        for number, cells in enumerate(lines, start=2):
            where = f"{path}, line {number}"
            if len(cells) != len(header):
                raise TraceError(f"{where}: has {len(cells)} values for {len(header)} columns; give one each")
            row = dict(zip(header, map(str.strip, cells), strict=True))
            times.append(_time(row[TIME], times[-1] if times else 0.0, where))
            asked = row.get(MODEL, model)
            if asked not in served:
                raise TraceError(f"{where}: model '{asked}' is not served ({', '.join(served)} are)")
            if asked == model:
                own.append(times[-1] - times[0])
    if not own:
        raise TraceError(f"{path}: holds no query for {model}; record some, or give another file")
    span_s = times[-1] - times[0]
    if not span_s > 0:
        raise TraceError(f"{path}: all {len(times)} queries arrive at once; record at least two times")
    return RecordedTrace(tuple(own), span_s + span_s / (len(times) - 1))


def _time(text: str, before_s: float, where: str) -> float:
    try:
        time_s = float(text)
    except ValueError:
        raise TraceError(f"{where}: {TIME} is '{text}', not a number of seconds") from None
    if not (math.isfinite(time_s) and time_s >= 0):
        raise TraceError(f"{where}: {TIME} is {text}; give a finite number of seconds, 0 or more")
    if time_s < before_s:
        raise TraceError(f"{where}: {TIME} is {text}, before the line above ({before_s}); sort the file")
    return time_s
