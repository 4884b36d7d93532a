from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.sim_builders import Cost, Greedy, context
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import Answer, Context, Pending, Rejection, Snapshot
from veltair.serving.loop.query import Ending, Query, QueryRecord
from veltair.serving.policies.admission import (
    WINDOW,
    Credit,
    ProtectShares,
    earned,
    is_admitted,
    parts_of,
)
from veltair.serving.simulator.noise import noise_batches
from veltair.serving.simulator.simulator import Simulator


def test_credit_grows_with_the_part_of_the_machine_up_to_a_burst() -> None:
    # Half a core for 4 s is 2 core-s.
    assert earned(Credit(1.0, 10.0), 14.0, 0.5, 5.0) == Credit(3.0, 14.0)
    assert earned(Credit(1.0, 10.0), 24.0, 0.5, 5.0) == Credit(5.0, 24.0)
    assert earned(Credit(-3.0, 0.0), 2.0, 0.5, 5.0) == Credit(-2.0, 2.0)


@given(st.floats(-10, 10), st.floats(0.01, 8), st.floats(0, 5), st.floats(0, 5), st.floats(0.1, 10))
def test_credit_does_not_depend_on_when_it_was_looked_at(start, cores, first_s, second_s, most) -> None:
    begin = Credit(min(start, most), 0.0)
    at_once = earned(begin, first_s + second_s, cores, most)
    twice = earned(earned(begin, first_s, cores, most), first_s + second_s, cores, most)
    assert twice.core_s == pytest.approx(at_once.core_s, abs=1e-9)
    assert begin.core_s <= at_once.core_s <= most


def test_who_can_pay_comes_in_and_who_cannot_only_where_cores_are_idle() -> None:
    assert is_admitted(Credit(2.0, 0.0), 2.0, is_idle=False)
    assert not is_admitted(Credit(1.9, 0.0), 2.0, is_idle=False)
    assert is_admitted(Credit(-9.0, 0.0), 2.0, is_idle=True)


def test_parts_of_the_machine_go_by_weight() -> None:
    assert parts_of({"a": 1.0, "b": 3.0}, 8) == {"a": 2.0, "b": 6.0}
    with pytest.raises(ValueError, match="tenant b has weight 0"):
        parts_of({"a": 1.0, "b": 0.0}, 8)


class Recording(Greedy):
    """Keeps what it was shown."""

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        self.seen = snapshot
        return super().allocate(snapshot)


# A query takes 4 s of one core; its model's target is 100 s. Two tenants, a core each.
def shared(tenants: Mapping[str, float] | None = None, qos_s: float = 100.0) -> Context:
    made = context({"net": [[Cost(4.0)]]}, (1, 2))
    models = {"net": replace(made.models["net"], qos_s=qos_s)}
    return replace(made, models=models, tenants=tenants or {"loud": 1.0, "quiet": 1.0})


def arrived(*senders: str, first: int = 0, time_s: float = 0.0) -> list[Pending]:
    return [
        Pending(Query(first + number, "net", time_s, 100.0, name), 0) for number, name in enumerate(senders)
    ]


def snapshot(
    pending: list[Pending], free: int, time_s: float = 0.0, ended: list[QueryRecord] | None = None
) -> Snapshot:
    return Snapshot(time_s, free, 0.0, pending, [], {}, ended or [])


def spent(made: Context, count: int) -> tuple[ProtectShares, Recording]:
    """Return a guard to which `loud` has sent so many queries; with 25 it has used up its 100 core-s."""
    inner = Recording(made)
    guard = ProtectShares(inner, made)
    guard.allocate(snapshot(arrived(*["loud"] * count), 0))
    return guard, inner


def rejected(answers: object) -> list[int]:
    return [one.query_id for one in answers if isinstance(one, Rejection)]


def test_a_tenant_beyond_its_part_is_turned_away_and_the_policy_does_not_see_it() -> None:
    guard, inner = spent(shared(), 25)
    waiting = arrived(*["loud"] * 25)
    answers = guard.allocate(snapshot([*waiting, *arrived("loud", "quiet", first=25)], 0))
    assert rejected(answers) == [25]
    assert [entry.query.id for entry in inner.seen.pending] == [*range(25), 26]
    (rejection,) = (one for one in answers if isinstance(one, Rejection))
    assert rejection.reason == "loud has used up its part of 1 cores"


def test_it_comes_in_while_nobody_waits_and_cores_are_idle_and_pays_nothing_for_that() -> None:
    guard, _ = spent(shared(), 25)
    assert rejected(guard.allocate(snapshot(arrived("loud", first=25), 1))) == []
    # 3 s later it has earned 3 core-s, too little for the 4 of a query; 1 s more is enough: it owes nothing.
    assert rejected(guard.allocate(snapshot(arrived("loud", first=26, time_s=3.0), 0, 3.0))) == [26]
    assert rejected(guard.allocate(snapshot(arrived("loud", first=27, time_s=4.0), 0, 4.0))) == []


