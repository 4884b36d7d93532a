from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from itertools import cycle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders import make_context, make_costs, make_machine, make_model, random_queries
from tests.support.serving.policy_cases import POLICIES, traffic_context
from veltair.evaluation.experiment.invariants import InvariantError, LeastWork, checked, checked_columns
from veltair.evaluation.metrics.targets import least_plan, work_optimal_core_s
from veltair.machine.costs.block_costs import BlockCosts
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.ended_queries import ArrivalColumns, EndedQueries
from veltair.serving.loop.policy import Context
from veltair.serving.loop.query import Ending, Query, QueryRecord
from veltair.serving.policies.presets import PRESETS, make_policy
from veltair.serving.simulator.native_loop import end_simulated, serve_simulated
from veltair.serving.simulator.noise import noise_batches, service_factors
from veltair.serving.simulator.simulator import Simulator

FACTORS = (0.8, 1.0, 1.0, 1.3)


def simulator_of(site: Context, arrivals: list[Query], seed: int) -> Simulator:
    return Simulator(
        arrivals,
        site,
        noise_batches(arrivals, site, np.random.default_rng(seed)),
        drain_s=100.0,
        costs=BlockCosts(start_s=1e-5, resize_s=1e-6),
    )


def run(
    site: Context, arrivals: list[Query], path: str, preset: str, options, seed: int
) -> Iterator[QueryRecord]:
    policy = make_policy(path, site, preset, options)
    return serve(Dispatcher(policy, site), simulator_of(site, arrivals, seed))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=4)
@given(gap_s=st.sampled_from((0.0005, 0.003, 0.02)), seed=st.integers(0, 30))
def test_no_policy_breaks_an_invariant_under_contention_and_noise(name, preset, gap_s, seed):
    site, (path, options) = traffic_context(seed, factors=FACTORS), POLICIES[name]
    arrivals = random_queries(site, 60, seed, gap_s)
    records = run(site, arrivals, path, preset, options, seed)
    least = LeastWork(site).of_each(noise_batches(arrivals, site, np.random.default_rng(seed)))
    assert len(list(checked(records, arrivals, site, least))) == len(arrivals)


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=4)
@given(gap_s=st.sampled_from((0.0005, 0.003, 0.02)), seed=st.integers(0, 30))
def test_every_policy_gives_the_same_records_under_the_loop_in_c(name, gap_s, seed):
    site, (path, options) = traffic_context(seed, factors=FACTORS), POLICIES[name]
    arrivals = random_queries(site, 60, seed, gap_s)
    policy = make_policy(path, site, "paper", options)
    in_c = list(serve_simulated(policy, site, simulator_of(site, arrivals, seed)))
    assert in_c == list(run(site, arrivals, path, "paper", options, seed))
    again = make_policy(path, site, "paper", options)
    columns = list(end_simulated(again, site, simulator_of(site, arrivals, seed)))
    assert_same(columns, EndedQueries.of(in_c, {query.id: index for index, query in enumerate(arrivals)}))


def assert_same(some: Sequence[EndedQueries], all_: EndedQueries) -> None:
    for field in fields(EndedQueries):
        parts = [getattr(one, field.name) for one in some]
        assert np.concatenate(parts).tolist() == getattr(all_, field.name).tolist(), field.name


def uneven_queries(site: Context, count: int, seed: int) -> list[Query]:
    """Return queries of the site's models, each with a target of its own."""
    return [
        query._replace(qos_s=query.qos_s * (0.1 + 0.05 * (query.id % 5)))
        for query in random_queries(site, count, seed)
    ]


def test_the_least_work_of_each_query_is_that_of_its_model_its_factors_and_its_target() -> None:
    site = traffic_context(3, factors=FACTORS)
    arrivals = uneven_queries(site, 40, 3)
    factors = service_factors(noise_batches(arrivals, site, np.random.default_rng(5)), site)
    expected = []
    for query, drawn in zip(arrivals, factors, strict=True):
        plan = least_plan(site.costs.model(query.model).seconds.min(axis=3), site.costs.cores)
        expected.append(float(plan.core_s(drawn[None], np.array([query.qos_s]))[0]))
    least = LeastWork(site).of_each(noise_batches(arrivals, site, np.random.default_rng(5)))
    assert list(least) == pytest.approx(expected)


