from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings

from tests.support.serving.sim_builders import Cost, Greedy, allocation, context, trace
from tests.support.serving.timeline_builders import RUNS, recorded_run
from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.backend import Arrival, BlockEnd, Command, Event
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import (
    Allocation,
    Answer,
    Context,
    Policy,
    Rejection,
    Resize,
    Snapshot,
    Yield,
)
from veltair.serving.loop.query import Ending, Query
from veltair.serving.loop.timeline import (
    BlockSpan,
    GivenUp,
    Recorder,
    Resizing,
    StateSample,
    Tenure,
    Timeline,
    Yielding,
    serve_recorded,
)
from veltair.serving.simulator.noise import noise_batches
from veltair.serving.simulator.simulator import Simulator

LAYERS = {"a": [[Cost(1.0)], [Cost(1.0)]]}


def simulator_of(served: Context, queries: Sequence[Query], drain_s: float = 100.0) -> Simulator:
    return Simulator(
        queries, served, noise_batches(queries, served, np.random.default_rng(0)), drain_s=drain_s
    )


def record(policy: Policy, served: Context, queries: Sequence[Query], drain_s: float = 100.0) -> Timeline:
    recorder = Recorder(simulator_of(served, queries, drain_s), served, "pinned")
    list(serve_recorded(Dispatcher(policy, served), recorder))
    return recorder.timeline()


@dataclass
class Scripted:
    """Answers from a list, by the number of the call; nothing after its end."""

    script: list[list[Answer]]

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        return self.script.pop(0) if self.script else []


def test_a_block_has_its_query_layers_cores_and_times() -> None:
    served = context(LAYERS)
    timeline = record(Greedy(served, cores=2, block=1), served, trace((3.0, "a")))
    first, second = timeline.spans
    assert (first.query.id, first.block, first.versions) == (0, LayerBlock("a", 0, 1), (0,))
    assert (first.start_s, first.end_s, second.start_s, second.end_s) == (3.0, 3.5, 3.5, 4.0)
    assert first.tenures == (Tenure(0, 3.0, 3.0, 3.5), Tenure(1, 3.0, 3.0, 3.5))
    assert first.completed and not first.in_conflict


def test_a_block_that_gets_fewer_cores_than_it_wanted_is_in_conflict() -> None:
    served = context(LAYERS)
    answer = Allocation(0, LayerBlock("a", 0, 2), (0, 0), 1, wanted_cores=3)
    (span,) = record(Scripted([[answer]]), served, trace((0.0, "a"))).spans
    assert (span.cores, span.wanted_cores, span.in_conflict) == (1, 3, True)


def test_cores_that_a_block_gains_are_reserved_until_its_next_layer_end() -> None:
    # As the second query arrives, at 0.25 s, the first grows from 1 core to 4; its layer 0 ends at 1 s.
    served = context(LAYERS)
    script = [[allocation(0, "a", (0, 2), 1)], [Resize(0, 4), Rejection(1, "no")]]
    (span,) = record(Scripted(script), served, trace((0.0, "a"), (0.25, "a"))).spans
    assert span.end_s == 1.25
    assert span.tenures == (
        Tenure(0, 0.0, 0.0, 1.25),
        Tenure(1, 0.25, 1.0, 1.25),
        Tenure(2, 0.25, 1.0, 1.25),
        Tenure(3, 0.25, 1.0, 1.25),
    )
    assert span.resizes == (Resizing(0.25, 1.0, 4, None),)


def test_cores_that_a_block_gives_up_are_its_own_until_its_next_layer_end() -> None:
    served = context(LAYERS)
    script = [[allocation(0, "a", (0, 2), 4)], [Resize(0, 1, (0, 0)), Rejection(1, "no")]]
    (span,) = record(Scripted(script), served, trace((0.0, "a"), (0.125, "a"))).spans
    assert sorted((t.core, t.end_s) for t in span.tenures) == [(0, 1.25), (1, 0.25), (2, 0.25), (3, 0.25)]
    assert span.resizes == (Resizing(0.125, 0.25, 1, (0, 0)),)


def test_a_resize_in_the_last_layer_is_no_resize_and_its_cores_were_only_reserved() -> None:
    served = context(LAYERS)
    script = [[allocation(0, "a", (0, 2), 1)], [Resize(0, 2), Rejection(1, "no")]]
    (span,) = record(Scripted(script), served, trace((0.0, "a"), (1.5, "a"))).spans
    assert span.resizes == ()
    assert span.tenures == (Tenure(0, 0.0, 0.0, 2.0), Tenure(1, 1.5, 2.0, 2.0))


