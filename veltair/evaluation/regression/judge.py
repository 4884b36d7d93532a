"""Whether one state of the project does worse than another, as statistics.

Simulated results are exact, so they are compared for equality. Measured ones vary from run to run: runs of
both states are made in turns on one machine with equal seeds, and the median of the ratios of such pairs is
judged.
Everything here is a function of numbers and tables; `regression_runs.py` reads them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from math import inf, isclose, isfinite, nan
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Better = Literal["higher", "lower", "neither"]
LEAST_PAIRS = 6  # of fewer, no pattern of better and worse is rare enough to rule out luck
SMALLEST = 0.03  # a change of less than 3 % is not worth an alarm
CONFIDENCE = 0.95  # of all intervals together
RESAMPLES = 2000
GROUP = ("backend", "machine", "workload", "policy")  # the columns that name whose numbers a row holds
# Benchmarks have their units in words; these say nothing of which direction is good.
BETTER_BY_NAME: tuple[tuple[str, Better], ...] = (
    ("growth_*", "lower"),
    ("*_error*", "lower"),
    ("kernel_ratio_*", "higher"),
    ("ranking_tau", "higher"),
    ("vs_*", "higher"),
    ("*_vs_*", "higher"),
)
LOWER_UNITS = ("s", "ms", "us", "µs", "MB", "core-s", "bytes")


class ChangeKind(StrEnum):
    """What a comparison of one quantity says."""

    EQUAL = "equal"
    DIFFERS = "differs"  # a simulated result that should be equal
    NO_CHANGE = "no change"
    IMPROVEMENT = "improvement"
    CHANGED = "changed"  # of a quantity that is neither better high nor low
    REGRESSION = "regression"
    NOT_JUDGED = "not judged"


ALARMS = (ChangeKind.DIFFERS, ChangeKind.REGRESSION)


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number that runs have: `subject` says whose, `metric` what, in the words of results/README.md."""

    subject: str
    metric: str
    better: Better = "higher"


@dataclass(frozen=True, slots=True)
class Change:
    """How a quantity changed: medians before and after, the median of paired ratios and its interval.

    Numbers are NaN where there are none: texts that are compared for equality, and pairs without a ratio.
    """

    quantity: Quantity
    outcome: ChangeKind
    reason: str
    pairs: int
    before: float = nan
    after: float = nan
    ratio: float = nan
    low: float = nan
    high: float = nan

    @property
    def alarm(self) -> bool:
        """Whether something got worse, or a result that should be equal is not."""
        return self.outcome in ALARMS


def judge(
    samples: Mapping[Quantity, tuple[Sequence[float], Sequence[float]]],
    interleaved: bool = True,
    seed: int = 0,
) -> list[Change]:
    """Return how each measured quantity changed, from its values before and after, pair by pair.

    A regression is a change for the worse of more than `SMALLEST` whose interval leaves 1 out. Intervals are
    bootstrapped over runs, and hold for all quantities that are judged together (Bonferroni). With fewer than
    `LEAST_PAIRS` pairs, or runs that were not made in turns, nothing is judged. Raises ValueError if a
    quantity has not as many values before as after.
    """
    usable = {key: _usable(key, *values) for key, values in samples.items()}
    judged = sum(len(ratios) >= LEAST_PAIRS for _, _, ratios in usable.values())
    confidence = 1 - (1 - CONFIDENCE) / max(judged, 1)
    return [
        _judge_one(key, *values, len(samples[key][0]), interleaved, confidence, np.random.default_rng(seed))
        for key, values in usable.items()
    ]


def compare_exactly(name: str, before: pd.DataFrame, after: pd.DataFrame) -> list[Change]:
    """Return, for each policy and site of a table of simulated results, whether every cell is equal.

    Cells are compared as they were written, row by row. Columns that only one table has are named.
    """
    columns = [column for column in GROUP if column in before and column in after]
    unlike = sorted({*map(str, before.columns)} ^ {*map(str, after.columns)})
    if unlike:
        reason = f"columns that only one has: {', '.join(unlike)}"
        return [Change(Quantity("all rows", name, "neither"), ChangeKind.DIFFERS, reason, 1)]
    keys = before[columns].apply(", ".join, axis=1) if columns and len(before) else None
    if keys is None:
        return [_equality(Quantity("all rows", name, "neither"), before, after)]
    others = after[columns].apply(", ".join, axis=1) if len(after) else pd.Series(dtype="str")
    return [
        _equality(Quantity(key, name, "neither"), before[keys == key], after[others == key])
        for key in dict.fromkeys([*keys, *others])
    ]


