import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import FakeBackend, linear_context, random_context, random_queries, run_to_end
from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.backend import Arrival, BlockEnd, Closed, Resized, Woken
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.open_queries import IDLE_WAKES, PolicyError
from veltair.serving.loop.policy import Allocation, Rejection, Resize, Running, Snapshot, Wake, Yield
from veltair.serving.loop.query import Ending, Query

CONTEXT = linear_context([0.004] * 3, qos_s=0.010)  # "net" on 8 cores


class Scripted:
    """Answers each event with the next line of a script, then with nothing; remembers the snapshots."""

    def __init__(self, *script):
        self.script = list(script)
        self.seen: list[Snapshot] = []

    def allocate(self, snapshot):
        self.seen.append(snapshot)
        return self.script.pop(0) if self.script else []


class WholeQueries:
    """Runs one query at a time, whole, on all cores."""

    def allocate(self, snapshot):
        return [] if snapshot.running else [start(entry.query.id, 8) for entry in snapshot.pending[:1]]


def query(number, model="net", arrival_s=0.0):
    return Query(number, model, arrival_s, 0.010)


def start(number, cores, *, first=0, stop=3, wanted=None, versions=None):
    block = LayerBlock("net", first, stop)
    return Allocation(number, block, versions or (0,) * len(block), cores, wanted)


def handle(dispatcher, *events):
    """Return the outcome of the last event."""
    return [dispatcher.handle(event, 0.0, {}) for event in events][-1]


def dispatch(*script):
    return Dispatcher(Scripted(*script), CONTEXT)


def arrivals(*numbers):
    return [Arrival(0.0, query(number)) for number in numbers]


@pytest.mark.parametrize(
    ("script", "events", "message"),
    [
        ([[start(1, 9)]], arrivals(1), "Scripted gives 9 cores to query 1, but 8 of 8 are free"),
        ([[], [start(1, 5), start(2, 4)]], arrivals(1, 2), "gives 4 cores to query 2, but 3 of 8 are free"),
        ([[start(2, 1)]], arrivals(1), "answers for query 2, which is not waiting"),
        ([[start(1, 1), start(1, 1)]], arrivals(1), "answers for query 1, which is not waiting"),
        ([[Rejection(2, "no")]], arrivals(1), "answers for query 2, which is not waiting"),
        ([[start(1, 1, first=1)]], arrivals(1), "whose next layer is 0 of 3 of net"),
        ([[start(1, 1, stop=4)]], arrivals(1), "whose next layer is 0 of 3 of net"),
        ([[Resize(1, 2)]], arrivals(1), "resizes query 1, which is not running"),
        ([[start(1, 4), Resize(1, 9)]], arrivals(1), "gives 5 cores to query 1, but 4 of 8 are free"),
        ([[start(1, 4), Resize(1, 4, (0,))]], arrivals(1), "resizes query 1 with 1 versions for 3 layers"),
        ([[Yield(1)]], arrivals(1), "Scripted yields query 1, which is not running"),
        (
            [[start(1, 4)], [Yield(1)]],
            [*arrivals(1), BlockEnd(0.1, 1, 3)],
            "yields query 1, which is not running",
        ),
        (
            [[start(1, 4), Yield(1), Yield(1)]],
            arrivals(1),
            "yields query 1 twice; a yield cannot be taken back",
        ),
        (
            [[start(1, 4), Yield(1), Resize(1, 2)]],
            arrivals(1),
            "resizes query 1, which yields; wait for the end",
        ),
        ([[Wake(0.0)]], arrivals(1), "asks at 0.0 s to be woken at 0.0 s; name a later time"),
        (
            [["start"]],
            arrivals(1),
            "answered 'start'; return Allocation, Resize, Yield, Rejection, Wake",
        ),
    ],
)
def test_a_broken_promise_of_a_policy_is_an_error_that_names_it(script, events, message):
    with pytest.raises(PolicyError, match=message):
        handle(dispatch(*script), *events)


