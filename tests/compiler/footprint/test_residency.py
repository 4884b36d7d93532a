from collections import OrderedDict
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.compiler.footprint.residency import (
    RESIDENT_CACHE_BYTES,
    LayerBuffers,
    NetworkBuffers,
    Residency,
    Reuse,
    Span,
    network_reuse,
    sampled,
    version_reuse,
)

IMAGE: Span = (1000, 100)


def layer(reads: Sequence[Span], writes: Sequence[Span], constants: int = 0, work: int = 0) -> LayerBuffers:
    return LayerBuffers(tuple(reads), tuple(writes), (constants,), (work,))


# An image of 100 bytes becomes A of 40, this B of 60, this again A.
A: Span = (0, 40)
B: Span = (40, 60)
CHAIN = NetworkBuffers(
    (IMAGE,), (layer([IMAGE], [A], constants=10), layer([A], [B], constants=20), layer([B], [A]))
)
ONE_VERSION = (0, 0, 0)


def test_what_the_layer_before_wrote_is_found_in_a_cache_that_holds_what_both_touch() -> None:
    _, second, _ = network_reuse(CHAIN, ONE_VERSION)
    # A is used again after its own 40 bytes, and beside it between 110 (image and constants, before) and 80
    # (B and constants, now).
    assert second.within == (Reuse(40, 40 + 80, 40 + 110),)
    assert second.found_within(150) == 40 and second.found_within(100) == 0
    assert 0 < second.found_within(125) < 40


def test_what_the_query_before_touched_is_old() -> None:
    first, second, third = network_reuse(CHAIN, ONE_VERSION)
    # Constants of the second layer: all else was touched since, or lies beside them.
    assert Reuse(20, 20 + 40 + 60 + 100 + 10, 20 + 40 + 60 + 100 + 10) in second.old
    assert first.found_old(1000) == 10 + 40 and second.found_old(1000) == 20 + 60
    # The inputs are written anew before each query, so that the first layer finds them of its own.
    assert first.found_within(1000) == 100 and third.found_old(1000) == 0


def test_a_cache_that_holds_all_that_a_network_touches_finds_all_and_writes_nothing_back() -> None:
    for one, buffers in zip(network_reuse(CHAIN, ONE_VERSION), CHAIN.layers, strict=True):
        touched = sum(size for _, size in {*buffers.reads, *buffers.writes}) + buffers.constant_bytes[0]
        assert one.found_within(10**6) + one.found_old(10**6) == touched
        assert one.written_back(10**6) == 0


def test_a_cache_of_nothing_finds_nothing_and_all_results_leave_it() -> None:
    for one, buffers in zip(network_reuse(CHAIN, ONE_VERSION), CHAIN.layers, strict=True):
        assert one.found_within(0) == one.found_old(0) == 0
        assert one.written_back(0) == sum(size for _, size in buffers.writes)


def test_results_that_are_written_over_in_the_cache_are_never_written_back() -> None:
    first, second, _ = network_reuse(CHAIN, ONE_VERSION)
    # A is read by the second layer, then written by the third: the cache has to hold it for both.
    ((nbytes, later),) = first.written
    assert nbytes == 40 and len(later) == 2
    assert first.written_back(500) == 0 and first.written_back(130) > 0
    # B is read once, then written by the next query, after 210 to 230 bytes.
    assert second.written_back(190) == 60 and second.written_back(260) == 0


def test_spans_that_overlap_share_the_bytes_that_they_have_in_common() -> None:
    wide = (0, 100)
    network = NetworkBuffers(
        (), (layer([], [wide]), layer([wide], [(200, 10)]), layer([(200, 10)], [(50, 100)]))
    )
    *_, third = network_reuse(network, ONE_VERSION)
    # Of what the third layer writes, 50 bytes are the first one's result, 50 are of the query before.
    assert third.found_within(10**6) == 10 + 50 and third.found_old(10**6) == 50


def test_work_space_makes_a_layer_two_steps_and_all_layers_share_it() -> None:
    network = NetworkBuffers((IMAGE,), (layer([IMAGE], [A], work=30), layer([A], [B], work=50)))
    first, second = network_reuse(network, (0, 0))
    # Written, then read: a layer finds its own work space; the second one also the other's 30 bytes.
    assert first.found_within(10**6) == 100 + 30
    assert second.found_within(10**6) == 40 + 50 + 30 and second.found_old(10**6) == 20 + 60


def test_the_first_query_finds_nothing_old_and_what_stays_in_the_cache_is_not_written_back() -> None:
    for one in network_reuse(CHAIN, ONE_VERSION, cold=True):
        assert one.old == () and one.written_back(10**6) == 0
    *_, third = network_reuse(CHAIN, ONE_VERSION, cold=True)
    # Nothing is touched behind its results, of 40 bytes, but what it read beside them.
    assert third.written_back(100) == 0 and third.written_back(30) == 40


def test_each_version_meets_the_others_in_the_versions_given() -> None:
    two = LayerBuffers((A,), (B,), (20, 500), (0, 0))
    network = NetworkBuffers((IMAGE,), (CHAIN.layers[0], two, CHAIN.layers[2]))
    rows = version_reuse(network, ONE_VERSION)
    assert rows[1][0] == network_reuse(network, ONE_VERSION)[1]
    assert rows[1][1] == network_reuse(network, (0, 1, 0))[1]
    assert rows[0] == (network_reuse(network, ONE_VERSION)[0],)


