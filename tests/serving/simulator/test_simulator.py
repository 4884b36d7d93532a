"""The simulator against runs worked by hand, and what holds for every run, on both of its cores."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.serving.sim_builders import Cost, Greedy, allocation, context, machine, trace
from veltair.compiler.frontend.model import Layer, LayerBlock, Model
from veltair.machine.costs.block_costs import BlockCosts
from veltair.serving.loop.backend import Arrival, BlockEnd, Closed, Event, Resized, Woken
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import Allocation, Context, Resize, Snapshot, Wake, Yield
from veltair.serving.loop.query import Ending, Query, QueryRecord
from veltair.serving.simulator.noise import noise_batches
from veltair.serving.simulator.simulator import CORES, SensorError, Simulator

# The core that runs are made on, by plain functions deep in helpers.
_chosen = [CORES[0]]


# Of the module, because hypothesis runs many examples within one function.
@pytest.fixture(params=CORES, autouse=True, scope="module")
def core(request: pytest.FixtureRequest) -> Iterator[None]:
    _chosen[0] = request.param
    yield
    _chosen[0] = CORES[0]


def simulator(
    served: Context,
    queries: list[Query],
    *,
    drain_s: float = 1000.0,
    seed: int = 0,
    **inputs: Any,
) -> Simulator:
    return Simulator(
        queries,
        served,
        noise_batches(queries, served, np.random.default_rng(seed)),
        drain_s=drain_s,
        core=_chosen[0],
        **inputs,
    )


def events(backend: Simulator) -> list[Event]:
    found = []
    while (event := backend.wait()) is not None:
        found.append(event)
    return found


def started(served: Context, *models: str, **costs: Any) -> Simulator:
    """Return a simulator at time 0 in which one query of each model runs whole on one core."""
    backend = simulator(served, trace(*[(0.0, model) for model in models]), **costs)
    for query_id, model in enumerate(models):
        assert isinstance(backend.wait(), Arrival)
        backend.do(allocation(query_id, model, (0, len(served.models[model].layers)), 1))
    return backend


def run(served: Context, queries: list[Query], seed: int = 0, **policy: int) -> list[QueryRecord]:
    backend = simulator(served, queries, seed=seed)
    return list(serve(Dispatcher(Greedy(served, **policy), served), backend))


def test_a_block_alone_takes_the_sum_of_its_layers():
    assert events(started(context({"m": [[Cost(1.0)], [Cost(0.5)]]}), "m")) == [BlockEnd(1.5, 0, 2)]


def test_two_blocks_slow_each_other_by_the_pressure_that_each_meets():
    # Each asks for half of DRAM, so each meets 0.5: halfway between 1 s and 2 s.
    served = context({"m": [[Cost(1.0, slowdown=2.0, dram_share=0.5)]]})
    assert events(started(served, "m", "m")) == [BlockEnd(1.5, 0, 1), BlockEnd(1.5, 1, 1)]


def test_the_l3_footprint_of_a_neighbour_slows_as_its_dram_demand_does():
    # The aggressor fills half of the L3 and is slowed by nothing; the victim meets 0.5: 1 + 0.5 x 2 s.
    served = context(
        {"victim": [[Cost(1.0, slowdown=3.0)]], "aggressor": [[Cost(5.0, footprint_bytes=50.0)]]}
    )
    assert events(started(served, "victim", "aggressor")) == [BlockEnd(2.0, 0, 1), BlockEnd(5.0, 1, 1)]


def test_a_layer_is_re_timed_when_its_neighbour_ends_within_it():
    # Both at pressure 1 take twice as long. The short one ends at 2 s; the long one has then done 2 of its
    # 6 s, a third. The other two thirds of 3 s alone take 2 s: it ends at 4 s.
    cost = {"slowdown": 2.0, "dram_share": 1.0}
    served = context({"short": [[Cost(1.0, **cost)]], "long": [[Cost(3.0, **cost)]]})
    assert events(started(served, "short", "long")) == [BlockEnd(2.0, 0, 1), BlockEnd(4.0, 1, 1)]


def test_a_layer_is_re_timed_when_a_neighbour_starts_within_it():
    # Alone the first would end at 2 s. At 1 s, halfway, the second starts: both at pressure 1. The second
    # half takes 2 s instead of 1, the second query 2 s from 1 s on: both end at 3 s, in start order.
    cost = {"slowdown": 2.0, "dram_share": 1.0}
    served = context({"a": [[Cost(2.0, **cost)]], "b": [[Cost(1.0, **cost)]]})
    backend = simulator(served, trace((0.0, "a"), (1.0, "b")))
    backend.wait()
    backend.do(allocation(0, "a", (0, 1), 1))
    backend.wait()
    backend.do(allocation(1, "b", (0, 1), 1))
    assert events(backend) == [BlockEnd(3.0, 0, 1), BlockEnd(3.0, 1, 1)]


def test_a_neighbour_is_re_timed_when_a_layer_change_alters_the_demand():
    # For 1 s the first layer of `a` takes all DRAM: `b` runs at half its speed and does 0.5 of its 4 s. The
    # second layer asks for nothing: the other 3.5 s run at full speed, to 4.5 s.
    served = context(
        {"a": [[Cost(1.0, dram_share=1.0)], [Cost(1.0)]], "b": [[Cost(4.0, slowdown=2.0)]]},
    )
    assert events(started(served, "a", "b")) == [BlockEnd(2.0, 0, 2), BlockEnd(4.5, 1, 1)]


def test_a_resize_is_adopted_at_the_next_layer_end():
    # Three layers of 1 s; asked at 0.5 s for two cores. The first still takes 1 s, the others 0.5 s each.
    backend = started(context({"m": [[Cost(1.0)]] * 3}), "m")
    backend.do(Wake(0.5))
    assert backend.wait() == Woken(0.5)
    backend.do(Resize(0, 2))
    assert events(backend) == [Resized(1.0, 0, 2), BlockEnd(2.0, 0, 3)]


def test_a_resize_costs_its_time_once():
    backend = started(context({"m": [[Cost(1.0)]] * 3}), "m", costs=BlockCosts(resize_s=0.25))
    backend.do(Resize(0, 2))
    assert events(backend) == [Resized(1.0, 0, 2), BlockEnd(2.25, 0, 3)]


def test_a_resize_to_the_same_cores_costs_nothing():
    backend = started(context({"m": [[Cost(1.0)]] * 2}), "m", costs=BlockCosts(resize_s=0.25))
    backend.do(Resize(0, 1))
    assert events(backend) == [Resized(1.0, 0, 1), BlockEnd(2.0, 0, 2)]


def test_a_resize_in_the_last_layer_has_no_effect_and_no_event():
    backend = started(context({"m": [[Cost(1.0)]] * 2}), "m", costs=BlockCosts(resize_s=0.25))
    backend.do(Wake(1.5))
    backend.wait()
    backend.do(Resize(0, 2))
    assert events(backend) == [BlockEnd(2.0, 0, 2)]


def test_the_latest_resize_counts_and_versions_stay_unless_given():
    # Version 1 takes 4 s a layer on one core. Asked for it on 2 cores, then for 4: 4 cores, 1 s a layer.
    backend = started(context({"m": [[Cost(1.0), Cost(4.0)]] * 3}), "m")
    backend.do(Resize(0, 2, versions=(1, 1, 1)))
    backend.do(Resize(0, 4))
    assert events(backend) == [Resized(1.0, 0, 4), BlockEnd(3.0, 0, 3)]


def test_a_resize_can_change_the_versions_of_layers_to_come():
    # Version 1 takes 4 s on one core. On 2 cores the second layer takes 0.5 s and the third 2 s.
    backend = started(context({"m": [[Cost(1.0), Cost(4.0)]] * 3}), "m")
    backend.do(Resize(0, 2, versions=(0, 0, 1)))
    assert events(backend) == [Resized(1.0, 0, 2), BlockEnd(3.5, 0, 3)]


def test_starting_costs_its_time_before_the_first_layer_only():
    assert events(started(context({"m": [[Cost(1.0)]] * 2}), "m", costs=BlockCosts(start_s=0.25))) == [
        BlockEnd(2.25, 0, 2)
    ]


def test_models_may_start_at_costs_of_their_own():
    served = context({"m": [[Cost(1.0)]], "n": [[Cost(1.0)]]})
    backend = simulator(
        served, trace((0.0, "m"), (0.0, "n")), costs=BlockCosts(start_s=0.25, starts_s={"n": 0.75})
    )
    for query_id, model in enumerate("mn"):
        backend.wait()
        backend.do(allocation(query_id, model, (0, 1), 1))
    assert [backend.wait(), backend.wait()] == [BlockEnd(1.25, 0, 1), BlockEnd(1.75, 1, 1)]


def test_what_a_decision_lets_start_begins_when_the_decision_ends():
    backend = started(context({"m": [[Cost(1.0)]]}), "m", costs=BlockCosts(start_s=0.5, decision_s=0.25))
    assert events(backend) == [BlockEnd(1.75, 0, 1)]


def test_decisions_wait_for_one_another():
    # Arrivals at 0 and 0.125 s are decided about until 0.25 and 0.5 s; one at 2 s until 2.25 s.
    served = context({"m": [[Cost(1.0)]]})
    queries = trace((0.0, "m"), (0.125, "m"), (2.0, "m"))
    backend = simulator(served, queries, costs=BlockCosts(decision_s=0.25))
    for query_id in range(2):
        assert isinstance(backend.wait(), Arrival)
        backend.do(allocation(query_id, "m", (0, 1), 1))
    assert [backend.wait(), backend.wait()] == [BlockEnd(1.25, 0, 1), BlockEnd(1.5, 1, 1)]
    assert isinstance(backend.wait(), Arrival)
    backend.do(allocation(2, "m", (0, 1), 1))
    assert events(backend) == [BlockEnd(3.25, 2, 1)]


def test_decisions_about_ends_hold_the_lock_too():
    # Decided about at 0 s until 0.25 and 0.5 s; at 1.25 s, when the first block ends, until 1.5 s; then at
    # once, when the second one does, until 1.75 s.
    served = context({"m": [[Cost(1.0)]] * 2})
    backend = simulator(served, trace((0.0, "m"), (0.0, "m")), costs=BlockCosts(decision_s=0.25))
    records = list(serve(Dispatcher(Greedy(served, block=1), served), backend))
    assert [(record.query.id, record.end_s) for record in records] == [(0, 2.5), (1, 2.75)]


def test_a_change_of_cores_counts_only_after_its_decision():
    # Decided about at 0 s until 1.25 s, when the block begins: its first layer ends at 2.25 s.
    backend = started(context({"m": [[Cost(1.0)]] * 3}), "m", costs=BlockCosts(decision_s=1.25))
    backend.do(Resize(0, 2))
    assert events(backend) == [Resized(2.25, 0, 2), BlockEnd(3.25, 0, 3)]


def test_the_wait_for_a_start_is_not_stretched_by_pressure():
    # The victim meets pressure 1 for all of its 0.5 s wait and its layer of 1 s, which takes 2 s.
    served = context({"victim": [[Cost(1.0, slowdown=2.0)]], "aggressor": [[Cost(8.0, dram_share=1.0)]]})
    assert events(started(served, "victim", "aggressor", costs=BlockCosts(start_s=0.5)))[0] == BlockEnd(
        2.5, 0, 1
    )


def test_pressure_that_ends_during_the_wait_for_a_start_leaves_no_trace():
    # `a` begins at 0.5 s and ends at 1 s. At 0.75 s `b` starts and waits till 1.25 s, alone from 1 s on.
    served = context({"a": [[Cost(0.5, dram_share=1.0)]], "b": [[Cost(1.0, slowdown=2.0)]]})
    backend = simulator(served, trace((0.0, "a"), (0.75, "b")), costs=BlockCosts(start_s=0.5))
    for query_id, model in enumerate("ab"):
        backend.wait()
        backend.do(allocation(query_id, model, (0, 1), 1))
    assert events(backend) == [BlockEnd(1.0, 0, 1), BlockEnd(2.25, 1, 1)]


def test_at_equal_times_cores_are_freed_then_queries_arrive_then_wakes():
    queries = trace((0.0, "m"), (1.0, "m"))
    backend = simulator(context({"m": [[Cost(1.0)]]}), queries)
    backend.wait()
    backend.do(Wake(1.0))
    backend.do(allocation(0, "m", (0, 1), 1))
    assert events(backend) == [BlockEnd(1.0, 0, 1), Arrival(1.0, queries[1]), Woken(1.0)]


def test_a_time_asked_for_twice_wakes_once():
    backend = simulator(context({"m": [[Cost(1.0)]]}), trace((0.0, "m")))
    backend.wait()
    for time_s in (2.0, 1.0, 2.0):
        backend.do(Wake(time_s))
    assert events(backend) == [Woken(1.0), Woken(2.0)]


def test_the_run_is_closed_when_the_drain_limit_has_passed():
    backend = simulator(context({"m": [[Cost(5.0)]]}), trace((1.0, "m")), drain_s=2.0)
    backend.wait()
    backend.do(allocation(0, "m", (0, 1), 1))
    assert events(backend) == [Closed(3.0)]


def test_what_is_due_after_the_drain_limit_closes_the_run():
    backend = simulator(context({"m": [[Cost(4.0)]]}), trace((1.0, "m")), drain_s=2.0)
    backend.wait()
    backend.do(Wake(5.0))
    assert events(backend) == [Closed(3.0)]
    backend = simulator(context({"m": [[Cost(4.0)]]}), trace((1.0, "m")), drain_s=2.0)
    backend.wait()
    backend.do(allocation(0, "m", (0, 1), 1))
    backend.do(Wake(5.0))
    assert events(backend) == [Closed(3.0)]


def test_a_block_that_ends_at_the_drain_limit_is_served():
    backend = simulator(context({"m": [[Cost(2.0)]]}), trace((1.0, "m")), drain_s=2.0)
    backend.wait()
    backend.do(allocation(0, "m", (0, 1), 1))
    assert events(backend) == [BlockEnd(3.0, 0, 1)]


def test_a_run_that_is_closed_leaves_its_queries_unfinished():
    served = context({"m": [[Cost(5.0)]]})
    backend = simulator(served, trace((0.0, "m"), (1.0, "m")), drain_s=2.0)
    records = list(serve(Dispatcher(Greedy(served, cores=4), served), backend))
    assert [(record.ending, record.end_s) for record in records] == [
        (Ending.SERVED, 1.25),
        (Ending.SERVED, 2.5),
    ]
    backend = simulator(served, trace((0.0, "m"), (1.0, "m")), drain_s=1.0)
    records = list(serve(Dispatcher(Greedy(served, cores=4), served), backend))
    assert [(record.ending, record.end_s) for record in records] == [
        (Ending.SERVED, 1.25),
        (Ending.UNFINISHED, 2.0),
    ]


def test_an_empty_trace_ends_at_once():
    assert events(simulator(context({"m": [[Cost(1.0)]]}), [])) == []


def test_progress_and_pressure_show_what_runs():
    served = context({"m": [[Cost(1.0, dram_share=0.25)], [Cost(1.0, dram_share=0.5)]]})
    backend = started(served, "m")
    progress = backend.progress()
    assert (dict(progress), backend.pressure()) == ({0: 0}, 0.25)
    backend.do(Wake(1.5))
    backend.wait()
    assert (dict(progress), backend.pressure()) == ({0: 1}, 0.5)
    backend.wait()
    assert (dict(progress), backend.pressure()) == ({}, 0.0)


def test_layer_ends_are_counted():
    backend = started(context({"m": [[Cost(1.0)]] * 3}), "m", "m")
    events(backend)
    assert backend.events == 6


def noisy() -> Context:
    cost = Cost(1.0, slowdown=1.7, dram_share=0.3)
    return context({"m": [[cost]] * 4, "n": [[cost]] * 3}, factors=(0.8, 0.9, 1.0, 1.3, 1.6))


def test_the_same_inputs_give_the_same_records_bit_for_bit():
    queries = trace(*[(0.7 * index, "mn"[index % 2]) for index in range(30)])
    assert run(noisy(), queries, seed=3) == run(noisy(), queries, seed=3)


def test_another_seed_gives_other_service_times():
    queries = trace(*[(0.7 * index, "mn"[index % 2]) for index in range(30)])
    assert run(noisy(), queries, seed=3) != run(noisy(), queries, seed=4)


def test_a_layer_takes_its_time_times_a_measured_factor():
    # Repeats of 1 s and 3 s: the median is 2 s, the factors 0.5 and 1.5. A query alone takes 1 s or 3 s.
    served = context({"m": [[Cost(2.0)]]}, factors=(0.5, 1.5))
    records = run(served, trace(*[(10.0 * index, "m") for index in range(20)]))
    assert {round(record.latency_s, 9) for record in records} == {1.0, 3.0}


def test_a_query_has_the_same_factors_under_every_policy():
    queries = trace(*[(100.0 * index, "mn"[index % 2]) for index in range(10)])
    whole = run(noisy(), queries, block=1000)
    by_layer = run(noisy(), queries, block=1)
    assert [r.latency_s for r in whole] == pytest.approx([r.latency_s for r in by_layer])


@dataclass
class Restless:
    """Starts blocks of any length on any free count and grows running ones, by a fixed list of choices."""

    context: Context
    choices: list[int]
    turn: int = field(default=0)

    def choose(self, options: int) -> int:
        self.turn += 1
        return self.choices[self.turn % len(self.choices)] % options

    def allocate(self, snapshot: Snapshot) -> list[Allocation | Resize]:
        free, answers = snapshot.free_cores, []
        for running in snapshot.running:
            if free and running.cores == running.target_cores == 1 and self.choose(2):
                answers.append(Resize(running.query.id, 2))
                free -= 1
        for pending in snapshot.pending:
            counts = [cores for cores in (1, 2, 4) if cores <= free]
            if not counts:
                break
            cores = counts[self.choose(len(counts))]
            model, start = pending.query.model, pending.next_layer
            stop = start + 1 + self.choose(len(self.context.models[model].layers) - start)
            block = LayerBlock(model, start, stop)
            answers.append(Allocation(pending.query.id, block, (0,) * (stop - start), cores))
            free -= cores
        return list(answers)


@settings(deadline=None, max_examples=60)
@given(
    gaps=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=12),
    choices=st.lists(st.integers(0, 11), min_size=1, max_size=9),
    slowdown=st.floats(1.0, 4.0),
)
def test_every_query_ends_once_and_no_faster_than_all_cores_alone(gaps, choices, slowdown):
    cost = Cost(1.0, slowdown=slowdown, dram_share=0.4, footprint_bytes=30.0)
    served = context({"m": [[cost]] * 4, "n": [[cost]] * 2})
    queries = trace(*[(float(at), "mn"[n % 2]) for n, at in enumerate(np.cumsum(gaps))])
    backend = simulator(served, queries)
    records = list(serve(Dispatcher(Restless(served, choices), served), backend))
    assert sorted(record.query.id for record in records) == list(range(len(queries)))
    assert all(record.ending is Ending.SERVED for record in records)
    assert backend.events == sum(len(served.models[query.model].layers) for query in queries)
    # On 4 cores a layer takes 0.25 s; on fewer, and beside others, never less.
    least = {"m": 1.0, "n": 0.5}
    assert all(record.latency_s >= least[record.query.model] - 1e-9 for record in records)


@settings(deadline=None, max_examples=60)
@given(
    seconds=st.lists(st.floats(1e-5, 10.0), min_size=1, max_size=6),
    gaps=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=8),
    block=st.integers(1, 6),
)
def test_without_contention_and_noise_a_query_takes_the_sum_of_its_layers(seconds, gaps, block):
    served = context({"m": [[Cost(time, dram_share=0.5)] for time in seconds]}, cores=(1, 16))
    queries = trace(*[(float(at), "m") for at in np.cumsum(gaps)])
    records = run(served, queries, block=block)
    # Up to 8 queries share 16 cores, one each, so nobody waits.
    assert [record.latency_s for record in records] == pytest.approx([sum(seconds)] * len(queries))


def test_a_trace_out_of_order_names_the_query():
    with pytest.raises(ValueError, match=r"trace out of order: query 1 arrives at 1\.0 s"):
        simulator(context({"m": [[Cost(1.0)]]}), trace((2.0, "m"), (1.0, "m")))


def test_a_negative_time_is_named():
    with pytest.raises(ValueError, match="drain_s is -1"):
        simulator(context({"m": [[Cost(1.0)]]}), [], drain_s=-1.0)


def test_a_query_of_a_model_that_is_not_served_is_named():
    with pytest.raises(LookupError, match="query 0 asks for other"):
        simulator(context({"m": [[Cost(1.0)]]}), trace((0.0, "other")))


def test_a_table_of_other_layers_is_an_error():
    table = context({"m": [[Cost(1.0)]]}).costs
    model = Model("m", (Layer("a", "s", 1), Layer("b", "s", 1)), 1.0)
    with pytest.raises(ValueError, match="m has 2 layers, but 1 were profiled"):
        simulator(Context({"m": model}, table, machine()), [])


def test_a_version_that_was_not_profiled_is_named_at_the_start():
    backend = simulator(context({"m": [[Cost(1.0)]]}), trace((0.0, "m")))
    backend.wait()
    with pytest.raises(LookupError, match="layer 0 of m has no version 7"):
        backend.do(Allocation(0, LayerBlock("m", 0, 1), (7,), 1))


def test_a_resize_that_was_not_profiled_is_named_when_it_is_asked_for():
    backend = started(context({"m": [[Cost(1.0)]] * 3}), "m")
    with pytest.raises(LookupError, match="3 cores were not profiled"):
        backend.do(Resize(0, 3))
    with pytest.raises(LookupError, match="layer 2 of m has no version 5 on 2 cores"):
        backend.do(Resize(0, 2, versions=(9, 0, 5)))


def test_a_resize_counts_only_after_the_time_of_a_grant():
    # Asked at 0 s, known at 1.5 s: the layer that ends at 1 s changes nothing, the one that ends at 2 s does.
    backend = started(context({"m": [[Cost(1.0)]] * 4}), "m", costs=BlockCosts(grant_s=1.5))
    backend.do(Resize(0, 2))
    assert events(backend) == [Resized(2.0, 0, 2), BlockEnd(3.0, 0, 4)]


def test_a_block_that_grows_waits_for_cores_to_join_and_one_that_shrinks_does_not():
    served = context({"m": [[Cost(1.0)]] * 2})
    grown = started(served, "m", costs=BlockCosts(resize_s=0.25, join_s=0.125))
    grown.do(Resize(0, 2))
    assert events(grown) == [Resized(1.0, 0, 2), BlockEnd(1.875, 0, 2)]
    shrunk = simulator(served, trace((0.0, "m")), costs=BlockCosts(resize_s=0.25, join_s=0.125))
    shrunk.wait()
    shrunk.do(allocation(0, "m", (0, 2), 2))
    shrunk.do(Resize(0, 1))
    assert events(shrunk) == [Resized(0.5, 0, 1), BlockEnd(1.75, 0, 2)]


def test_a_yield_ends_a_block_at_its_next_layer_end_and_the_query_goes_on_from_there():
    # Three layers of 1 s, asked at 0.5 s: the block ends at 1 s; the other two layers follow on two cores.
    backend = started(context({"m": [[Cost(1.0)]] * 3}), "m")
    backend.do(Wake(0.5))
    backend.wait()
    backend.do(Yield(0))
    assert backend.wait() == BlockEnd(1.0, 0, 1)
    backend.do(allocation(0, "m", (1, 3), 2))
    assert events(backend) == [BlockEnd(2.0, 0, 3)]
    assert backend.events == 3


def test_a_yield_in_the_last_layer_has_no_effect_and_costs_nothing():
    backend = started(context({"m": [[Cost(1.0)]] * 2}), "m", costs=BlockCosts(yield_s=0.25))
    backend.do(Wake(1.5))
    backend.wait()
    backend.do(Yield(0))
    assert events(backend) == [BlockEnd(2.0, 0, 2)]


def test_a_block_holds_its_cores_for_the_time_of_a_yield_and_presses_on_others():
    # `a` fills DRAM: until it ends, at 1.25 s, `b` does 0.625 of its 4 s, and the others from there on.
    served = context({"a": [[Cost(1.0, dram_share=1.0)]] * 2, "b": [[Cost(4.0, slowdown=2.0)]]})
    backend = started(served, "a", "b", costs=BlockCosts(yield_s=0.25))
    backend.do(Yield(0))
    assert events(backend) == [BlockEnd(1.25, 0, 1), BlockEnd(4.625, 1, 1)]


def test_a_block_that_holds_its_cores_after_a_yield_is_stretched_by_nobody():
    # `b` starts at 1.125 s with all DRAM, while `a`, whose layers would take twice as long, ends at 1.25 s.
    served = context({"a": [[Cost(1.0, slowdown=2.0)]] * 2, "b": [[Cost(1.0, dram_share=1.0)]]})
    backend = simulator(served, trace((0.0, "a"), (1.125, "b")), costs=BlockCosts(yield_s=0.25))
    backend.wait()
    backend.do(allocation(0, "a", (0, 2), 1))
    backend.do(Yield(0))
    backend.wait()
    backend.do(allocation(1, "b", (0, 1), 1))
    assert events(backend) == [BlockEnd(1.25, 0, 1), BlockEnd(2.125, 1, 1)]


def test_a_yield_counts_only_after_the_time_of_a_grant():
    # Asked at 0 s, known at 1.5 s: the layer that ends at 2 s is the block's last.
    backend = started(context({"m": [[Cost(1.0)]] * 4}), "m", costs=BlockCosts(grant_s=1.5))
    backend.do(Yield(0))
    assert events(backend) == [BlockEnd(2.0, 0, 2)]


def test_a_block_that_yields_adopts_no_other_cores():
    backend = started(context({"m": [[Cost(1.0)]] * 3}), "m")
    backend.do(Resize(0, 2))
    backend.do(Yield(0))
    assert events(backend) == [BlockEnd(1.0, 0, 1)]


def test_the_next_block_of_a_query_that_yielded_knows_nothing_of_it():
    backend = started(context({"m": [[Cost(1.0)]] * 3}), "m", costs=BlockCosts(yield_s=0.25))
    backend.do(Yield(0))
    assert backend.wait() == BlockEnd(1.25, 0, 1)
    backend.do(allocation(0, "m", (1, 3), 1))
    assert events(backend) == [BlockEnd(3.25, 0, 3)]


def test_without_contention_blocks_do_not_slow_each_other():
    served = context({"m": [[Cost(1.0, slowdown=2.0, dram_share=0.5)]]})
    assert events(started(served, "m", "m", contention_scale=0.0)) == [
        BlockEnd(1.0, 0, 1),
        BlockEnd(1.0, 1, 1),
    ]


def test_the_scale_of_contention_multiplies_what_co_runners_add():
    served = context({"m": [[Cost(1.0, slowdown=2.0, dram_share=0.5)]]})
    assert events(started(served, "m", "m", contention_scale=2.0)) == [
        BlockEnd(2.0, 0, 1),
        BlockEnd(2.0, 1, 1),
    ]


def test_an_error_of_the_sensor_changes_what_is_read_and_not_what_happens():
    served = context({"m": [[Cost(1.0, slowdown=2.0, dram_share=0.4)]]})
    backend = started(served, "m", "m", sensor_error=SensorError(sigma=0.1))
    assert backend.pressure() != 0.8
    assert events(backend) == events(started(served, "m", "m"))


def test_within_one_event_the_same_pressure_is_read_the_same():
    backend = started(
        context({"m": [[Cost(1.0, dram_share=0.5)]]}), "m", sensor_error=SensorError(sigma=0.2, seed=1)
    )
    assert backend.pressure() == backend.pressure() != 0.5


def test_each_event_has_an_error_of_its_own():
    backend = started(
        context({"m": [[Cost(9.0, dram_share=0.5)]]}), "m", sensor_error=SensorError(sigma=0.1, seed=1)
    )
    read = [backend.pressure()]
    backend.do(Wake(1.0))
    backend.wait()
    read.append(backend.pressure())
    assert read[0] != read[1]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("placement", "scattered", "placement is 'scattered'; give one of spread, pinned"),
        ("contention_scale", float("nan"), "the scale of contention is nan"),
    ],
)
def test_an_unknown_input_is_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        simulator(context({"m": [[Cost(1.0)]]}), [], **{name: value})


def test_a_wake_in_the_past_is_refused():
    backend = simulator(context({"m": [[Cost(1.0)]]}), trace((1.0, "m")))
    backend.wait()
    for time_s in (0.5, float("nan")):
        with pytest.raises(ValueError, match=f"asked at 1.0 s to wake at {time_s} s"):
            backend.do(Wake(time_s))


def test_a_query_that_runs_or_has_not_arrived_cannot_start():
    backend = started(context({"m": [[Cost(1.0)]] * 2}), "m")
    for query_id in (0, 5):
        with pytest.raises(LookupError, match=f"query {query_id} has not arrived, has ended or runs already"):
            backend.do(allocation(query_id, "m", (0, 1), 1))


def test_more_blocks_than_cores_are_refused():
    backend = simulator(context({"m": [[Cost(1.0)]]}, cores=(1,)), trace((0.0, "m"), (0.0, "m")))
    backend.wait()
    backend.wait()
    backend.do(allocation(0, "m", (0, 1), 1))
    with pytest.raises(ValueError, match="1 blocks run on 1 cores; wait until one ends"):
        backend.do(allocation(1, "m", (0, 1), 1))


def test_an_arrival_at_no_time_is_refused():
    with pytest.raises(ValueError, match="query 0 arrives at nan s"):
        simulator(context({"m": [[Cost(1.0)]]}), trace((float("nan"), "m")))