def test_a_block_that_yields_keeps_the_layers_that_it_ran_and_when_it_was_asked() -> None:
    # Asked at 0.25 s, the block ends at 1 s; the query then waits for its second layer.
    served = context(LAYERS)
    script = [
        [allocation(0, "a", (0, 2), 1)],
        [Yield(0), Rejection(1, "no")],
        [allocation(0, "a", (1, 2), 2)],
    ]
    first, second = record(Scripted(script), served, trace((0.0, "a"), (0.25, "a"))).spans
    assert (first.yielding, first.end_s, first.completed) == (Yielding(0.25, 1), 1.0, True)
    assert (first.block, first.ran) == (LayerBlock("a", 0, 2), LayerBlock("a", 0, 1))
    assert (second.yielding, second.ran, second.end_s) == (None, LayerBlock("a", 1, 2), 1.5)


def test_a_yield_in_the_last_layer_is_none() -> None:
    served = context(LAYERS)
    script = [[allocation(0, "a", (0, 2), 1)], [Yield(0), Rejection(1, "no")]]
    (span,) = record(Scripted(script), served, trace((0.0, "a"), (1.25, "a"))).spans
    assert (span.yielding, span.ran) == (None, LayerBlock("a", 0, 2))


def test_a_query_that_yielded_waits() -> None:
    served = context(LAYERS)
    script = [
        [allocation(0, "a", (0, 2), 1), Yield(0)],
        [],
        [allocation(0, "a", (1, 2), 1), Rejection(1, "no")],
    ]
    timeline = record(Scripted(script), served, trace((0.0, "a"), (1.5, "a")))
    assert [(sample.time_s, sample.pending) for sample in timeline.samples] == [(0.0, 0), (1.0, 1), (1.5, 0)]


def test_a_rejected_query_is_given_up_and_does_not_wait_any_longer() -> None:
    served = context(LAYERS)
    script = [[allocation(0, "a", (0, 2), 1)], [], [Rejection(1, "too late")]]
    queries = trace((0.0, "a"), (1.0, "a"))
    timeline = record(Scripted(script), served, queries)
    assert timeline.given_up == (GivenUp(2.0, queries[1], Ending.REJECTED, "too late"),)
    assert timeline.samples == (StateSample(0.0, 0.0, 0), StateSample(1.0, 0.0, 1), StateSample(2.0, 0.0, 0))


def test_a_query_between_two_blocks_waits() -> None:
    served = context(LAYERS)
    script = [[allocation(0, "a", (0, 1), 1)], [], [allocation(0, "a", (1, 2), 1)], [Rejection(1, "no")]]
    timeline = record(Scripted(script), served, trace((0.0, "a"), (1.5, "a")))
    # The block ends at 1 s; at 1.5 s another query arrives and the first goes on, to 2.5 s.
    assert [(sample.time_s, sample.pending) for sample in timeline.samples] == [
        (0.0, 0),
        (1.0, 1),
        (2.5, 0),
    ]


def test_the_pressure_at_a_blocks_start_is_what_its_policy_saw() -> None:
    served = context({"a": [[Cost(1.0, dram_share=0.25)]]})
    spans = record(Greedy(served), served, trace((0.0, "a"), (0.5, "a"))).spans
    assert [span.pressure for span in spans] == [0.0, 0.25]


def test_a_block_that_the_end_of_the_run_cuts_off_is_not_completed() -> None:
    served = context(LAYERS)
    timeline = record(Greedy(served), served, trace((0.0, "a")), drain_s=1.5)
    (span,) = timeline.spans
    assert (span.end_s, span.completed, timeline.end_s) == (1.5, False, 1.5)
    assert [lost.ending for lost in timeline.given_up] == [Ending.UNFINISHED]


def test_blocks_beyond_the_limit_are_counted_and_still_hold_their_cores() -> None:
    served = context(LAYERS)
    queries = trace((0.0, "a"), (0.0, "a"), (2.0, "a"))
    recorder = Recorder(simulator_of(served, queries), served, "pinned", limit=1)
    list(serve_recorded(Dispatcher(Greedy(served), served), recorder))
    timeline = recorder.timeline()
    assert [span.query.id for span in timeline.spans] == [0]
    assert timeline.left_out == {"blocks": 2, "samples": 0, "given up queries": 0}


