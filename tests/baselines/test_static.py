import pytest

from baselines.static import Static, Tenant, free_sizes, laid_out, mig_sizes
from tests.support.builders import pending, random_context, running, snapshot
from tests.support.schedulers import EIGHT, made, serving, started_blocks
from veltair.machine.topology.topology import Machine
from veltair.serving.loop.policy import Allocation, Context, Rejection


def tenant(need: int, rate: float = 1.0, work: float = 1.0, counts: tuple[int, ...] = EIGHT) -> Tenant:
    """Return a tenant that speeds up linearly."""
    return Tenant(rate, need, {count: work / count for count in counts})


def two_models(work_core_s: dict[str, float], qos_s: dict[str, float]) -> Context:
    """Return models of two layers of equal work."""
    return serving({name: ([work / 2] * 2, qos_s[name]) for name, work in work_core_s.items()})


def static(context: Context, **options) -> Static:
    return made(Static, context, **options)


# 20 core-ms in 10 ms need 2 cores, 30 core-ms in 15 ms too: on these both take as long as they may.
CONTEXT = two_models({"a": 0.020, "b": 0.030}, {"a": 0.010, "b": 0.015})


def test_each_model_gets_its_need_and_the_rest_goes_by_load():
    # The needs are 2 and 2 of 8; the loads 1 x 10 and 1 x 15 ms: 4 cores go 1.6 and 2.4, so 2 and 2.
    assert static(CONTEXT).partitions == {"a": 4, "b": 4}
    # At 3 times the rate of b the loads are 30 and 15 ms: 2.7 and 1.3.
    assert static(CONTEXT, shares={"a": 3.0}).partitions == {"a": 5, "b": 3}
    assert static(CONTEXT, shares={"b": 0.0}).partitions == {"a": 6, "b": 2}


def test_nobody_gets_cores_on_which_it_is_no_faster():
    idle = Tenant(9.0, 1, {count: 1 / min(count, 2) for count in EIGHT})
    assert free_sizes([idle, tenant(2)], EIGHT, 8) == [2, 6]


def test_partitions_are_multiples_of_the_core_unit():
    counts = (8, 16, 24, 32, 40, 48, 56, 64)
    # The spare 40 cores are 5 units, by equal loads 2.5 each: of equals the first has one more.
    assert free_sizes([tenant(8, counts=counts), tenant(16, work=2.0, counts=counts)], counts, 64) == [32, 32]


def test_needs_that_do_not_fit_are_scaled_and_who_is_below_its_own_is_named():
    # 60 core-ms in 10 ms need 6 cores, 80 need 8: of 8 cores, 1 each and 6 by 5 and 7, so 2.5 and 3.5.
    context = two_models({"a": 0.060, "b": 0.080}, {"a": 0.010, "b": 0.010})
    policy = static(context)
    assert policy.partitions == {"a": 4, "b": 4}
    assert policy.unservable == ("a", "b")
    assert static(CONTEXT).unservable == ()


def test_a_model_that_no_count_can_serve_is_unservable_and_has_a_partition_all_the_same():
    context = two_models({"a": 0.010, "b": 0.200}, {"a": 0.010, "b": 0.010})
    policy = static(context)
    assert policy.partitions == {"a": 1, "b": 7}
    assert policy.unservable == ("b",)


def test_a_tenant_is_served_on_its_partition_only_and_nobody_borrows():
    a, b = CONTEXT.models.values()
    policy = static(CONTEXT)
    starts = policy.allocate(snapshot(8, [pending(1, a), pending(2, a), pending(3, b)]))
    assert started_blocks(starts) == [(1, 0, 2, 4), (3, 0, 2, 4)]
    # b's cores are free, but 2 is one of a's.
    assert policy.allocate(snapshot(4, [pending(2, a)], [running(1, a, 4)])) == []


def test_queues_follow_the_order_of_the_options_and_who_is_late_on_his_partition_is_dropped():
    # 20 core-ms take 5 ms on 4 cores, 2.5 on 8: 4 ms before its deadline query 1 is lost.
    a = CONTEXT.models["a"]
    waiting = [pending(1, a), pending(2, a, 0.006)]
    rejection, start = static(CONTEXT, drop_late="when_doomed").allocate(snapshot(8, waiting, time_s=0.006))
    assert isinstance(rejection, Rejection) and rejection.query_id == 1
    assert isinstance(start, Allocation) and start.query_id == 2


