"""Fuzzing: some inputs in every run of the tests, many in those that take long; and inputs to begin with."""

import copy
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# How many inputs a fuzz test tries: `make test`, and `make test-long`.
INPUTS = pytest.mark.parametrize(
    "inputs", [pytest.param(40, id="some"), pytest.param(1000, id="many", marks=pytest.mark.long)]
)
# Whatever takes longer hangs: no input here is more than a few kB.
HANGS_S = 60

ODD_TEXTS = (
    "",
    " ",
    "~",
    "{}",
    "\x00",
    "nan",
    "1e999",
    "010",
    "-1",
    "\N{GREEK SMALL LETTER ALPHA}",
    "../../x",
    "$HOME",
    "a" * 300,
)
ODD_NUMBERS = (0, -1, 1, 2**31, 2**63, 10**30, 0.0, -0.0, 1e-300, 1e300, 0.5, float("nan"), float("inf"))
ODD_VALUES = st.sampled_from((None, True, False, [], {}, [[]], *ODD_TEXTS, *ODD_NUMBERS)) | st.text(
    max_size=8
)


def fuzz(inputs: int, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Try so many inputs: `check` raises for one that is neither taken rightly nor refused clearly."""

    @settings(max_examples=inputs, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def tried(one: Any) -> None:
        with _no_hang():
            check(one)

    tried()


@contextmanager
def _no_hang() -> Iterator[None]:
    """Raise AssertionError after so much time on a core, or ten times as much on a machine that is busy."""

    def hangs(*_: object) -> None:
        raise AssertionError(f"not done after {HANGS_S} s")

    timers = {signal.ITIMER_PROF: signal.SIGPROF, signal.ITIMER_REAL: signal.SIGALRM}
    before = {one: signal.signal(one, hangs) for one in timers.values()}
    signal.setitimer(signal.ITIMER_PROF, HANGS_S)
    signal.setitimer(signal.ITIMER_REAL, 10 * HANGS_S)
    try:
        yield
    finally:
        for timer, one in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(one, before[one])


@st.composite
def cut_or_spoilt(draw: st.DrawFn, whole: bytes) -> bytes:
    """Draw what may become of a file: it is cut off, parts are lost, doubled, or overwritten."""
    found = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        until = at + draw(st.integers(0, 40))
        match draw(st.sampled_from(("cut", "lose", "double", "overwrite", "insert"))):
            case "cut":
                del found[at:]
            case "lose":
                del found[at:until]
            case "double":
                found[at:at] = found[at:until]
            case "overwrite":
                found[at:until] = draw(st.binary(min_size=until - at, max_size=until - at))
            case "insert":
                found[at:at] = draw(st.binary(max_size=8) | st.sampled_from(ODD_TEXTS).map(str.encode))
    return bytes(found)


@st.composite
def changed(draw: st.DrawFn, values: Any) -> Any:
    """Draw plain values of which a few, at any depth, are others, are missing, or have another name."""
    found = copy.deepcopy(values)
    for _ in range(draw(st.integers(1, 3))):
        group, key = draw(st.sampled_from(list(_places(found)) or [(found, None)]))
        if key is None:
            return draw(ODD_VALUES)
        match draw(st.sampled_from(("replace", "replace", "remove", "rename", "double"))):
            case "replace":
                group[key] = draw(ODD_VALUES)
            case "remove":
                del group[key]
            case "rename" if isinstance(group, dict):
                group[draw(st.sampled_from([name for name in ODD_TEXTS if name]) | st.text(max_size=5))] = (
                    group.pop(key)
                )
            case _ if isinstance(group, list):
                group.insert(key, copy.deepcopy(group[key]))
    return found


def _places(values: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each group and key of plain values, and of those in them."""
    if isinstance(values, dict | list):
        for key, value in list(values.items() if isinstance(values, dict) else enumerate(values)):
            yield values, key
            yield from _places(value)


def as_json(values: Any) -> bytes:
    """Return plain values as a file of JSON has them, with NaN and infinities as Python writes them."""
    return json.dumps(values).encode("utf-8", "surrogatepass")
