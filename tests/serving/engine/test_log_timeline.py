import math

import numpy as np
import pytest

from tests.support.builders import linear_context
from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.topology.topology import Machine
from veltair.serving.engine.log_entries import Entry, EntryKind
from veltair.serving.engine.log_timeline import timeline_of
from veltair.serving.loop.query import Ending
from veltair.serving.loop.timeline import Timeline

# Workers are numbered as the core ids are listed: 0 is core 4.
MACHINE = Machine("toy", 1, ((4, 6), (5, 7)), 2**19, 2**24, 1e11, 1e11, validated=False)
CONTEXT = linear_context([0.001] * 3, cores=(1, 2, 3, 4), machine=MACHINE)
BLANK = Entry(EntryKind.OVER, *(0.0,) * 6, *(0,) * 9, b"")


def told(kind: EntryKind, time_s: float, **fields: float) -> Entry:
    return BLANK._replace(kind=kind, time_s=time_s, **fields)  # type: ignore[arg-type]


def workers(*indices: int) -> bytes:
    return np.array(indices, np.uint16).tobytes()


def started(time_s: float, *held: int, layers: tuple[int, int] = (0, 3), wanted: int = 0) -> Entry:
    """Return the start of a block of query 0 in versions 1."""
    first, stop = layers
    entry = told(EntryKind.BLOCK_STARTED, time_s, first=first, layer=stop, number=1)
    extra = bytes([1] * (stop - first)) + workers(*held)
    return entry._replace(cores=len(held), wanted=wanted or len(held), extra=extra)


def ended(time_s: float, code: int = 0) -> Entry:
    return told(EntryKind.QUERY_ENDED, time_s, code=code, number=1, first=1)


ARRIVED = told(EntryKind.ARRIVED, 0.5)
DECIDED = told(EntryKind.DECIDED, 0.5, pressure=0.25)


def drawn(*entries: Entry, limit: int = 100) -> Timeline:
    return timeline_of(entries, CONTEXT, "spread", limit)


def test_a_block_has_its_time_its_cores_and_the_pressure_of_its_decision() -> None:
    timeline = drawn(
        ARRIVED, DECIDED, started(0.5, 0, 2, wanted=3), told(EntryKind.BLOCK_ENDED, 2.0, layer=3), ended(2.0)
    )
    (span,) = timeline.spans
    assert (span.query.id, span.query.arrival_s, span.block) == (0, 0.5, LayerBlock("net", 0, 3))
    assert (span.start_s, span.end_s, span.completed, span.pressure) == (0.5, 2.0, True, 0.25)
    assert (span.versions, span.cores, span.wanted_cores) == ((1, 1, 1), 2, 3)
    assert {tenure.core for tenure in span.tenures} == {4, 5}


def test_a_decision_that_read_no_pressure_keeps_the_last_one() -> None:
    blind = told(EntryKind.DECIDED, 0.5, pressure=math.nan)
    (span,) = drawn(
        ARRIVED, DECIDED, blind, started(0.5, 0), told(EntryKind.BLOCK_ENDED, 1.0, layer=3), ended(1.0)
    ).spans
    assert span.pressure == 0.25


def test_a_block_that_grows_has_its_new_cores_from_when_they_were_asked_for() -> None:
    timeline = drawn(
        ARRIVED,
        DECIDED,
        started(0.5, 0),
        told(EntryKind.BLOCK_RESIZED, 1.0, cores=2, layer=3)._replace(extra=workers(0, 3)),
        told(EntryKind.CORES_ADOPTED, 1.5, cores=2, layer=3)._replace(extra=workers(0, 3)),
        told(EntryKind.BLOCK_ENDED, 2.0, layer=3),
        ended(2.0),
    )
    (span,) = timeline.spans
    assert [(one.core, one.begin_s, one.use_s, one.end_s) for one in span.tenures] == [
        (4, 0.5, 0.5, 2.0),
        (7, 1.0, 1.5, 2.0),
    ]
    assert [(one.asked_s, one.adopted_s, one.cores) for one in span.resizes] == [(1.0, 1.5, 2)]


def test_a_block_that_yields_ends_before_the_layer_that_is_left() -> None:
    timeline = drawn(
        ARRIVED,
        DECIDED,
        started(0.5, 0),
        told(EntryKind.BLOCK_YIELDS, 0.75),
        told(EntryKind.BLOCK_ENDED, 1.0, layer=1),
        started(1.0, 1, layers=(1, 3)),
        told(EntryKind.BLOCK_ENDED, 2.0, layer=3),
        ended(2.0),
    )
    first, second = timeline.spans
    assert first.yielding is not None and (first.yielding.asked_s, first.yielding.next_layer) == (0.75, 1)
    assert (first.ran, second.ran) == (LayerBlock("net", 0, 1), LayerBlock("net", 1, 3))


@pytest.mark.parametrize(("code", "ending"), [(1, Ending.REJECTED), (2, Ending.UNFINISHED)])
def test_a_query_that_was_given_up_is_told_with_its_ending(code: int, ending: Ending) -> None:
    (given_up,) = drawn(ARRIVED, DECIDED, ended(1.0, code)).given_up
    assert (given_up.query.id, given_up.ending) == (0, ending)


def test_blocks_beyond_the_limit_are_counted() -> None:
    run = [ARRIVED, DECIDED]
    for layer in range(3):
        time_s = 1.0 + layer
        run += [
            started(time_s, 0, layers=(layer, layer + 1)),
            told(EntryKind.BLOCK_ENDED, time_s + 0.5, layer=layer + 1),
        ]
    timeline = drawn(*run, ended(3.5), limit=1)
    assert (len(timeline.spans), timeline.left_out["blocks"]) == (1, 2)
