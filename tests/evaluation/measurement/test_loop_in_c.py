import numpy as np

from veltair.evaluation.measurement.loop_in_c import stamps_of
from veltair.serving.engine.log_entries import Entry, EntryKind

BLANK = Entry(EntryKind.OVER, *(0.0,) * 6, *(0,) * 9, b"")


def told(kind: EntryKind, query_id: int, time_s: float, sent_s: float = 0.0) -> Entry:
    return BLANK._replace(kind=kind, id=query_id, time_s=time_s, seconds=sent_s)


def test_stamps_are_by_query_on_the_monotonic_clock() -> None:
    entries = [
        told(EntryKind.ARRIVED, 0, 0.5, sent_s=0.25),
        told(EntryKind.ARRIVED, 1, 1.5, sent_s=1.0),
        told(EntryKind.DECIDED, 0, 1.75),
        told(EntryKind.QUERY_ENDED, 1, 2.0),  # before the one that came first
        told(EntryKind.QUERY_ENDED, 0, 3.0),
    ]
    stamps = stamps_of(entries, zero_s=100.0)
    assert stamps.sent_ns.tolist() == [100_250_000_000, 101_000_000_000]
    assert stamps.received_s.tolist() == [100.5, 101.5]
    assert stamps.completed_ns.tolist() == [103_000_000_000, 102_000_000_000]
    assert stamps.sent_ns.dtype == stamps.completed_ns.dtype == np.int64
