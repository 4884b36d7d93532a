import json
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings

from tests.support.serving.timeline_builders import RUNS, recorded_run
from veltair.compiler.frontend.model import LayerBlock
from veltair.evaluation.figures.perfetto import CORES, RUN, layers_text, trace, trace_json, versions_text
from veltair.evaluation.metrics.records import Run
from veltair.serving.loop.query import Query
from veltair.serving.loop.timeline import (
    BlockSpan,
    GivenUp,
    Resizing,
    StateSample,
    Tenure,
    Timeline,
    Yielding,
)

NAME = Run("simulator", "server", False, "mix", "Planaria", 123.456, 7)
REQUIRED = {
    "M": {"name", "pid", "tid", "args"},
    "X": {"name", "cat", "pid", "tid", "ts", "dur", "args"},
    "i": {"name", "cat", "s", "pid", "tid", "ts", "args"},
    "C": {"name", "pid", "ts", "args"},
}


def one_block(**changes: Any) -> Timeline:
    """A timeline of one block of layers 2 to 5 of 8, that starts on core 0 and grows to core 4."""
    timeline, _ = recorded_run(0, cores=8)
    span = BlockSpan(
        query=Query(3, "large", 0.5, 2.0),
        block=LayerBlock("large", 2, 6),
        versions=(1, 1, 0, 1),
        cores=1,
        wanted_cores=2,
        pressure=0.25,
        start_s=1.0,
        end_s=2.0,
        tenures=(Tenure(0, 1.0, 1.0, 2.0), Tenure(4, 1.25, 1.5, 2.0)),
        resizes=(Resizing(1.25, 1.5, 2, (0, 0, 0, 1)),),
        completed=True,
    )
    values: dict[str, Any] = {
        "machine": timeline.machine,
        "layers": {"large": 8},
        "cores_from": "assigned",
        "spans": (span,),
        "samples": (StateSample(1.0, 0.25, 3),),
        "given_up": (),
        "end_s": 2.0,
        "left_out": {"blocks": 0},
        **changes,
    }
    return Timeline(**values)


def events(timeline: Timeline, kind: str) -> list[dict[str, Any]]:
    return [event for event in trace(timeline, NAME)["traceEvents"] if event["ph"] == kind]


def test_a_block_is_a_slice_on_each_core_with_the_time_that_it_was_only_reserved_apart() -> None:
    shown = [(one["tid"], one["ts"], one["dur"], one["name"]) for one in events(one_block(), "X")]
    assert shown == [
        (1, 1e6, 1e6, "q3 large 2-5"),
        (5, 1.25e6, 0.25e6, "reserved for q3 large 2-5"),
        (5, 1.5e6, 0.5e6, "q3 large 2-5"),
    ]


def test_the_first_slice_of_a_block_tells_all_about_it_and_the_others_where_that_is() -> None:
    first, *others = events(one_block(), "X")
    assert first["args"] == {
        "query": 3,
        "model": "large",
        "layers": "2-5 of 8",
        "versions": "2-3: v1, 4: v0, 5: v1",
        "wanted cores": 2,
        "granted cores": 1,
        "conflict": True,
        "pressure at the start": 0.25,
        "arrival ms": 500.0,
        "time left at the end ms": 500.0,
        "resize 1": {"asked ms": 1250.0, "adopted ms": 1500.0, "cores": 2, "versions": "2-4: v0, 5: v1"},
    }
    assert [other["args"] for other in others] == 2 * [{"query": 3, "all about it": "core 0"}]


def test_a_block_that_yielded_shows_the_layers_that_it_ran_and_names_those_left() -> None:
    timeline = one_block()
    span = replace(timeline.spans[0], yielding=Yielding(1.75, 4))
    first, *_ = events(one_block(spans=(span,)), "X")
    assert (first["name"], first["args"]["layers"]) == ("q3 large 2-3", "2-3 of 8")
    assert first["args"]["versions"] == "2-3: v1"
    assert first["args"]["yielded"] == {"asked ms": 1750.0, "layers left": "4-5"}