@pytest.mark.parametrize(
    ("needs", "rates", "cores"),
    [
        # Of 56 cores in steps of 8 a seventh is 8: needs of 8 and 16 are 1 and 2 of them. Loads are rate x
        # work / cores: the one that is highest grows by a step of the sizes while all fit into 7.
        ((8, 16), (1.0, 1.0), [32, 24]),  # loads 1/8, 1/16: 2 2; 1/16, 1/16: 3 2; then 3 3; 4 3
        ((8, 16), (1.0, 9.0), [24, 32]),  # loads 1/8, 9/16: 1 3; 1 4; 7 does not fit: 2 4; 3 4
        ((24, 24), (1.0, 1.0), [32, 24]),
        ((40, 8), (1.0, 1.0), [32, 24]),  # 7 and 1 sevenths do not fit: 4 and 1, and the second grows
        ((8, 40), (1.0, 1.0), [24, 32]),
    ],
)
def test_mig_like_partitions_are_sevenths_of_the_machine(needs, rates, cores):
    counts = tuple(range(8, 57, 8))
    tenants = [tenant(need, rate, counts=counts) for need, rate in zip(needs, rates, strict=True)]
    assert mig_sizes(tenants, counts, 56) == cores


def test_a_mig_like_partition_does_not_grow_if_its_tenant_gets_no_faster():
    counts = tuple(range(8, 57, 8))
    idle = Tenant(9.0, 8, dict.fromkeys(counts, 1.0))
    assert mig_sizes([idle, tenant(8, counts=counts)], counts, 56) == [8, 32]


def test_a_lone_tenant_has_the_whole_machine():
    assert mig_sizes([tenant(2)], EIGHT, 8) == [8]
    assert free_sizes([tenant(2)], EIGHT, 8) == [8]


def test_sevenths_of_a_machine_that_they_do_not_divide_are_rounded_down():
    counts = tuple(range(8, 65, 8))
    # 9.1, 18.3, 27.4 and 36.6 of 64 cores.
    tenants = [tenant(need, counts=counts) for need in (8, 24)]
    assert mig_sizes(tenants, counts, 64) == [32, 24]


def test_more_models_than_partitions_are_refused():
    with pytest.raises(ValueError, match="9 models on 8 steps of 1 cores; serve fewer models"):
        free_sizes([tenant(1)] * 9, EIGHT, 8)
    with pytest.raises(
        ValueError, match="8 partitions of 1 cores or more do not fit into sevenths of 8 cores"
    ):
        mig_sizes([tenant(1)] * 8, EIGHT, 8)
    with pytest.raises(
        ValueError, match="3 partitions of 1 cores or more do not fit into sevenths of 2 cores"
    ):
        mig_sizes([tenant(1)] * 3, (1, 2), 2)


@pytest.mark.parametrize("sizes", ["free", "mig"])
@pytest.mark.parametrize("machine", [(2, 1), (8, 1), (64, 8)])
@pytest.mark.parametrize("seed", range(10))
def test_partitions_fit_into_the_machine(sizes, machine, seed):
    context = random_context(seed, cores=machine[0], core_unit=machine[1])
    partitions = static(context, sizes=sizes).partitions
    assert sum(partitions.values()) <= machine[0]
    assert min(partitions.values()) >= machine[1]


def test_a_share_below_nothing_is_refused():
    with pytest.raises(ValueError, match=r"option shares is .*greater than or equal to 0"):
        static(CONTEXT, shares={"a": -1.0})
    with pytest.raises(ValueError, match="option sizes is 'thirds'; Input should be 'free' or 'mig'"):
        static(CONTEXT, sizes="thirds")


def test_a_partition_is_a_range_of_cores_the_largest_first():
    assert laid_out([2, 4, 2]) == [4, 0, 6]
    policy = static(CONTEXT, shares={"a": 3.0})
    assert policy.partition_core_ids == {"a": (0, 1, 2, 3, 4), "b": (5, 6, 7)}


def test_a_block_runs_on_the_cores_of_its_tenants_partition():
    a, b = CONTEXT.models.values()
    starts = static(CONTEXT, shares={"a": 3.0}).allocate(snapshot(8, [pending(3, b), pending(1, a)]))
    assert [
        (start.query_id, start.first_core, start.cores) for start in starts if isinstance(start, Allocation)
    ] == [(3, 5, 3), (1, 0, 5)]


def test_partitions_of_whole_cache_groups_share_none():
    machine = Machine(
        "groups", 1, ((0, 4), (1, 5), (2, 6), (3, 7)), 2**19, 2**24, 1e11, 1e11, validated=False
    )
    context = serving({"a": ([0.020], 0.010), "b": ([0.020], 0.010)}, machine=machine)
    assert static(context).partition_core_ids == {"a": (0, 4, 1, 5), "b": (2, 6, 3, 7)}