def test_a_block_of_another_model_is_refused():
    context = random_context(0)
    block = Allocation(1, LayerBlock("large", 0, 1), (0,), 1)
    with pytest.raises(PolicyError, match="for query 1, whose next layer is 0 of 5 of small"):
        handle(Dispatcher(Scripted([block]), context), Arrival(0.0, query(1, "small")))


def test_layers_go_on_where_the_last_block_ended():
    dispatcher = dispatch([start(1, 8, stop=1)], [start(1, 8, first=2)])
    with pytest.raises(PolicyError, match="whose next layer is 1 of 3"):
        handle(dispatcher, *arrivals(1), BlockEnd(0.1, 1, 1))


def test_a_block_may_end_before_its_last_layer_and_its_query_waits_with_those_left():
    dispatcher = dispatch([start(1, 8)])
    assert handle(dispatcher, *arrivals(1), BlockEnd(0.1, 1, 2)).finished == []
    waiting = dispatcher.policy.seen[-1].pending
    assert [(entry.query.id, entry.next_layer) for entry in waiting] == [(1, 2)]
    assert dispatcher.free_cores == 8


@pytest.mark.parametrize("next_layer", [1, 4])
def test_a_backend_that_ends_a_block_after_none_of_its_layers_is_an_error(next_layer):
    dispatcher = dispatch([start(1, 8, stop=1)], [start(1, 8, first=1)])
    handle(dispatcher, *arrivals(1), BlockEnd(0.1, 1, 1))
    with pytest.raises(RuntimeError, match=f"of query 1 before layer {next_layer}; .* so from 2 to 3"):
        handle(dispatcher, BlockEnd(0.2, 1, next_layer))


def test_a_policy_sees_once_what_became_of_each_query_that_ended():
    dispatcher = dispatch([start(1, 4)], [Rejection(2, "no")], [])
    first = handle(dispatcher, *arrivals(1, 2)).finished
    second = handle(dispatcher, BlockEnd(0.1, 1, 3)).finished
    handle(dispatcher, Woken(0.2))
    assert [list(seen.ended) for seen in dispatcher.policy.seen] == [[], [], [*first, *second], []]
    assert [record.ending for record in (*first, *second)] == [Ending.REJECTED, Ending.SERVED]


def test_a_query_of_an_unknown_model_or_a_second_arrival_is_refused():
    with pytest.raises(LookupError, match="query 1 asks for web, which this run does not serve"):
        handle(dispatch(), Arrival(0.0, query(1, "web")))
    with pytest.raises(ValueError, match="query 1 arrived twice"):
        handle(dispatch(), *arrivals(1, 1))


def test_a_query_that_ended_may_not_arrive_again():
    dispatcher = dispatch([start(0, 8)])
    handle(dispatcher, *arrivals(0), BlockEnd(0.1, 0, 3))
    with pytest.raises(ValueError, match="query 0 arrived twice"):
        handle(dispatcher, Arrival(0.2, query(0)))


def test_a_query_that_runs_or_has_ended_does_not_wait():
    for events in ([], [BlockEnd(0.1, 1, 3)]):
        dispatcher = dispatch([start(1, 4)], [], [start(1, 4)])
        handle(dispatcher, *arrivals(1), *events)
        with pytest.raises(PolicyError, match="answers for query 1, which is not waiting"):
            handle(dispatcher, *arrivals(2, 3))


def test_nothing_is_kept_of_queries_that_ended():
    dispatcher = Dispatcher(WholeQueries(), CONTEXT)
    records = serve(
        dispatcher, FakeBackend(CONTEXT, [query(number, arrival_s=0.02 * number) for number in range(20)])
    )
    for _ in records:
        assert len(dispatcher._accounts) <= 1
    assert not dispatcher._accounts and not dispatcher._open.pending and not dispatcher._open.running


def test_books_are_handed_out_as_live_views_of_themselves():
    dispatcher = dispatch()
    handle(dispatcher, *arrivals(1), Woken(0.1))
    first, second = dispatcher.policy.seen
    assert first.pending is second.pending and first.running is second.running


def test_waiting_for_ever_is_an_error_not_a_hang():
    with pytest.raises(
        PolicyError, match=r"Scripted stalls: 2 queries wait \(the oldest is 1, a net\), 8 cores"
    ):
        run_to_end(Scripted(), CONTEXT, [query(1), query(2)])


