"""How tables and figures name and order what they show: policies, sources of numbers, and the numbers."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

MEASURED = "engine"  # the backend whose numbers are measured; the others' are not
NONE = "\N{EN DASH}"  # printed where there is no number
SCENARIO_COLUMNS = ("backend", "machine", "workload")
Row = Mapping[Hashable, Any]
SourceKey = tuple[str, str]  # backend, machine


@dataclass(frozen=True, slots=True)
class PolicyOrder:
    """The order in which policies are shown, and that in which they get colours and markers.

    Policies that an order does not name follow as they come. Those of one of the `families` have shades of
    one colour. `options` are by policy those that change results of any policy a lot, by name.
    """

    rows: Sequence[str] = ()
    styles: Sequence[str] = ()
    families: Sequence[Sequence[str]] = ()
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def of(self, names: Iterable[str]) -> list[str]:
        """Return each name once, in the order in which they are shown."""
        distinct = list(dict.fromkeys(names))
        return [name for name in self.rows if name in distinct] + [
            name for name in distinct if name not in self.rows
        ]

    def options_note(self, policies: Iterable[str]) -> list[str]:
        """Return a sentence with these policies' options: those of most, then who differs; [] if unknown."""
        stated = {name: self.options[name] for name in self.of(policies) if name in self.options}
        names = list(dict.fromkeys(option for options in stated.values() for option in options))
        if not names:
            return []
        groups: dict[str, list[str]] = {}
        for policy, options in stated.items():
            groups.setdefault(", ".join(options.get(name, NONE) for name in names), []).append(policy)
        usual, *others = sorted(groups, key=lambda values: -len(groups[values]))
        text = f"Options {', '.join(names)}: {usual}"
        differing = "; ".join(f"{values} of {', '.join(groups[values])}" for values in others)
        return [f"{text}; but {differing}." if differing else f"{text}."]


AS_THEY_COME = PolicyOrder()


def sources(*tables: pd.DataFrame) -> list[SourceKey]:
    """Return each (backend, machine) of the tables once: measured ones first, else as they come."""
    pairs = [pair for table in tables for pair in zip(table["backend"], table["machine"], strict=True)]
    return sorted(dict.fromkeys(pairs), key=lambda pair: pair[0] != MEASURED)


def source_name(source: SourceKey, *tables: pd.DataFrame) -> str:
    """Return how figures and tables name where numbers come from; a described machine is marked."""
    validated = all(table.loc[at_source(table, source), "validated"].astype(bool).all() for table in tables)
    how = "measured here" if source[0] == MEASURED else "simulated" if source[0] == "simulator" else source[0]
    return f"{source[1]}, {how}" + ("" if validated else ": UNVALIDATED")


def at_source(table: pd.DataFrame, source: SourceKey) -> "pd.Series[bool]":
    """Return which rows belong to a (backend, machine)."""
    return (table["backend"] == source[0]) & (table["machine"] == source[1])


def relaxed_changes(relaxed: pd.DataFrame) -> list[str]:
    """Return of each row of a table of targets what it was relaxed from, and to what."""
    return [
        f"{row['model']} {number(1e3 * row['qos_table_s'])} to {number(1e3 * row['qos_s'])} ms"
        for row in relaxed.to_dict("records")
    ]


def number(value: float) -> str:
    """Return a number with three significant digits and no exponent; an en dash for NaN."""
    if not np.isfinite(value):
        return NONE if np.isnan(value) else str(value)
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def span(values: Iterable[float]) -> str:
    """Return "low-high" of some numbers, one number if they agree as printed, "?" if there are none."""
    known = [float(value) for value in values if np.isfinite(value)]
    if not known:
        return "?"
    low, high = number(min(known)), number(max(known))
    return low if low == high else f"{low}\N{EN DASH}{high}"
