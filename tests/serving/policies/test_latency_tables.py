import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.builders import (
    linear_context,
    linear_seconds,
    make_context,
    make_machine,
    make_model,
    random_context,
)
from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.costs.table import CostTable
from veltair.serving.loop.policy import Context
from veltair.serving.policies.latency_tables import (
    FixedVersion,
    LatencyTables,
    VersionRule,
    priced_versions,
)

WORK_CORE_S = (0.002, 0.006, 0.001, 0.002, 0.004)


def two_versions() -> Context:
    """Return one layer on 2 and 4 cores: version 0 is fastest alone, version 1 under pressure."""
    seconds = np.array([[[[1.0, 4.0], [0.6, 3.0]], [[2.0, 2.5], [1.0, 1.5]]]])
    return make_context(
        {"net": seconds},
        [make_model(macs=(1,))],
        cores=(2, 4),
        levels=(0.0, 1.0),
        machine=make_machine(4, 2),
    )


def test_a_blind_reading_knows_the_solo_version_alone():
    tables = LatencyTables(two_versions(), VersionRule.SOLO_ALONE)
    assert tables.level(1.0) == 0
    assert tables.seconds("net", 0).tolist() == [[1.0, 0.6]]


def test_an_aware_reading_of_the_solo_version_knows_what_pressure_does_to_it():
    tables = LatencyTables(two_versions(), VersionRule.SOLO_AT_LEVEL)
    assert tables.seconds("net", tables.level(1.0)).tolist() == [[4.0, 3.0]]
    assert tables.versions(LayerBlock("net", 0, 1), tables.level(1.0), 4) == (0,)


def test_the_fastest_reading_picks_another_version_at_high_pressure():
    tables = LatencyTables(two_versions(), VersionRule.FASTEST_AT_LEVEL)
    block = LayerBlock("net", 0, 1)
    assert tables.seconds("net", tables.level(0.9)).tolist() == [[2.5, 1.5]]
    assert [tables.versions(block, tables.level(pressure), 2) for pressure in (0.2, 0.9)] == [(0,), (1,)]


def test_a_blind_reading_of_the_fastest_knows_the_version_of_each_count_and_no_pressure():
    # Alone version 0 is fastest on 2 cores, version 1 on 4.
    seconds = np.array([[[[1.0, 4.0], [0.6, 3.0]], [[2.0, 2.5], [0.5, 1.5]]]])
    context = make_context(
        {"net": seconds},
        [make_model(macs=(1,))],
        cores=(2, 4),
        levels=(0.0, 1.0),
        machine=make_machine(4, 2),
    )
    tables = LatencyTables(context, VersionRule.FASTEST_ALONE)
    assert tables.level(1.0) == 0
    assert tables.seconds("net", 0).tolist() == [[1.0, 0.5]]
    assert [tables.versions(LayerBlock("net", 0, 1), 0, cores) for cores in (2, 4)] == [(0,), (1,)]


def test_remaining_times_are_sums_over_the_layers_to_the_end():
    tables = LatencyTables(linear_context(WORK_CORE_S), VersionRule.SOLO_ALONE)
    on_one_core = [tables.remaining_s("net", first, 0)[0] for first in range(6)]
    np.testing.assert_allclose(on_one_core, [0.015, 0.013, 0.007, 0.006, 0.004, 0.0])
    assert tables.least_remaining_s("net", 3, 0) == pytest.approx(0.006 / 8)


def test_the_best_count_is_not_always_the_largest():
    seconds = np.array([0.004, 0.002, 0.003]).reshape(1, 1, 3, 1)
    context = make_context(
        {"net": seconds}, [make_model(macs=(1,))], cores=(1, 2, 4), machine=make_machine(4)
    )
    assert LatencyTables(context, VersionRule.SOLO_ALONE).best_cores("net", 0) == 2


def test_only_counts_that_are_multiples_of_the_unit_and_profiled_for_all_layers_are_granted():
    seconds = linear_seconds([0.001, 0.002], (1, 4, 8, 12))
    seconds[1, 0, 2] = np.nan  # layer 1 was not profiled on 8 cores
    context = make_context(
        {"net": seconds}, [make_model(macs=(1, 1))], cores=(1, 4, 8, 12), machine=make_machine(12, 4)
    )
    assert LatencyTables(context, VersionRule.SOLO_ALONE).counts == (4, 12)


def test_a_table_without_a_count_that_can_be_granted_is_refused():
    context = make_context(
        {"net": linear_seconds([0.001], (1, 2))},
        [make_model(macs=(1,))],
        cores=(1, 2),
        machine=make_machine(8, 4),
    )
    with pytest.raises(ValueError, match=r"none is a multiple of the core unit 4.*set `profile.cores`"):
        LatencyTables(context, VersionRule.SOLO_ALONE)