def test_a_backend_that_knows_its_cores_is_asked_for_them() -> None:
    served = context(LAYERS)
    backend = simulator_of(served, trace((0.0, "a")))
    recorder = Recorder(backend, served, "pinned", cores_of=lambda query_id: (query_id + 3,))
    list(serve_recorded(Dispatcher(Greedy(served), served), recorder))
    timeline = recorder.timeline()
    assert [tenure.core for tenure in timeline.spans[0].tenures] == [3]
    assert timeline.cores_from == "granted by the backend"


def test_where_core_ids_were_assigned_the_timeline_says_so() -> None:
    timeline, _ = recorded_run(0, placement="spread")
    assert timeline.cores_from == "assigned by placement `spread` to the counts that were granted"


@dataclass
class Late:
    """A backend in real time: an end told of late, with the time at which a worker saw it."""

    events: list[Event]

    def do(self, command: Command) -> None: ...

    def wait(self) -> Event | None:
        return self.events.pop(0) if self.events else None

    def pressure(self) -> float:
        return 0.0

    def progress(self) -> dict[int, int]:
        return {}


def test_with_the_clock_of_a_real_backend_blocks_start_when_they_were_sent() -> None:
    served = context({"a": [[Cost(1.0)]]})
    (query,) = trace((1.0, "a"))
    recorder = Recorder(
        Late([Arrival(1.0, query), BlockEnd(2.0, 0, 1)]), served, "pinned", now_s=iter([1.25]).__next__
    )
    list(serve_recorded(Dispatcher(Greedy(served), served), recorder))
    assert [(span.start_s, span.end_s) for span in recorder.timeline().spans] == [(1.25, 2.0)]


def test_events_that_are_told_out_of_order_leave_no_core_with_two_blocks() -> None:
    # One core: the end at 2 s is told of before the arrival at 1.9 s, whose block starts on the same core.
    served = context({"a": [[Cost(1.0)]]}, cores=(1,))
    first, second = trace((1.0, "a"), (1.9, "a"))
    events = [Arrival(1.0, first), BlockEnd(2.0, 0, 1), Arrival(1.9, second), BlockEnd(3.0, 1, 1)]
    recorder = Recorder(Late(events), served, "pinned")
    list(serve_recorded(Dispatcher(Greedy(served), served), recorder))
    assert [(span.start_s, span.end_s) for span in recorder.timeline().spans] == [(1.0, 2.0), (2.0, 3.0)]


def test_any_backend_can_be_recorded() -> None:
    served = context(LAYERS)
    (query,) = trace((1.0, "a"))
    recorder = Recorder(Late([Arrival(1.0, query), BlockEnd(1.0, 0, 2)]), served, "pinned")
    list(serve_recorded(Dispatcher(Greedy(served), served), recorder))
    assert recorder.timeline().spans[0].tenures == (Tenure(0, 1.0, 1.0, 1.0),)


def test_recording_changes_nothing_in_a_run() -> None:
    served = context(LAYERS, factors=(0.8, 1.0, 1.3))
    queries = trace(*((0.3 * index, "a") for index in range(20)))
    bare = list(serve(Dispatcher(Greedy(served, block=1), served), simulator_of(served, queries)))
    recorder = Recorder(simulator_of(served, queries), served, "pinned")
    assert list(serve_recorded(Dispatcher(Greedy(served, block=1), served), recorder)) == bare


def test_the_window_holds_blocks_that_ran_in_it_and_not_those_that_only_touch_it() -> None:
    served = context(LAYERS)
    timeline = record(Greedy(served, block=1), served, trace((0.0, "a")))
    assert [span.start_s for span in timeline.between(0.5, 1.0)] == [0.0]
    assert [span.start_s for span in timeline.between(0.5, 1.5)] == [0.0, 1.0]


@pytest.mark.parametrize("window", [(1.0, 1.0), (-1.0, 1.0), (0.0, float("inf")), (2.0, 1.0)])
def test_a_window_that_is_no_span_of_time_is_refused(window: tuple[float, float]) -> None:
    timeline, _ = recorded_run(0)
    with pytest.raises(ValueError, match="is empty; give an end after its begin"):
        timeline.between(*window)


def test_a_limit_below_one_and_an_unknown_placement_are_refused() -> None:
    served = context(LAYERS)
    backend = Late([])
    with pytest.raises(ValueError, match="limit of a timeline is 0"):
        Recorder(backend, served, "pinned", limit=0)
    with pytest.raises(ValueError, match="'near' is no placement; choose from spread, pinned"):
        Recorder(backend, served, "near")