def test_what_a_query_held_less_or_more_than_was_paid_is_settled_at_its_end() -> None:
    guard, _ = spent(shared(), 25)
    cheap = QueryRecord(Query(0, "net", 0.0, 100.0, "loud"), Ending.SERVED, 0.0, 0.0, 1, 0, core_s=0.5)
    # 3.5 of the 4 core-s that it paid come back, and the next ones are to cost as little: seven come in.
    guard.allocate(snapshot([], 0, 0.0, [cheap]))
    more = arrived(*["loud"] * 8, first=25)
    assert rejected(guard.allocate(snapshot(more, 0))) == [32]


def test_the_price_is_the_mean_of_the_last_queries_that_were_served() -> None:
    guard, _ = spent(shared(), 25)
    ended = [
        QueryRecord(Query(number, "net", 0.0, 100.0, "loud"), Ending.SERVED, 0.0, 0.0, 1, 0, core_s=core_s)
        for number, core_s in enumerate([50.0] * 3 + [2.0] * WINDOW)
    ]
    guard.allocate(snapshot([], 0, 0.0, ended))
    assert guard._prices["net"].core_s == 2.0


def test_what_the_policy_did_not_see_come_it_does_not_see_end() -> None:
    guard, inner = spent(shared(), 25)
    guard.allocate(snapshot(arrived("loud", first=25), 0))
    gone = QueryRecord(Query(25, "net", 0.0, 100.0, "loud"), Ending.REJECTED, 0.0, 0.0, 0, 0, 0.0)
    guard.allocate(snapshot([], 0, 0.0, [gone]))
    assert list(inner.seen.ended) == []


def test_where_models_have_one_tenant_each_they_have_equal_parts() -> None:
    made = context({"net": [[Cost(4.0)]], "other": [[Cost(1.0)]]}, (1, 2))
    assert ProtectShares(Greedy(made), made)._parts == {"net": 1.0, "other": 1.0}


def test_a_tenant_that_nobody_named_is_an_error_that_names_it() -> None:
    made = shared(tenants={"loud": 1.0})
    with pytest.raises(LookupError, match=r"tenant quiet has no part of the machine \(loud have\)"):
        ProtectShares(Greedy(made), made).allocate(snapshot(arrived("quiet"), 1))


def run(made: Context, queries: list[Query], protects: bool) -> list[QueryRecord]:
    policy = ProtectShares(Greedy(made), made) if protects else Greedy(made)
    noise = noise_batches(queries, made, np.random.default_rng(1))
    return list(serve(Dispatcher(policy, made), Simulator(queries, made, noise, drain_s=1000.0)))


def on_time(records: list[QueryRecord], tenant: str) -> float:
    own = [record.on_time for record in records if record.query.sender == tenant]
    return sum(own) / len(own)


def test_a_quiet_tenant_is_on_time_beside_a_loud_one_only_if_its_part_is_protected() -> None:
    made = shared(qos_s=20.0)
    # 1 core-s a second is each one's part: quiet asks for 0.4 of it, loud for 6 times its own.
    quiet = [Query(0, "net", 10.0 * number, 20.0, "quiet") for number in range(60)]
    loud = [Query(0, "net", 4.0 / 6 * number, 20.0, "loud") for number in range(900)]
    queries = sorted([*quiet, *loud], key=lambda query: query.arrival_s)
    queries = [query._replace(id=number) for number, query in enumerate(queries)]
    open_door, protected = (run(made, queries, protects) for protects in (False, True))
    assert on_time(open_door, "quiet") < 0.2
    assert on_time(protected, "quiet") > 0.8
    # And the loud one still gets the cores that the quiet one leaves.
    assert on_time(protected, "loud") >= on_time(open_door, "loud")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 60), st.sampled_from(["loud", "quiet"]), st.floats(1, 50)),
        min_size=1,
        max_size=60,
    )
)
def test_every_query_ends_once_and_nobody_within_its_part_is_turned_away(sent) -> None:
    made = shared()
    ordered = sorted(sent)
    queries = [
        Query(number, "net", at_s, qos_s, tenant) for number, (at_s, tenant, qos_s) in enumerate(ordered)
    ]
    records = run(made, queries, protects=True)
    assert sorted(record.query.id for record in records) == list(range(len(queries)))
    # A burst is 100 core-s: 24 queries of 4 are within any part.
    for tenant in ("loud", "quiet"):
        if sum(query.sender == tenant for query in queries) <= 24:
            turned_away = [r for r in records if r.ending is Ending.REJECTED and r.query.sender == tenant]
            assert turned_away == []