def test_the_best_count_of_some_layers_is_where_those_are_fastest():
    # Layer 0 is fastest on 4 cores, layer 1 on 1, both together on 2.
    seconds = np.array([[0.009, 0.004, 0.003], [0.001, 0.003, 0.007]])[:, None, :, None]
    context = make_context(
        {"net": seconds}, [make_model(macs=(1, 1))], cores=(1, 2, 4), machine=make_machine(4)
    )
    tables = LatencyTables(context, VersionRule.SOLO_ALONE)
    best = [tables.best_cores("net", 0, *layers) for layers in ((0, 1), (1, 2), (0, 2), ())]
    assert best == [4, 1, 2, 2]


@example(0.25, [0.5, 1.0])
@given(st.floats(0, 1), st.lists(st.floats(0.01, 1), min_size=0, max_size=5, unique=True))
def test_the_level_is_the_nearest_profiled_one_and_the_lower_of_equals(pressure, others):
    levels = (0.0, *sorted(others))
    seconds = np.ones((1, 1, 1, len(levels)))
    context = make_context(
        {"net": seconds}, [make_model(macs=(1,))], cores=(1,), levels=levels, machine=make_machine(1)
    )
    nearest = int(np.abs(np.asarray(levels) - pressure).argmin())
    assert LatencyTables(context, VersionRule.SOLO_AT_LEVEL).level(pressure) == nearest


def three_versions(*traffic_bytes: float) -> Context:
    """Return one layer on 2 of 4 cores at levels 0, 0.5 and 1 in three versions; bandwidth 1e11 bytes/s.

    They take 1.0, 1.2 and 1.1 ms at every level; a version without traffic given is missing.
    """
    seconds = np.full((1, 3, 1, 3), np.nan)
    for version, _ in enumerate(traffic_bytes):
        seconds[0, version] = (0.0010, 0.0012, 0.0011)[version]
    context = make_context(
        {"net": seconds},
        [make_model(macs=(1,))],
        cores=(2,),
        levels=(0.0, 0.5, 1.0),
        machine=make_machine(4),
    )
    rows = context.costs.repeats
    rows = rows.assign(traffic_bytes=rows["version"].map(dict(enumerate(traffic_bytes))))
    return Context(context.models, CostTable(rows, "toy"), context.machine)


def test_a_version_pays_for_its_cores_and_under_pressure_for_its_traffic():
    # Half the machine for 1.0, 1.2, 1.1 ms: 0.5, 0.6, 0.55 ms. 20, 4 and 11 MB are 0.2, 0.04, 0.11 ms of
    # bandwidth. Prices at level 0: 0.5, 0.6, 0.55; at 0.5: 0.6, 0.62, 0.605; at 1: 0.7, 0.64, 0.66.
    context = three_versions(20e6, 4e6, 11e6)
    assert priced_versions(context.costs, "net", context.machine)[:, 0, 0].tolist() == [0, 0, 1]
    tables = LatencyTables(context, VersionRule.PRICED_AT_LEVEL)
    assert [tables.seconds("net", level).tolist() for level in (0, 2)] == [[[0.0010]], [[0.0012]]]


def test_a_selfish_choice_looks_at_its_own_time_only():
    tables = LatencyTables(three_versions(20e6, 4e6, 11e6), VersionRule.FASTEST_AT_LEVEL)
    block = LayerBlock("net", 0, 1)
    assert [tables.versions(block, level, 2) for level in range(3)] == [(0,), (0,), (0,)]


@pytest.mark.parametrize(("number", "version"), [(0, 0), (1, 1), (2, 1), (9, 1)])
def test_a_fixed_version_is_that_one_or_the_last_that_the_layer_has(number, version):
    tables = LatencyTables(three_versions(20e6, 4e6), FixedVersion(number))
    block = LayerBlock("net", 0, 1)
    assert [tables.versions(block, level, 2) for level in range(3)] == [(version,)] * 3


def test_a_fixed_version_is_read_at_the_level():
    tables = LatencyTables(two_versions(), FixedVersion(0))
    assert tables.seconds("net", tables.level(1.0)).tolist() == [[4.0, 3.0]]


def test_there_is_no_version_below_the_first():
    with pytest.raises(ValueError, match=r"number is -1; give 0 \(the most local one\) or more"):
        FixedVersion(-1)


@given(st.integers(0, 20), st.sampled_from(VersionRule))
def test_versions_are_what_the_times_are_of(seed, reading):
    context = random_context(seed)
    tables = LatencyTables(context, reading)
    for name, model in context.models.items():
        for level in tables.levels():
            for index, cores in enumerate(tables.counts):
                versions = tables.versions(LayerBlock(name, 0, len(model.layers)), level, cores)
                times = context.costs.model(name).seconds[range(len(versions)), versions, index, level]
                np.testing.assert_array_equal(tables.seconds(name, level)[:, index], times)