def test_times_that_do_not_follow_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="Tenure of core 3"):
        Tenure(3, 1.0, 0.5, 2.0)
    timeline, _ = recorded_run(0)
    span = timeline.spans[0]
    with pytest.raises(ValueError, match=r"ends at 0\.0 s, but starts at 1\.0 s"):
        BlockSpan(span.query, span.block, span.versions, 1, 1, 0.0, 1.0, 0.0, (), (), completed=True)


@given(**RUNS)
@settings(max_examples=40)
def test_no_core_has_two_blocks_at_once_whatever_the_policy_does(**run: object) -> None:
    timeline, _ = recorded_run(**run)  # type: ignore[arg-type]
    by_core = defaultdict(list)
    for span in timeline.spans:
        for tenure in span.tenures:
            by_core[tenure.core].append((tenure.begin_s, tenure.end_s))
    for tenures in by_core.values():
        tenures.sort()
        assert all(before[1] <= after[0] for before, after in pairwise(tenures))


@given(seed=RUNS["seed"], cores=RUNS["cores"], placement=RUNS["placement"], drain_s=RUNS["drain_s"])
@settings(max_examples=40)
def test_the_time_on_cores_is_the_core_time_that_the_dispatcher_books(**run: object) -> None:
    timeline, records = recorded_run(**run)  # type: ignore[arg-type]
    held: dict[int, float] = defaultdict(float)
    for span in timeline.spans:
        held[span.query.id] += sum(tenure.end_s - tenure.begin_s for tenure in span.tenures)
    for ended in records:
        assert held[ended.query.id] == pytest.approx(ended.core_s)


@given(seed=RUNS["seed"], cores=RUNS["cores"], limit=RUNS["limit"], drain_s=RUNS["drain_s"])
@settings(max_examples=40)
def test_every_block_conflict_and_lost_query_is_recorded_or_counted(**run: object) -> None:
    timeline, records = recorded_run(**run)  # type: ignore[arg-type]
    assert len(timeline.spans) + timeline.left_out["blocks"] == sum(ended.blocks for ended in records)
    lost = [ended for ended in records if ended.ending is not Ending.SERVED]
    assert len(timeline.given_up) + timeline.left_out["given up queries"] == len(lost)
    if not timeline.left_out["blocks"]:
        assert sum(span.in_conflict for span in timeline.spans) == sum(ended.conflicts for ended in records)


@given(seed=RUNS["seed"], cores=RUNS["cores"], drain_s=RUNS["drain_s"])
@settings(max_examples=40)
def test_a_block_never_uses_more_or_fewer_cores_than_it_was_granted(**run: object) -> None:
    timeline, _ = recorded_run(**run)  # type: ignore[arg-type]
    for span in timeline.spans:
        granted = [(span.start_s, span.cores), *((one.adopted_s, one.cores) for one in span.resizes)]
        ends = [*(time_s for time_s, _ in granted[1:]), span.end_s]
        for (begin_s, cores), end_s in zip(granted, ends, strict=True):
            middle_s = (begin_s + end_s) / 2
            used = [one.core for one in span.tenures if one.use_s <= middle_s < one.end_s]
            assert begin_s == end_s or len(used) == len(set(used)) == cores


@given(seed=RUNS["seed"], cores=RUNS["cores"], drain_s=RUNS["drain_s"])
@settings(max_examples=40)
def test_every_layer_of_a_query_is_in_one_block_and_in_order(**run: object) -> None:
    timeline, records = recorded_run(**run)  # type: ignore[arg-type]
    ran: dict[int, list[int]] = defaultdict(list)
    for span in sorted(timeline.spans, key=lambda span: span.start_s):
        ran[span.query.id] += range(span.ran.start, span.ran.stop)
    assert all(layers == list(range(len(layers))) for layers in ran.values())
    for ended in records:
        if ended.ending is Ending.SERVED:
            assert len(ran[ended.query.id]) == timeline.layers[ended.query.model]


@given(seed=RUNS["seed"], cores=RUNS["cores"], drain_s=RUNS["drain_s"])
@settings(max_examples=20)
def test_samples_go_forward_in_time_and_no_negative_number_of_queries_waits(**run: object) -> None:
    timeline, records = recorded_run(**run)  # type: ignore[arg-type]
    times = [sample.time_s for sample in timeline.samples]
    assert times == sorted(times)
    assert all(0 <= sample.pending <= len(records) for sample in timeline.samples)
    assert not timeline.samples or timeline.samples[-1].pending == 0
