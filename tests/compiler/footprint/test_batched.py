import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.compiler.footprint.batched import batched
from veltair.compiler.footprint.residency import RESIDENT_CACHE_BYTES, Residency
from veltair.compiler.footprint.traffic import CURVE_BYTES, Tiling, dram_bytes

KIB = 2**10
# 300 KiB in all, of which 200 are weights: they fit into 512 KiB and larger caches.
FETCHED = tuple(900 * KIB if size < 2**19 else 300 * KIB for size in CURVE_BYTES)
TILING = Tiling(6, 60 * KIB, 300 * KIB, fetched_bytes=FETCHED)
WEIGHTS = 200 * KIB


def test_one_query_is_the_version_itself() -> None:
    assert batched(TILING, 1, WEIGHTS) == TILING


def test_each_query_has_its_iterations_and_all_share_the_weights() -> None:
    four = batched(TILING, 4, WEIGHTS)
    assert (four.parallelism, four.blocking_bytes) == (24, 60 * KIB)
    assert four.compulsory_bytes == (200 + 4 * 100) * KIB


def test_weights_come_once_where_what_one_query_touches_fits_and_else_once_for_each() -> None:
    by_cache = dict(zip(CURVE_BYTES, batched(TILING, 4, WEIGHTS).fetched_bytes, strict=True))
    assert by_cache[2**18] == 4 * 900 * KIB
    assert by_cache[2**19] == by_cache[2**25] == 600 * KIB


def test_a_layer_has_no_more_weights_than_it_touches() -> None:
    assert batched(TILING, 4, 10**9).compulsory_bytes == 300 * KIB


def test_of_its_own_batch_a_layer_finds_what_one_query_does_in_its_part_of_the_cache() -> None:
    steps = range(1, len(RESIDENT_CACHE_BYTES) + 1)
    residency = Residency(
        tuple(10 * step for step in steps),
        tuple(7 * step for step in steps),
        tuple(100 - 5 * step for step in steps),
    )
    two = batched(Tiling(6, 60, 300, residency=residency), 2, 100).residency
    assert two is not None
    # In a cache of twice the size, the second, each has the first; there is no smaller one than that.
    assert two.within_bytes[:3] == (20, 20, 40)
    assert two.old_bytes[:3] == (7, 7, 14)
    assert two.written_bytes[:3] == (190, 190, 180)


@pytest.mark.parametrize(("queries", "weight_bytes"), [(0, 1), (2, -1)])
def test_no_query_and_fewer_than_no_bytes_are_refused(queries: int, weight_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"{queries} queries, {weight_bytes} bytes of weights; give 1"):
        batched(TILING, queries, weight_bytes)


@given(
    queries=st.integers(1, 16),
    weights=st.integers(0, 10**6),
    cores=st.integers(1, 64),
    cache=st.integers(0, 2**26),
    known=st.booleans(),
)
def test_a_batch_moves_no_more_than_its_queries_one_by_one_where_cores_are_not_the_limit(
    queries: int, weights: int, cores: int, cache: int, known: bool
) -> None:
    one = TILING if known else Tiling(6, 60 * KIB, 300 * KIB)
    many = batched(one, queries, weights)
    # As many cores at work as before: more of them have less of the cache each.
    at_work = min(cores, one.parallelism)
    fits = many.compulsory_bytes <= cache or one.compulsory_bytes > cache
    if fits:
        assert dram_bytes(many, at_work, cache) <= queries * dram_bytes(one, at_work, cache) * (1 + 1e-9)
