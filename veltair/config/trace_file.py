"""Recorded arrivals as CSV: when queries came and, if it says so, for which model."""

import csv
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

TIME, MODEL = "arrival_s", "model"
# A recording that is repeated: from a microsecond to a century.
SHORTEST_S, LONGEST_S = 1e-6, 3e9
SHOWN = 80


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
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            times, own = _arrivals(path, csv.reader(file), model, served)
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: is no text in UTF-8 ({error}); save it as such") from None
    if not own:
        raise TraceError(f"{path}: holds no query for {model}; record some, or give another file")
    span_s = times[-1] - times[0]
    if not span_s > 0:
        raise TraceError(f"{path}: all {len(times)} queries arrive at once; record at least two times")
    length_s = span_s + span_s / (len(times) - 1)
    if not SHORTEST_S <= span_s <= LONGEST_S:
        raise TraceError(
            f"{path}: the recording lasts {span_s:g} s; give one of {SHORTEST_S:g} to {LONGEST_S:g} s"
        )
    return RecordedTrace(tuple(own), length_s)


def _arrivals(
    path: Path, lines: Iterator[list[str]], model: str, served: Collection[str]
) -> tuple[list[float], list[float]]:
    """Return the times of all lines, and those of one model, from the file's first one."""
    times: list[float] = []
    own: list[float] = []
    number = 1
    try:
        header = [name.strip() for name in next(lines, [])]
        if TIME not in header or not set(header) <= {TIME, MODEL} or len(header) != len(set(header)):
            raise TraceError(
                f"{path}, line 1: the columns are {_shown(', '.join(header)) or 'none'}; give {TIME} and, if "
                f"wanted, {MODEL}"
            )
        for cells in lines:
            number += 1
            where = f"{path}, line {number}"
            if len(cells) != len(header):
                raise TraceError(f"{where}: has {len(cells)} values for {len(header)} columns; give one each")
            row = dict(zip(header, map(str.strip, cells), strict=True))
            times.append(_time(row[TIME], times[-1] if times else 0.0, where))
            asked = row.get(MODEL, model)
            if asked not in served:
                raise TraceError(f"{where}: model '{_shown(asked)}' is not served ({', '.join(served)} are)")
            if asked == model:
                own.append(times[-1] - times[0])
    except csv.Error as error:
        raise TraceError(f"{path}, line {number + 1}: {error}") from None
    return times, own


def _shown(text: str) -> str:
    """Return a text of a file as a message can hold it: on one line, and not long."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:SHOWN]


def _time(text: str, before_s: float, where: str) -> float:
    try:
        time_s = float(text)
    except ValueError:
        raise TraceError(f"{where}: {TIME} is '{_shown(text)}', not a number of seconds") from None
    if not (math.isfinite(time_s) and time_s >= 0):
        raise TraceError(f"{where}: {TIME} is {text}; give a finite number of seconds, 0 or more")
    if time_s < before_s:
        raise TraceError(f"{where}: {TIME} is {text}, before the line above ({before_s}); sort the file")
    return time_s