class NeverBack:
    """Starts each query once, and yields it at once for good."""

    def allocate(self, snapshot):
        fresh = [entry.query.id for entry in snapshot.pending if entry.next_layer == 0]
        return [answer for number in fresh for answer in (start(number, 1), Yield(number))]


def test_to_yield_and_never_go_on_is_an_error_not_a_hang():
    with pytest.raises(
        PolicyError, match=r"NeverBack stalls: 2 queries wait \(the oldest is 1, a net\), 8 cores"
    ):
        run_to_end(NeverBack(), CONTEXT, [query(1), query(2)])


class Dreamer(NeverBack):
    """The same, but asks to be woken again and again."""

    def allocate(self, snapshot):
        return [*super().allocate(snapshot), Wake(snapshot.time_s + 1e-6)]


def test_to_be_woken_for_ever_while_queries_wait_is_an_error_not_a_hang():
    with pytest.raises(
        PolicyError, match=r"Dreamer waits for ever: 1 queries .* nothing runs, .* 10000 times"
    ):
        run_to_end(Dreamer(), CONTEXT, [query(1)])


def test_a_policy_may_be_woken_as_often_as_it_likes_while_a_block_runs():
    dispatcher = dispatch([start(1, 4)])
    handle(dispatcher, *arrivals(1, 2), *(Woken(1.0 + number) for number in range(IDLE_WAKES + 1)))


class Restart:
    """Yields whatever runs, and starts whatever waits, always: nobody could yield more."""

    def __init__(self):
        self.starts = 0

    def allocate(self, snapshot):
        yields = [Yield(run.query.id) for run in snapshot.running if not run.yields]
        starts = [start(entry.query.id, 1, first=entry.next_layer) for entry in snapshot.pending]
        self.starts += len(starts)
        return [*yields, *starts, *(Yield(one.query_id) for one in starts)]


def test_who_yields_always_still_gets_on_by_a_layer_a_start():
    policy = Restart()
    records = run_to_end(policy, CONTEXT, [query(1), query(2)])
    assert [(record.ending, record.blocks) for record in records] == [(Ending.SERVED, 3)] * 2
    assert policy.starts == 6


def test_a_backend_that_ends_while_blocks_run_is_an_error():
    dispatcher = dispatch([start(1, 4)])
    handle(dispatcher, *arrivals(1))
    with pytest.raises(RuntimeError, match=r"ended while queries \[1\] ran"):
        dispatcher.check_drained()


def test_a_served_query_ends_with_its_blocks_conflicts_and_core_seconds():
    # Layer 0 on 2 of 4 wanted cores for 1 s, then layers 1-2 on 8 cores for 0.5 s: 2 + 4 core-s.
    dispatcher = dispatch([start(1, 2, stop=1, wanted=4)], [start(1, 8, first=1)])
    (record,) = handle(dispatcher, *arrivals(1), BlockEnd(1.0, 1, 1), BlockEnd(1.5, 1, 3)).finished
    assert (record.ending, record.start_s, record.end_s) == (Ending.SERVED, 0.0, 1.5)
    assert (record.blocks, record.conflicts, record.core_s) == (2, 1, 6.0)
    assert not record.on_time
    dispatcher.check_drained()


def test_a_rejected_query_ends_at_once_and_is_never_on_time():
    (record,) = handle(dispatch([Rejection(1, "full")]), *arrivals(1)).finished
    assert (record.ending, record.reason, record.blocks) == (Ending.REJECTED, "full", 0)
    assert not record.on_time


def test_queries_wait_oldest_arrival_first_whenever_they_come_back():
    dispatcher = dispatch([], [start(2, 1, stop=1)])
    handle(dispatcher, Arrival(0.1, query(3, arrival_s=0.1)), Arrival(0.1, query(2, arrival_s=0.05)))
    handle(dispatcher, BlockEnd(0.2, 2, 1))
    waiting = dispatcher.policy.seen[-1].pending
    assert [(entry.query.id, entry.next_layer) for entry in waiting] == [(2, 1), (3, 0)]