@pytest.mark.parametrize("changed", ["noise", "targets", "models"])
def test_what_is_known_of_one_trace_is_not_taken_for_another(changed) -> None:
    site = traffic_context(3, factors=FACTORS)
    arrivals = uneven_queries(site, 40, 3)
    others = {
        "noise": arrivals,
        "targets": [query._replace(qos_s=query.qos_s * 1.1) for query in arrivals],
        "models": [query._replace(model=name) for query, name in zip(arrivals, cycle(site.models))],
    }[changed]
    seed = 6 if changed == "noise" else 5
    known = LeastWork(site)
    list(known.of_each(noise_batches(arrivals, site, np.random.default_rng(5))))
    again = list(known.of_each(noise_batches(others, site, np.random.default_rng(seed))))
    assert again == list(LeastWork(site).of_each(noise_batches(others, site, np.random.default_rng(seed))))
    assert again != list(LeastWork(site).of_each(noise_batches(arrivals, site, np.random.default_rng(5))))


def test_a_factor_of_two_doubles_what_a_query_needs_and_halves_its_time():
    # 0.4 s on 1 core, 0.2 s on 4. Twice as slow, and due in 0.6 s: half of the way from 0.8 to 0.4 s, so
    # half of the way from 0.8 to 1.6 core-s. Due in 0.39 s: never.
    plan = least_plan(np.array([[[0.4, 0.35, 0.2]]]), (1, 2, 4))
    least = plan.core_s(np.full((2, 1), 2.0), np.array([0.6, 0.39]))
    assert least.tolist() == [pytest.approx(1.2), np.inf]


@given(st.integers(0, 30), st.floats(0.005, 0.05))
def test_without_noise_the_least_work_is_the_work_optimal_one(seed, qos_s):
    costs = traffic_context(seed).costs
    for name in costs.models:
        seconds = costs.model(name).seconds[..., 0]
        least = least_plan(seconds, costs.cores).core_s(np.ones((1, len(seconds))), np.array([qos_s]))
        assert least[0] == pytest.approx(work_optimal_core_s(costs, name, qos_s))


SITE = make_context(
    {"net": np.array([0.4, 0.2, 0.1]).reshape(1, 1, 3, 1)},
    [make_model(macs=(1,), qos_s=0.4)],
    cores=(1, 2, 4),
    machine=make_machine(4),
)
QUERIES = [Query(number, "net", 0.1 * number, 0.4) for number in range(3)]


def ended(query: Query, core_s: float = 0.4, latency_s: float = 0.4) -> QueryRecord:
    return QueryRecord(query, Ending.SERVED, query.arrival_s, query.arrival_s + latency_s, 1, 0, core_s)


def check(
    records: list[QueryRecord], arrivals: list[Query] = QUERIES, factor: float = 1.0
) -> list[QueryRecord]:
    """Check records against the least that they need: 0.4 core-s each, whatever the cores.

    The same in columns, however many come at a time, must say the same.
    """
    least = [0.4 * factor] * len(arrivals)
    found = outcome(lambda: list(checked(records, arrivals, SITE, least)))
    for together in (1, 2, 100):
        assert outcome(partial(in_columns, records, arrivals, least, together)) == found
    if isinstance(found, str):
        raise InvariantError(found)
    return found


def outcome(run: Callable[[], list[QueryRecord]]) -> list[QueryRecord] | str:
    """Return the records of a run, or the words of its error."""
    try:
        return run()
    except InvariantError as error:
        return str(error)


def in_columns(
    records: list[QueryRecord],
    arrivals: list[Query],
    least: list[float],
    together: int = 2,
    fluid: tuple[list[float], float] | None = None,
) -> list[QueryRecord]:
    index_of = {query.id: index for index, query in enumerate(arrivals)}
    parts = [records[first : first + together] for first in range(0, len(records), together)]
    ended = [EndedQueries.of(part, index_of) for part in parts]
    fluid_core_s, fluid_cores = fluid or (least, 4.0)
    columns = ArrivalColumns.of(arrivals)
    needs = iter(np.array_split(np.array(least), 2)), (iter([np.array(fluid_core_s)]), fluid_cores)
    list(checked_columns(ended, arrivals, columns, SITE, *needs))
    return records


def test_records_of_a_possible_run_pass_unchanged():
    records = [ended(query) for query in QUERIES]
    assert check(records) == records


