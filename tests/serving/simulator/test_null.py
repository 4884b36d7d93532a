"""The null backend: blocks without duration, in virtual time."""

import pytest

from tests.support.sim_builders import Cost, Greedy, allocation, context, trace
from veltair.serving.loop.dispatcher import Arrival, BlockEnd, Closed, Dispatcher, Woken, serve
from veltair.serving.loop.policy import Resize
from veltair.serving.simulator.null import NullBackend


def test_a_block_ends_when_it_starts():
    backend = NullBackend(trace((0.5, "m"), (1.0, "m")), drain_s=1.0)
    backend.wait()
    backend.start(allocation(0, "m", (0, 2), 1))
    assert backend.wait() == BlockEnd(0.5, 0)


def test_blocks_end_before_a_query_of_the_same_time_arrives():
    queries = trace((0.5, "m"), (0.5, "m"))
    backend = NullBackend(queries, drain_s=1.0)
    backend.wait()
    backend.start(allocation(0, "m", (0, 1), 1))
    assert [backend.wait(), backend.wait(), backend.wait()] == [
        BlockEnd(0.5, 0),
        Arrival(0.5, queries[1]),
        None,
    ]


def test_every_query_is_served_in_no_time():
    served = context({"m": [[Cost(1.0)]] * 5})
    backend = NullBackend(trace(*[(0.1 * index, "m") for index in range(20)]), drain_s=1.0)
    records = list(serve(Dispatcher(Greedy(served, block=2), served), backend))
    assert [(record.query.id, record.latency_s, record.blocks) for record in records] == [
        (index, 0.0, 3) for index in range(20)
    ]


def test_a_resize_has_no_effect():
    backend = NullBackend(trace((0.0, "m")), drain_s=1.0)
    backend.wait()
    backend.start(allocation(0, "m", (0, 3), 1))
    backend.resize(Resize(0, 2))
    assert [backend.wait(), backend.wait()] == [BlockEnd(0.0, 0), None]


def test_it_reports_blocks_in_their_last_layer_and_no_pressure():
    backend = NullBackend(trace((0.0, "m")), drain_s=1.0)
    backend.wait()
    backend.start(allocation(0, "m", (0, 3), 1))
    assert (dict(backend.progress()), backend.pressure()) == ({0: 2}, 0.0)


def test_wakes_are_heeded_until_the_run_closes():
    backend = NullBackend(trace((0.0, "m")), drain_s=1.0)
    backend.wait()
    backend.wake_at(2.0)
    backend.wake_at(0.5)
    assert [backend.wait(), backend.wait(), backend.wait()] == [Woken(0.5), Closed(1.0), None]


def test_a_trace_out_of_order_names_the_query():
    with pytest.raises(ValueError, match=r"trace out of order: query 1 arrives at 0\.5 s"):
        NullBackend(trace((1.0, "m"), (0.5, "m")), drain_s=1.0)
