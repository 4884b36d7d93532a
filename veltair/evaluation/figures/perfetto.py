"""A timeline as a trace that Perfetto's viewer opens (ui.perfetto.dev): Chrome's JSON trace event format.

Cores are tracks. A block is a slice on each core that it held, reserved time apart, with all that is known of
it on the first; pressure and waiting queries are counters. The slices of a track never overlap, which the
format demands. Times are microseconds, written as whole nanoseconds, which is how the viewer keeps them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from veltair.evaluation.metrics.records import Run
from veltair.serving.loop.timeline import BlockSpan, Tenure, Timeline

CORES, RUN = 1, 2  # processes of the trace; 0 is the idle one in the viewer
QUERIES = 1  # the thread of the run on which queries that were given up are marked

TraceEvent = dict[str, Any]


def trace_json(timeline: Timeline, run: Run) -> bytes:
    """Return the file's content; equal timelines give equal bytes."""
    return (json.dumps(trace(timeline, run), separators=(",", ":"), allow_nan=False) + "\n").encode()


def trace(timeline: Timeline, run: Run) -> dict[str, Any]:
    """Return the trace as plain values: `traceEvents` in the order of time after those that name tracks."""
    events = [*_slices(timeline), *_marks(timeline), *_counters(timeline)]
    # Stable: of slices without duration the earlier block stays first.
    events.sort(key=lambda event: event["ts"])
    return {
        "traceEvents": [*_names(timeline, run), *events],
        "displayTimeUnit": "ms",
        "otherData": {
            "run": str(run),
            "core ids": timeline.cores_from,
            **{f"{what} left out": count for what, count in timeline.left_out.items()},
        },
    }


def layers_text(span: BlockSpan) -> str:
    """Return the layers that a block ran, first to last, like `12-29` or `7`."""
    return _range_text(span.ran.start, span.ran.stop)


def versions_text(first_layer: int, versions: Sequence[int]) -> str:
    """Return which layers run in which version, like `0-11: v0, 12: v2`."""
    parts = []
    for version, run in groupby(enumerate(versions, start=first_layer), key=lambda pair: pair[1]):
        layers = [layer for layer, _ in run]
        parts.append(f"{_range_text(layers[0], layers[-1] + 1)}: v{version}")
    return ", ".join(parts)


def _range_text(start: int, stop: int) -> str:
    return str(start) if stop == start + 1 else f"{start}-{stop - 1}"


def left_out_text(timeline: Timeline) -> str:
    """Return what the recorder's limit left out, in words; empty if nothing."""
    parts = [f"{count} {what}" for what, count in timeline.left_out.items() if count]
    return f"left out beyond the recorder's limit: {', '.join(parts)}" if parts else ""


def _names(timeline: Timeline, run: Run) -> Iterator[TraceEvent]:
    yield from _name_process(CORES, 1, f"cores of {run.machine}, ids {timeline.cores_from}")
    missing = left_out_text(timeline)
    yield from _name_process(RUN, 0, f"{run}; {missing}" if missing else str(run))
    yield _meta("thread_name", RUN, QUERIES, name="queries given up")
    width = len(str(max(timeline.machine.core_ids)))
    order = 0
    for number, group in enumerate(timeline.machine.cache_groups):
        for core in group:
            # Padded, for viewers that order tracks by their names.
            yield _meta("thread_name", CORES, _track(core), name=f"core {core:0{width}} of L3 {number}")
            yield _meta("thread_sort_index", CORES, _track(core), sort_index=order)
            order += 1


def _name_process(process: int, order: int, name: str) -> Iterator[TraceEvent]:
    yield _meta("process_name", process, 0, name=name)
    yield _meta("process_sort_index", process, 0, sort_index=order)


def _meta(name: str, process: int, thread: int, /, **values: Any) -> TraceEvent:
    return {"ph": "M", "name": name, "pid": process, "tid": thread, "ts": 0, "args": values}


def _track(core: int) -> int:
    return core + 1  # thread 0 is the idle one in the viewer


def _slices(timeline: Timeline) -> Iterator[TraceEvent]:
    for span in timeline.spans:
        shown = _arguments(span, timeline.layers[span.block.model])
        name = f"q{span.query.id} {span.block.model} {layers_text(span)}"
        for tenure in span.tenures:
            if tenure.use_s > tenure.begin_s:
                yield _slice(tenure, tenure.begin_s, tenure.use_s, f"reserved for {name}", "reserved", shown)
            if tenure.end_s > tenure.use_s or tenure.use_s == tenure.begin_s:
                yield _slice(tenure, tenure.use_s, tenure.end_s, name, span.block.model, shown)
            # Once is enough: a block on 64 cores would fill the file with copies.
            shown = {"query": span.query.id, "all about it": f"core {span.tenures[0].core}"}


def _slice(
    tenure: Tenure, begin_s: float, end_s: float, name: str, category: str, shown: Mapping[str, Any]
) -> TraceEvent:
    begin_ns = _nanoseconds(begin_s)
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": CORES,
        "tid": _track(tenure.core),
        "ts": begin_ns / 1e3,
        "dur": (_nanoseconds(end_s) - begin_ns) / 1e3,
        "args": shown,
    }


def _arguments(span: BlockSpan, layers: int) -> dict[str, Any]:
    query, first = span.query, span.block.start
    shown: dict[str, Any] = {
        "query": query.id,
        "model": span.block.model,
        "layers": f"{layers_text(span)} of {layers}",
        "versions": versions_text(first, span.versions[: len(span.ran)]),
        "wanted cores": span.wanted_cores,
        "granted cores": span.cores,
        "conflict": span.in_conflict,
        "pressure at the start": span.pressure,
        "arrival ms": 1e3 * query.arrival_s,
        "time left at the end ms": 1e3 * (query.deadline_s - span.end_s),
    }
    if not span.completed:
        shown["cut off"] = "the run ended first"
    if span.yielding is not None:
        left = _range_text(span.yielding.next_layer, span.block.stop)
        shown["yielded"] = {"asked ms": 1e3 * span.yielding.asked_s, "layers left": left}
    for number, resize in enumerate(span.resizes, start=1):
        shown[f"resize {number}"] = {
            "asked ms": 1e3 * resize.asked_s,
            "adopted ms": 1e3 * resize.adopted_s,
            "cores": resize.cores,
            "versions": "kept" if resize.versions is None else versions_text(first, resize.versions),
        }
    return shown


def _marks(timeline: Timeline) -> Iterator[TraceEvent]:
    for lost in timeline.given_up:
        yield {
            "ph": "i",
            "s": "t",
            "name": f"q{lost.query.id} {lost.query.model} {lost.ending}",
            "cat": str(lost.ending),
            "pid": RUN,
            "tid": QUERIES,
            "ts": _nanoseconds(lost.time_s) / 1e3,
            "args": {"reason": lost.reason, "arrival ms": 1e3 * lost.query.arrival_s},
        }


def _counters(timeline: Timeline) -> Iterator[TraceEvent]:
    for sample in timeline.samples:
        values = {"pressure": sample.pressure, "pending queries": sample.pending}
        for name, value in values.items():
            yield {
                "ph": "C",
                "name": name,
                "pid": RUN,
                "tid": 0,
                "ts": _nanoseconds(sample.time_s) / 1e3,
                "args": {name: value},
            }


def _nanoseconds(time_s: float) -> int:
    return round(1e9 * time_s)