def test_a_query_that_needed_less_than_the_least_is_named_with_both_numbers():
    records = [ended(query, 0.399) for query in QUERIES]
    with pytest.raises(InvariantError, match=r"query 0 of net was on time with 0.399 core-s, .* needs 0.4"):
        check(records)


def test_a_query_drawn_fast_may_need_less():
    records = [ended(query, 0.3) for query in QUERIES]
    assert check(records, factor=0.75) == records


def test_a_late_query_may_have_used_less():
    records = [ended(query, 0.1, latency_s=0.5) for query in QUERIES]
    assert check(records) == records


def test_more_work_on_time_than_the_cores_can_do_is_an_error():
    # 10 queries at once need 4 core-s; 4 cores have 1.6 core-s until the deadline. They end too late to
    # have held more than there was.
    arrivals = [Query(number, "net", 0.0, 0.4) for number in range(10)]
    records = [ended(query, 0.4) for query in arrivals]
    with pytest.raises(InvariantError, match=r"the queries on time need 2 core-s, .* have 1.6 core-s"):
        check(records, arrivals)


def test_more_work_on_time_than_all_cores_do_at_their_common_clock_is_an_error():
    # The three queries need 0.6 core-s each, so counted; a machine that does 2.5 a second does 1.5 in 0.6 s.
    records = [ended(query, latency_s=0.3) for query in QUERIES]
    fluid = [0.6] * 3, 2.5
    with pytest.raises(InvariantError, match=r"clock of all cores .* need 1.8 core-s, .* have 1.5 core-s"):
        list(checked(records, QUERIES, SITE, [0.4] * 3, fluid))
    with pytest.raises(InvariantError, match=r"clock of all cores .* need 1.8 core-s, .* have 1.5 core-s"):
        in_columns(records, QUERIES, [0.4] * 3, 2, fluid)
    assert list(checked(records, QUERIES, SITE, [0.4] * 3, ([0.5] * 3, 2.5))) == records


def test_work_is_counted_by_the_table_that_is_given():
    busy = make_costs({"net": np.array([0.4, 0.3, 0.2]).reshape(1, 1, 3, 1)}, (1, 2, 4))
    batches = lambda: noise_batches(QUERIES, SITE, np.random.default_rng(0))  # noqa: E731 - read twice
    assert list(LeastWork(SITE).of_each(batches())) == pytest.approx([0.4] * 3)
    fast = make_context(
        {"net": np.array([0.4, 0.2, 0.1]).reshape(1, 1, 3, 1)},
        [make_model(macs=(1,), qos_s=0.1)],
        cores=(1, 2, 4),
        machine=make_machine(4),
    )
    tight = [query._replace(qos_s=0.1) for query in QUERIES]
    drawn = noise_batches(tight, fast, np.random.default_rng(0))
    # 0.1 s pass on 4 cores only, whose work is counted as 4 x 0.2 s.
    assert list(LeastWork(fast, busy).of_each(drawn)) == pytest.approx([0.8] * 3)


def test_more_cores_held_than_there_are_is_an_error():
    with pytest.raises(InvariantError, match=r"queries held 2 core-s, .* have 1.6 core-s .* until 0.4 s"):
        check([ended(QUERIES[0], 2.0)])


def test_a_query_that_ends_twice_is_an_error():
    records = [ended(query) for query in QUERIES]
    with pytest.raises(InvariantError, match="query 1 of net ended twice, or never arrived"):
        check([*records, records[1]._replace(end_s=0.9)])


def test_a_query_that_never_ends_is_an_error():
    with pytest.raises(InvariantError, match="the run ended, but 2 of its queries did not"):
        check([ended(QUERIES[0])])


def test_a_consumer_may_stop_early():
    records = checked([ended(QUERIES[0])], QUERIES, SITE, [0.4] * 3)
    assert next(records).query is QUERIES[0]
    records.close()
    some = EndedQueries.of([ended(QUERIES[0])], {0: 0})
    needs = iter([np.array([0.4])]), (iter([np.array([0.4])]), 4.0)
    columns = checked_columns([some], QUERIES, ArrivalColumns.of(QUERIES), SITE, *needs)
    assert next(columns) is some
    columns.close()


def test_a_run_without_queries_passes():
    assert check([], []) == []