def test_cores_of_a_growing_block_are_taken_at_once():
    dispatcher = dispatch([start(1, 2), Resize(1, 6)])
    handle(dispatcher, *arrivals(1))
    assert dispatcher.free_cores == 2
    handle(dispatcher, Resized(0.1, 1, 6))
    assert dispatcher.free_cores == 2
    (run,) = dispatcher.policy.seen[-1].running
    assert (run.cores, run.target_cores) == (6, 6)


def test_cores_of_a_shrinking_block_are_free_once_it_has_adopted():
    dispatcher = dispatch([start(1, 6), Resize(1, 2)])
    handle(dispatcher, *arrivals(1))
    assert dispatcher.free_cores == 2
    handle(dispatcher, Resized(0.1, 1, 2))
    assert dispatcher.free_cores == 6


def test_a_block_that_ends_before_a_resize_frees_all_that_it_reserved():
    for first, second in ((2, 6), (6, 2)):
        dispatcher = dispatch([start(1, first), Resize(1, second)])
        handle(dispatcher, *arrivals(1), BlockEnd(0.1, 1, 3))
        assert dispatcher.free_cores == 8


def test_reserved_cores_are_charged_from_the_moment_they_are_taken():
    # 6 cores are reserved from 0 s on, though 2 run; the shrink to 3 takes effect at 2 s; the end is at 3 s.
    dispatcher = dispatch([start(1, 2), Resize(1, 6)], [Resize(1, 3)])
    events = [*arrivals(1), Resized(1.0, 1, 6), Resized(2.0, 1, 3), BlockEnd(3.0, 1, 3)]
    (record,) = handle(dispatcher, *events).finished
    assert record.core_s == pytest.approx(6 + 6 + 3)


@pytest.mark.parametrize(
    ("resizes", "free_after_each"),
    [
        # Two resizes of a block on 4 of 8 cores; free cores after: both sent, the first adopted, the second.
        ((6, 8), (0, 0, 0)),  # growth, then more
        ((2, 6), (2, 2, 2)),  # a shrink, then growth past the start
        ((2, 3), (4, 5, 5)),  # a shrink, then less of one
        ((6, 6), (2, 2, 2)),  # the same again
    ],
)
def test_a_second_resize_may_overtake_the_adoption_of_the_first(resizes, free_after_each):
    first, second = resizes
    dispatcher = dispatch([start(1, 4), Resize(1, first), Resize(1, second)])
    free = []
    for event in (*arrivals(1), Resized(0.1, 1, first), Resized(0.2, 1, second)):
        handle(dispatcher, event)
        free.append(dispatcher.free_cores)
    assert tuple(free) == free_after_each


def test_a_block_that_is_to_yield_says_so_and_keeps_what_it_had():
    dispatcher = dispatch([start(1, 2), Resize(1, 6), Yield(1)])
    handle(dispatcher, *arrivals(1), Resized(0.1, 1, 6))
    block = LayerBlock("net", 0, 3)
    assert list(dispatcher.policy.seen[-1].running) == [
        Running(query(1), block, (0, 0, 0), 6, 6, 2, 0.0, yields=True)
    ]


def test_cores_of_a_block_that_yields_are_free_at_its_end_with_those_that_it_was_to_get():
    dispatcher = dispatch([start(1, 2), Resize(1, 6), Yield(1)])
    handle(dispatcher, *arrivals(1))
    assert dispatcher.free_cores == 2
    handle(dispatcher, BlockEnd(0.5, 1, 1))
    assert dispatcher.free_cores == 8


def test_a_yield_in_the_last_layer_serves_the_query():
    (record,) = handle(dispatch([start(1, 2), Yield(1)]), *arrivals(1), BlockEnd(0.5, 1, 3)).finished
    assert record.ending is Ending.SERVED


def test_new_versions_are_booked_with_the_resize():
    dispatcher = dispatch([start(1, 4), Resize(1, 4, (1, 1, 1))])
    handle(dispatcher, *arrivals(1), Woken(0.1))
    assert dispatcher.policy.seen[-1].running[0].versions == (1, 1, 1)


