"""Core shares in C against their oracle in Python: the same, bit for bit."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.machine import c_build as native
from veltair.serving.policies.core_shares import PythonShares, ShareTables
from veltair.serving.policies.native_shares import NativeShares, make_shares

# Among them counts that are no multiples of the smallest, cores that no count divides, and too few cores.
GRANTS = [
    ((1,), 1),
    ((1, 2), 2),
    (tuple(range(1, 17)), 16),
    ((2, 3, 5), 7),
    ((8, 16, 24, 32, 40, 48, 56, 64), 64),
    ((8, 16), 20),
    ((4, 8), 3),
]


@st.composite
def rows(draw, counts):
    """Return rows of remaining seconds: linear ones, any, and those of no work left."""
    linear = st.floats(0.1, 500).map(lambda work: tuple(work / count for count in counts))
    anything = st.tuples(*(st.floats(0.001, 500) for _ in counts))
    over = st.just((0.0,) * len(counts))
    return draw(st.lists(st.one_of(linear, anything, over), min_size=1, max_size=6))


@st.composite
def sharings(draw):
    """Return tables of two levels, and deadlines and rows of queries. Few rows and slacks: there are ties."""
    counts, cores = draw(st.sampled_from(GRANTS))
    level = draw(rows(counts))
    best = st.lists(st.sampled_from(counts), min_size=len(level), max_size=len(level))
    tables = ShareTables({"m": 0}, [level, level[::-1]], [draw(best), draw(best)], counts, cores)
    slacks = st.one_of(st.floats(-10, 100), st.sampled_from([-1.0, 0.0, 5.0, 10.0, 100.0]))
    doomed = st.floats(-10, -0.1)
    queries = st.tuples(draw(st.sampled_from([slacks, doomed])), st.integers(0, len(level) - 1))
    return tables, draw(st.lists(queries, max_size=40))


@given(sharings(), st.floats(0, 50), st.integers(0, 1))
def test_shares_in_c_are_those_in_python(c_build, sharing, time_s, level):
    tables, queries = sharing
    deadlines_s = array("d", [time_s + slack for slack, _ in queries])
    indices = array("i", [row for _, row in queries])
    in_c, in_python = NativeShares(tables, c_build), PythonShares(tables)
    assert in_c(deadlines_s, indices, time_s, level) == in_python(deadlines_s, indices, time_s, level)


def net(counts=(1, 2, 4, 8)) -> ShareTables:
    """One layer of 40 core-ms on 8 cores, and the end."""
    level = [tuple(0.040 / count for count in counts), (0.0,) * len(counts)]
    return ShareTables({"net": 0}, [level], [[8, 8]], counts, 8)


def test_shares_and_needs_are_worked_out_for_queries_at_their_rows(c_build):
    # 10 ms are left to the first, which needs 4 cores; the second, which is at its end, needs none.
    shares, needs = NativeShares(net(), c_build)(array("d", [0.015, 0.015]), array("i", [0, 1]), 0.005, 0)
    assert (shares, needs) == ([8, 0], [4, 0])


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
def test_any_number_of_queries_shares_cores(count, c_build):
    deadlines_s, rows = array("d", [0.001 * index for index in range(count)]), array("i", [0] * count)
    in_c = NativeShares(net(), c_build)
    for _ in range(2):  # the second time there is room for them
        assert in_c(deadlines_s, rows, 0.0, 0) == PythonShares(net())(deadlines_s, rows, 0.0, 0)


def test_without_a_compiler_cores_are_shared_out_in_python_with_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "COMPILER", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.warns(
        RuntimeWarning, match=r"sharing cores out in Python, .* no-such-compiler was not found on PATH"
    ):
        shares = make_shares(net())
    assert isinstance(shares, PythonShares)
    assert shares(array("d", [0.010]), array("i", [0]), 0.0, 0) == ([8], [4])


def test_the_c_source_is_compiled_into_the_folder_that_is_given(tmp_path):
    NativeShares(net(), tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".so"]