def test_residency_is_sampled_at_cache_sizes() -> None:
    half = 2**18
    network = NetworkBuffers(
        (), (layer([], [(0, half)], constants=2 * half), layer([(0, half)], [(half, half)]))
    )
    first, second = map(sampled, network_reuse(network, (0, 0)))
    # The second layer's input is found after 2 to 3 halves: by a cache of 2, softly, a sixth.
    assert second.within_bytes == (round(half / 6), *(half,) * 9)
    assert first.old_bytes == (round(half / 6), *(3 * half,) * 9)
    assert first.written_bytes == (half - round(half / 6), *(0,) * 9)
    assert len(RESIDENT_CACHE_BYTES) == 10


@pytest.mark.parametrize(
    "bad", [((1,) * 9, (0,) * 10), ((1,) * 9 + (0,), (0,) * 10), ((0,) * 10, (0,) * 9 + (1,))]
)
def test_a_larger_cache_finds_no_less_and_writes_no_more(
    bad: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    with pytest.raises(ValueError, match=r"bytes for 10 caches|finds no less"):
        Residency(bad[0], (0,) * 10, bad[1])


@pytest.mark.parametrize("bad", [((-1, 4),), ((0, -4),)])
def test_memory_has_no_negative_bytes(bad: tuple[Span, ...]) -> None:
    with pytest.raises(ValueError, match="bytes are not negative"):
        LayerBuffers(bad, (), (), ())


def test_versions_have_a_number_of_each_kind() -> None:
    with pytest.raises(ValueError, match="each version has both"):
        LayerBuffers((), (), (1, 2), (1,))


# What follows holds the law to a cache that is simulated byte by byte.

Byte = tuple[str, int, int]
SLOTS = [(0, 3), (10, 7), (20, 12), (40, 5), (50, 9)]


@st.composite
def networks(draw: st.DrawFn) -> NetworkBuffers:
    slots = st.lists(st.sampled_from(SLOTS), max_size=2, unique=True)
    layers = []
    for _ in range(draw(st.integers(1, 6))):
        writes = draw(st.lists(st.sampled_from(SLOTS), min_size=1, max_size=2, unique=True))
        reads = [slot for slot in draw(slots) if slot not in writes]
        layers.append(layer(reads, writes, draw(st.integers(0, 9)), draw(st.sampled_from([0, 0, 0, 6]))))
    return NetworkBuffers(tuple(draw(slots)), tuple(layers))


def steps_of(network: NetworkBuffers) -> Iterator[tuple[int, list[list[Byte]], set[Byte]]]:
    """Yield layer, touched buffers and bytes written of each step of a query."""
    inputs = [slot_bytes(slot) for slot in network.inputs]
    yield -1, inputs, {byte for one in inputs for byte in one}
    for number, one in enumerate(network.layers):
        reads, writes = ([slot_bytes(slot) for slot in slots] for slots in (one.reads, one.writes))
        constants = [("constant", number, index) for index in range(one.constant_bytes[0])]
        work = [("work", 0, index) for index in range(one.work_space_bytes[0])]
        if work:
            yield number, [work, *reads[:1]], set(work)
            reads = reads[1:]
        yield number, [*reads, *writes, constants, work], {byte for slot in writes for byte in slot}


def slot_bytes(slot: Span) -> list[Byte]:
    return [("memory", slot[0], index) for index in range(slot[1])]


def side_by_side(buffers: list[list[Byte]]) -> list[Byte]:
    places = [((index + 0.5) / len(one), byte) for one in buffers for index, byte in enumerate(one)]
    return [byte for _, byte in sorted(places, key=lambda place: place[0])]


def simulated(network: NetworkBuffers, cache_bytes: int, queries: int = 3) -> tuple[list[int], int]:
    """Return the bytes that each layer of the last query finds in an LRU cache, and those written back."""
    cache: OrderedDict[Byte, bool] = OrderedDict()
    found, written = [0] * len(network.layers), 0
    for query in range(queries):
        counts = query == queries - 1
        for number, buffers, changed in steps_of(network):
            for byte in side_by_side(buffers):
                dirty = cache.pop(byte, None)
                found[number] += counts and number >= 0 and dirty is not None
                cache[byte] = bool(dirty) or byte in changed
                if len(cache) > cache_bytes:
                    _, left_dirty = cache.popitem(last=False)
                    written += counts and left_dirty
    return found, written


# By as many bytes as there are buffers may bytes side by side be apart.
APART = 8


@given(networks(), st.integers(0, 100))
def test_a_layer_finds_what_an_lru_cache_of_bytes_holds(network: NetworkBuffers, cache_bytes: int) -> None:
    reuses = network_reuse(network, [0] * len(network.layers))
    least, _ = simulated(network, max(0, cache_bytes - APART))
    most, _ = simulated(network, int(1.1 * cache_bytes) + APART)
    for few, one, many in zip(least, reuses, most, strict=True):
        assert few - 1e-9 <= one.found_within(cache_bytes) + one.found_old(cache_bytes) <= many + 1e-9


@given(networks(), st.integers(0, 100))
def test_no_more_is_written_back_than_leaves_an_lru_cache_of_bytes(
    network: NetworkBuffers, cache_bytes: int
) -> None:
    modelled = sum(one.written_back(cache_bytes) for one in network_reuse(network, [0] * len(network.layers)))
    _, most = simulated(network, max(0, cache_bytes - APART))
    assert modelled <= most + 1e-9