def test_closing_ends_what_waits_and_what_runs_as_unfinished():
    dispatcher = dispatch([start(1, 4)])
    outcome = handle(dispatcher, *arrivals(1, 2), Closed(2.0))
    assert {(record.query.id, record.ending) for record in outcome.finished} == {
        (1, Ending.UNFINISHED),
        (2, Ending.UNFINISHED),
    }
    assert {record.query.id: record.core_s for record in outcome.finished} == {1: 8.0, 2: 0.0}
    dispatcher.check_drained()


def test_a_cut_off_run_ends_every_query_that_arrived_once():
    context = random_context(1)
    queries = random_queries(context, 50, seed=1)
    close_s = queries[24].arrival_s
    dispatcher = Dispatcher(RandomPolicy(context, 1), context)
    records = list(serve(dispatcher, FakeBackend(context, queries, close_s)))
    assert sorted(record.query.id for record in records) == list(range(25))
    assert Ending.UNFINISHED in {record.ending for record in records}


def test_commands_come_back_in_the_order_of_the_answers():
    script = [Wake(1.0), start(1, 2), Resize(1, 4)]
    assert list(handle(dispatch(script), *arrivals(1)).commands) == script


def test_a_policy_is_woken_when_it_asks():
    class Sleeper(Scripted):
        def allocate(self, snapshot):
            super().allocate(snapshot)
            if not snapshot.pending:
                return []
            return [start(1, 8)] if snapshot.time_s >= 0.5 else [Wake(0.5)]

    (record,) = run_to_end(Sleeper(), CONTEXT, [query(1)])
    assert record.start_s == 0.5


class RandomPolicy:
    """Answers anything that the contract allows, drawn from a seed."""

    def __init__(self, context, seed):
        self.models, self.cores = context.models, context.machine.cores
        self.random = random.Random(seed)

    def allocate(self, snapshot):
        reserved = sum(run.reserved_cores for run in snapshot.running)
        assert reserved + snapshot.free_cores == self.cores
        self.free, answers = snapshot.free_cores, []
        for run in snapshot.running:
            if not run.yields:
                answers += self.resize(run)
                answers += [Yield(run.query.id)] if self.random.random() < 0.2 else []
        for entry in snapshot.pending:
            idle = not snapshot.running and not any(isinstance(done, Allocation) for done in answers)
            answers += self.decide(entry, must=idle)
        if self.random.random() < 0.1:
            answers.append(Wake(snapshot.time_s + self.random.random() * 0.01))
        return answers

    def resize(self, run):
        cores = self.random.randint(1, run.reserved_cores + self.free)
        # What a block already holds or has been promised stays promised until it adopts a count.
        cores = max(cores, run.target_cores if run.target_cores > run.cores else 1)
        if self.random.random() < 0.5:
            return []
        self.free -= max(cores, run.cores) - run.reserved_cores
        return [Resize(run.query.id, cores)]

    def decide(self, entry, must):
        if self.free == 0 or (not must and self.random.random() < 0.5):
            return []
        if not must and self.random.random() < 0.1:
            return [Rejection(entry.query.id, "drawn")]
        cores = self.random.randint(1, self.free)
        self.free -= cores
        layers = len(self.models[entry.query.model].layers)
        block = LayerBlock(
            entry.query.model, entry.next_layer, self.random.randint(entry.next_layer + 1, layers)
        )
        versions = tuple(self.random.randrange(3) for _ in range(len(block)))
        return [Allocation(entry.query.id, block, versions, cores)]


@given(st.integers(min_value=0, max_value=2**32))
def test_any_legal_policy_ends_each_query_once_and_loses_no_core(seed):
    context = random_context(seed % 7)
    queries = random_queries(context, 15, seed)
    policy = RandomPolicy(context, seed)
    dispatcher = Dispatcher(policy, context)
    records = list(serve(dispatcher, FakeBackend(context, queries)))
    assert sorted(record.query.id for record in records) == list(range(15))
    assert dispatcher.free_cores == context.machine.cores
    end_s = max(record.end_s for record in records)
    assert sum(record.core_s for record in records) <= context.machine.cores * end_s * (1 + 1e-9)