def better_of(name: str, unit: str) -> Better:
    """Return which direction of a benchmark's figure is good, from its name, else from its unit in words."""
    for pattern, better in BETTER_BY_NAME:
        if fnmatchcase(name, pattern):
            return better
    quantity = unit.replace(";", ",").partition(",")[0].strip()
    if quantity.endswith("/s"):
        return "higher"
    per = quantity.partition("/")[0].partition(" ")[0]
    return "lower" if per in LOWER_UNITS or quantity == "relative error" else "neither"


def _usable(
    quantity: Quantity, before: Sequence[float], after: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the pairs that have a ratio, and the ratios."""
    if len(before) != len(after):
        raise ValueError(
            f"{quantity.metric} of {quantity.subject} has {len(before)} values before and {len(after)} "
            "after; give as many runs of the one as of the other"
        )
    old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    known = np.isfinite(old) & np.isfinite(new) & (old > 0)
    return old[known], new[known], new[known] / old[known]


def _judge_one(
    quantity: Quantity,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    ratios: NDArray[np.float64],
    given: int,
    interleaved: bool,
    confidence: float,
    random: np.random.Generator,
) -> Change:
    if not len(ratios):
        return Change(quantity, ChangeKind.NOT_JUDGED, f"none of {given} pairs has a ratio", 0)
    ratio = float(np.median(ratios))
    low, high = _interval(ratios, confidence, random)
    outcome, reason = _outcome(quantity.better, ratio, low, high)
    if len(ratios) < LEAST_PAIRS:
        reason = f"{len(ratios)} of the {LEAST_PAIRS} pairs that are needed"
        outcome, low, high = ChangeKind.NOT_JUDGED, nan, nan
    elif not interleaved:
        outcome, reason = (
            ChangeKind.NOT_JUDGED,
            "runs were not made in turns, so the machine's drift counts too",
        )
    medians = float(np.median(before)), float(np.median(after))
    return Change(quantity, outcome, reason, len(ratios), *medians, ratio, low, high)


def _interval(
    ratios: NDArray[np.float64], confidence: float, random: np.random.Generator
) -> tuple[float, float]:
    """Return the percentile interval of the median; runs are drawn anew with replacement."""
    if len(ratios) < 2:
        return -inf, inf
    found = stats.bootstrap(
        (ratios,),
        np.median,
        vectorized=True,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        rng=random,
    ).confidence_interval
    return float(found.low), float(found.high)


def _outcome(better: Better, ratio: float, low: float, high: float) -> tuple[ChangeKind, str]:
    if low <= 1 <= high:
        return ChangeKind.NO_CHANGE, "the interval holds 1"
    if abs(ratio - 1) <= SMALLEST or isclose(abs(ratio - 1), SMALLEST):
        return ChangeKind.NO_CHANGE, f"a change of at most {SMALLEST:.0%}"
    reason = f"{ratio - 1:+.1%}, and the interval leaves 1 out"
    if better == "neither":
        return ChangeKind.CHANGED, reason
    worse = ratio < 1 if better == "higher" else ratio > 1
    return (ChangeKind.REGRESSION if worse else ChangeKind.IMPROVEMENT), reason


def _equality(quantity: Quantity, before: pd.DataFrame, after: pd.DataFrame) -> Change:
    if len(before) != len(after):
        return Change(quantity, ChangeKind.DIFFERS, f"{len(before)} rows before, {len(after)} after", 1)
    after = after[list(before.columns)]
    differs = before.to_numpy() != after.to_numpy()
    if not differs.any():
        return Change(quantity, ChangeKind.EQUAL, f"all {len(before)} rows", 1)
    row, column = (int(index) for index in np.argwhere(differs)[0])
    old, new = str(before.iat[row, column]), str(after.iat[row, column])
    rows = int(differs.any(axis=1).sum())
    first = f"first in row {row + 1}: {before.columns[column]} was {old}, is {new}"
    reason = f"{rows} of {len(before)} rows differ; {first}"
    return Change(quantity, ChangeKind.DIFFERS, reason, 1, *_numbers(old, new))


def _numbers(old: str, new: str) -> tuple[float, float, float]:
    """Return two texts as numbers, and their ratio; NaN where they are none."""
    try:
        before, after = float(old), float(new)
    except ValueError:
        return nan, nan, nan
    return before, after, after / before if before and isfinite(before) else nan
