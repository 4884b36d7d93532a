from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.machine.c_library import CLayoutError, CLibrary
from veltair.serving.engine import log_entries
from veltair.serving.engine.live_tables import load
from veltair.serving.engine.log_entries import Entry, EntryKind, LogReader, record_of
from veltair.serving.loop.dispatcher import UNFINISHED_REASON
from veltair.serving.loop.query import Ending, Query

BLANK = Entry(EntryKind.OVER, *(0.0,) * 6, *(0,) * 9, b"")
QUERY = Query(3, "net", 1.0, 0.01)


@pytest.fixture(scope="module")
def library(c_build: Path) -> CLibrary:
    return load(c_build)


def written(library: CLibrary, entries: Sequence[Entry]) -> bytes:
    """Return entries as C writes them: a struct, its bytes, and what fills these up to 8."""
    dtype, parts = library.dtype("entry_t"), []
    for entry in entries:
        row = np.zeros(1, dtype)
        row[0] = (entry.kind, len(entry.extra), *entry[1:-1])
        parts.append(row.tobytes() + entry.extra + bytes(-(dtype.itemsize + len(entry.extra)) % 8))
    return b"".join(parts)


TIMES, NUMBERS = st.floats(0, 1e6), st.integers(0, 2**15 - 1)
ENTRIES = st.builds(
    Entry,
    st.sampled_from(EntryKind),
    *[TIMES] * 6,
    *[NUMBERS] * 9,
    st.binary(max_size=20),
)


@given(entries=st.lists(ENTRIES, max_size=5))
def test_what_c_wrote_reads_back_equal(library: CLibrary, entries: list[Entry]) -> None:
    assert list(LogReader(library).entries(written(library, entries))) == entries


def test_a_log_that_is_cut_off_in_an_entry_is_refused(library: CLibrary) -> None:
    log = written(library, [BLANK, BLANK])
    with pytest.raises(ValueError, match=rf"ends in the middle of an entry, at byte {len(log) // 2} of"):
        list(LogReader(library).entries(log[:-1]))


def test_a_library_whose_entries_have_other_fields_is_refused(
    library: CLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_entries.Entry, "_fields", (*Entry._fields, "extra"))
    with pytest.raises(CLayoutError, match="make them agree"):
        LogReader(library)


def test_a_library_that_numbers_endings_otherwise_is_refused(
    library: CLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_entries, "_ENDINGS", tuple(reversed(Ending)))
    with pytest.raises(CLayoutError, match="numbered otherwise in C"):
        LogReader(library)


def test_a_start_has_a_version_of_each_layer_and_the_workers_that_it_holds() -> None:
    extra = bytes([1, 0, 2]) + np.array([4, 300], np.uint16).tobytes()
    entry = BLANK._replace(first=2, layer=5, number=1, extra=extra)
    assert (entry.versions, entry.held) == ((1, 0, 2), (4, 300))


def test_a_change_without_new_versions_has_the_workers_alone() -> None:
    entry = BLANK._replace(first=2, layer=5, extra=np.array([7], np.uint16).tobytes())
    assert (entry.versions, entry.held) == (None, (7,))


def test_a_decision_has_the_ended_layers_of_running_blocks() -> None:
    assert BLANK._replace(extra=np.array([3, 0], np.int32).tobytes()).ended_layers == (3, 0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"first": 1, "extra": "zu spät".encode()}, "zu spät"),
        ({"first": 1, "extra": b"\xff"}, "\ufffd"),
        ({"slack_s": 0.002, "least_s": 0.005}, "2 ms to its deadline, at least 5 ms of work left"),
    ],
)
def test_a_rejection_has_the_policy_s_words_or_is_too_late(changes: dict[str, Any], reason: str) -> None:
    assert BLANK._replace(**changes).reason == reason


@pytest.mark.parametrize(
    ("code", "ending", "reason"),
    [
        (0, Ending.SERVED, ""),
        (1, Ending.REJECTED, "full"),
        (2, Ending.UNFINISHED, UNFINISHED_REASON),
    ],
)
def test_the_end_of_a_query_is_a_record_of_it(code: int, ending: Ending, reason: str) -> None:
    entry = BLANK._replace(
        code=code, time_s=2.5, since_s=1.5, number=4, wanted=1, seconds=0.25, first=1, extra=b"full"
    )
    record = record_of(entry, QUERY)
    assert (record.query, record.ending, record.reason) == (QUERY, ending, reason)
    assert (record.start_s, record.end_s) == (1.5, 2.5)
    assert (record.blocks, record.conflicts, record.core_s) == (4, 1, 0.25)


@given(entries=st.lists(ENTRIES, max_size=5), kinds=st.sets(st.sampled_from(EntryKind)))
def test_entries_of_other_kinds_than_those_asked_for_are_passed_over(
    library: CLibrary, entries: list[Entry], kinds: set[EntryKind]
) -> None:
    found = LogReader(library).entries(written(library, entries), kinds)
    assert list(found) == [entry for entry in entries if entry.kind in kinds]
