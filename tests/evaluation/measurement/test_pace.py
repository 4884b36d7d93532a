import os
from math import isclose, sqrt

import pytest

from tests.support.engine_builders import ZERO, PythonModel, python_context
from tests.support.pool_builders import launch_workers
from veltair.evaluation.measurement.pace import QUERIES, measure_pace, pace_of, profiled_alone_s
from veltair.machine.interference.source import ObservedSlowdown
from veltair.serving.engine.log_entries import Entry, EntryKind
from veltair.serving.engine.native_engine import NativeEngine, Site

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]
BLANK = Entry(EntryKind.OVER, *(0.0,) * 6, *(0,) * 9, b"")


def ended(query_id: int, seconds: float) -> Entry:
    return BLANK._replace(kind=EntryKind.BLOCK_ENDED, id=query_id, seconds=seconds)


def test_the_pace_is_the_mean_of_models_of_medians_without_their_first_queries() -> None:
    models = ["a", "a", "a", "a", "b", "b"]
    entries = [ended(0, 9.0), ended(1, 2.0), ended(2, 1.0), ended(3, 4.0), ended(4, 9.0), ended(5, 3.0)]
    started = [BLANK._replace(kind=EntryKind.BLOCK_STARTED, id=1)]
    # a: median of 2, 1, 4 over 1; b: 3 over 6.
    assert isclose(pace_of([*started, *entries], models, {"a": 1.0, "b": 6.0}), sqrt(2.0 * 0.5))


def test_queries_alone_run_in_one_block_on_all_cores() -> None:
    calls: list[int] = []
    context = python_context(CORES, 2)
    models = {"net": PythonModel([lambda: calls.append(0), lambda: calls.append(1)])}
    site = Site(context, "spread", ObservedSlowdown(), 60.0)
    engine = NativeEngine(site, models, [("net", ZERO)], launch_workers)
    try:
        pace = measure_pace(engine, context, ["net"])
    finally:
        engine.stop()
    starts = [entry for entry in engine.entries() if entry.kind is EntryKind.BLOCK_STARTED]
    assert calls == [0, 1] * QUERIES
    assert [(entry.first, entry.layer, entry.cores) for entry in starts] == [(0, 2, len(CORES))] * QUERIES
    taken = sorted(
        entry.seconds for entry in engine.entries() if entry.kind is EntryKind.BLOCK_ENDED and entry.id
    )
    middle = (taken[2] + taken[3]) / 2
    assert pace == pytest.approx(middle / profiled_alone_s(context)["net"])