def test_pressure_and_waiting_queries_are_counters_of_the_run() -> None:
    shown = {(one["pid"], one["name"], one["ts"], *one["args"].values()) for one in events(one_block(), "C")}
    assert shown == {(RUN, "pressure", 1e6, 0.25), (RUN, "pending queries", 1e6, 3)}


def test_a_query_that_was_given_up_is_marked_with_the_reason() -> None:
    lost = GivenUp(1.5, Query(9, "large", 1.0, 2.0), "rejected", "too late")  # type: ignore[arg-type]
    (mark,) = events(one_block(given_up=(lost,)), "i")
    assert (mark["name"], mark["ts"], mark["args"]["reason"]) == ("q9 large rejected", 1.5e6, "too late")


def test_processes_and_cores_have_names_in_the_order_of_the_cache_groups() -> None:
    named = {
        (one["name"], one["pid"], one["tid"]): next(iter(one["args"].values()))
        for one in events(one_block(), "M")
    }
    assert named["process_name", CORES, 0] == "cores of server, ids assigned"
    assert named["process_name", RUN, 0] == (
        "Planaria, mix at 123.5 queries/s, seed 7; simulator, server, UNVALIDATED"
    )
    # Groups of every second core: 0, 2, 4, 6 and 1, 3, 5, 7.
    assert named["thread_name", CORES, 1 + 2] == "core 2 of L3 0"
    assert named["thread_name", CORES, 1 + 1] == "core 1 of L3 1"
    assert [named["thread_sort_index", CORES, 1 + core] for core in (0, 2, 4, 6, 1, 3, 5, 7)] == list(
        range(8)
    )


def test_what_was_left_out_is_said_in_the_trace_and_in_its_name() -> None:
    document = trace(one_block(left_out={"blocks": 12, "samples": 0}), NAME)
    assert document["otherData"]["blocks left out"] == 12
    names = [one["args"]["name"] for one in document["traceEvents"] if one["name"] == "process_name"]
    assert any("left out beyond the recorder's limit: 12 blocks" in name for name in names)


def test_layers_and_versions_are_written_as_ranges() -> None:
    (span,) = one_block().spans
    assert layers_text(span) == "2-5"
    assert versions_text(7, (2,)) == "7: v2"
    assert versions_text(0, (0, 0, 1, 0)) == "0-1: v0, 2: v1, 3: v0"


def test_equal_runs_give_equal_files_that_are_strict_json() -> None:
    first, second = (trace_json(recorded_run(5)[0], NAME) for _ in range(2))
    assert first == second
    document = json.loads(first, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert set(document) == {"traceEvents", "displayTimeUnit", "otherData"}


@given(**RUNS)
@settings(max_examples=30)
def test_every_event_of_any_run_has_the_keys_and_types_that_the_format_requires(**run: object) -> None:
    timeline, _ = recorded_run(**run)  # type: ignore[arg-type]
    for event in trace(timeline, NAME)["traceEvents"]:
        assert REQUIRED[event["ph"]] <= set(event)
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        assert event["ts"] >= 0 and event.get("dur", 0) >= 0
        if event["ph"] == "C":
            assert all(isinstance(value, int | float) for value in event["args"].values())


@given(**RUNS)
@settings(max_examples=30)
def test_the_events_of_any_run_are_in_the_order_of_time(**run: object) -> None:
    timeline, _ = recorded_run(**run)  # type: ignore[arg-type]
    times = [event["ts"] for event in trace(timeline, NAME)["traceEvents"]]
    assert times == sorted(times)


@given(**RUNS)
@settings(max_examples=30)
def test_no_two_slices_of_any_run_overlap_on_a_core(**run: object) -> None:
    timeline, _ = recorded_run(**run)  # type: ignore[arg-type]
    tracks = defaultdict(list)
    for event in events(timeline, "X"):
        begin_ns = round(1e3 * event["ts"])
        tracks[event["tid"]].append((begin_ns, begin_ns + round(1e3 * event["dur"])))
    assert all(1 <= track <= timeline.machine.cores for track in tracks)
    for slices in tracks.values():
        assert all(before[1] <= after[0] for before, after in pairwise(slices))
