import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veltair.config.trace_file import RecordedTrace
from veltair.evaluation.loadgen.arrivals import server_queries
from veltair.evaluation.loadgen.tenants import (
    LOADGEN_SERVER,
    OURS,
    TenantLoad,
    drawn_by,
    drawn_samples,
    queries_until,
    sample_tenants,
    tenant_queries,
    unit_path,
)

SHOP = TenantLoad("shop", "small", 2.0, 0.02)
SEARCH = TenantLoad("search", "small", 1.0, 0.05)
BURSTY = TenantLoad("batch", "large", 1.0, 0.04, cv=4.0)
RECORDED = TenantLoad("cam", "large", 1.0, 0.04, trace=RecordedTrace((0.0, 1.0, 3.0), 4.5))


def test_poisson_tenants_in_whole_shares_are_loadgens_own_queries_with_their_names_and_targets() -> None:
    found = tenant_queries([SHOP, SEARCH], 100.0, 1000, 200, seed=3)
    drawn = server_queries(
        *(100.0, 1000, 200, 3),
        sample_models=("shop", "shop", "search"),
        qos_s={"shop": 0.02, "search": 0.05},
    )
    assert [(one.id, one.tenant, one.arrival_s, one.qos_s) for one in found] == [
        (one.id, one.model, one.arrival_s, one.qos_s) for one in drawn
    ]
    assert {one.model for one in found} == {"small"}


def test_where_each_model_has_one_tenant_the_queries_are_those_of_the_models() -> None:
    tenants = [TenantLoad("small", "small", 1, 0.02), TenantLoad("large", "large", 3, 0.04)]
    drawn = server_queries(
        *(100.0, 1000, 200, 3),
        sample_models=("small", "large", "large", "large"),
        qos_s={"small": 0.02, "large": 0.04},
    )
    assert tenant_queries(tenants, 100.0, 1000, 200, seed=3) == drawn


@pytest.mark.parametrize("tenant", [BURSTY, RECORDED, TenantLoad("half", "small", 0.5, 0.02)])
def test_who_loadgen_cannot_draw_is_drawn_by_us_and_said_so(tenant: TenantLoad) -> None:
    assert (drawn_by([SHOP, SEARCH]), drawn_by([SHOP, tenant])) == (LOADGEN_SERVER, OURS)
    assert sample_tenants([SHOP, tenant], copies=2) == ("shop", "shop", tenant.name, tenant.name)


@pytest.mark.parametrize("tenants", [[SHOP, BURSTY], [RECORDED, BURSTY, SEARCH]])
def test_what_our_client_sends_are_the_queries_that_a_simulation_is_given(tenants: list[TenantLoad]) -> None:
    times_ns, samples = drawn_samples(tenants, 50.0, 2000, 300, 7, copies=4)
    queries = tenant_queries(tenants, 50.0, 2000, 300, 7)
    names = sample_tenants(tenants, copies=4)
    assert [names[sample] for sample in samples] == [query.sender for query in queries]
    arrivals_s = np.array([query.arrival_s for query in queries])
    assert (times_ns / 1e9).tolist() == pytest.approx((arrivals_s - arrivals_s[0]).tolist(), abs=1e-9)
    assert len(set(samples.tolist())) == 4 * len(tenants)


@pytest.mark.parametrize("tenants", [[SHOP, BURSTY], [RECORDED], [SHOP, SEARCH, BURSTY, RECORDED]])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_is_as_long_and_has_as_many_queries_as_asked(tenants: list[TenantLoad], seed: int) -> None:
    found = tenant_queries(tenants, 50.0, 2000, 300, seed)
    times_s = [query.arrival_s for query in found]
    assert times_s == sorted(times_s) and times_s[-1] >= 2.0
    assert len(found) == 300 or times_s[-2] < 2.0
    assert [query.id for query in found] == list(range(len(found)))


def test_the_same_seed_at_twice_the_rate_has_the_same_path_at_half_the_times() -> None:
    slow, fast = (tenant_queries([SHOP, BURSTY, RECORDED], qps, 0, 500, 7) for qps in (40.0, 80.0))
    assert [query.sender for query in slow] == [query.sender for query in fast]
    assert [query.arrival_s for query in slow] == pytest.approx([2 * query.arrival_s for query in fast])


def test_another_seed_gives_other_arrivals_of_every_kind() -> None:
    for tenant in (BURSTY, RECORDED):
        assert unit_path(tenant, 20.0, 1).tolist() != unit_path(tenant, 20.0, 2).tolist()


def test_a_tenants_queries_are_the_same_whoever_else_sends_how_much() -> None:
    together = queries_until([SHOP, BURSTY], [20.0, 200.0], 5.0, seed=1)
    alone = queries_until([SHOP, BURSTY], [20.0, 0.0], 5.0, seed=1)
    assert {query.sender for query in alone} == {"shop"}
    assert [query.arrival_s for query in together if query.sender == "shop"] == [
        query.arrival_s for query in alone
    ]


@pytest.mark.parametrize(("cv", "expected"), [(0.5, 0.5), (1.0, 1.0), (None, 1.0), (4.0, 4.0)])
def test_gaps_have_the_coefficient_of_variation_that_was_asked_for(cv: float | None, expected: float) -> None:
    gaps = np.diff(unit_path(TenantLoad("t", "small", 1, 1.0, cv=cv), 200_000.0, 5))
    assert gaps.mean() == pytest.approx(1.0, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(expected, rel=0.05)


def test_a_recording_is_stretched_to_the_rate_and_repeated() -> None:
    # Three arrivals in 4.5 s, at 1, so stretched to 3: gaps of 2/3, 4/3 and 1 for ever, from some place on.
    path = unit_path(RECORDED, 30.0, 1)
    assert len(path) == 30
    gaps = np.diff(path)
    cycle = gaps[:3].round(9).tolist()
    assert sorted(cycle) == pytest.approx([2 / 3, 1.0, 4 / 3])
    assert gaps == pytest.approx(np.resize(cycle, 29))


@settings(max_examples=50, deadline=None)
@given(
    st.one_of(st.none(), st.floats(0.2, 5.0)),
    st.floats(0.1, 300.0),
    st.floats(1.0, 3.0),
    st.integers(0, 2**31),
)
def test_a_longer_path_goes_on_from_a_shorter_one(cv, end: float, longer: float, seed: int) -> None:
    tenant = TenantLoad("t", "small", 1, 1.0, cv=cv)
    short, long = unit_path(tenant, end, seed), unit_path(tenant, longer * end, seed)
    assert (np.diff(short) >= 0).all() and (short < end).all()
    assert long[: len(short)].tolist() == short.tolist()
    assert len(long) == len(short) or long[len(short)] >= end


@pytest.mark.parametrize("name", ["offered", "qos_s", "weight", "cv"])
def test_a_tenant_without_a_part_of_anything_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"TenantLoad t: {name} is 0"):
        TenantLoad(**{"name": "t", "model": "small", "offered": 1, "qos_s": 1.0} | {name: 0})
