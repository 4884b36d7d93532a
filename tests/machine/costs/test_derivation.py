from dataclasses import replace

import pandas as pd
import pytest

from tests.support.machine_tables import (
    BOOSTED,
    COMPUTE,
    FOUND,
    HOST,
    MEMORY,
    SERIAL,
    THERE,
    derived_seconds,
    make_tables,
)
from veltair.machine.costs.block_costs import COLUMNS as BLOCK_COLUMNS
from veltair.machine.costs.derivation import DERIVED_LEVELS, cells, derivation_notes, derive, peak_ratio
from veltair.machine.costs.disturbance import AWAY
from veltair.machine.costs.residency import crossing_bytes_by_cores
from veltair.machine.costs.table import NO_REPEAT, CostTable


def test_what_blocks_cost_here_says_nothing_of_a_described_machine() -> None:
    samples = pd.DataFrame([("start", "net", 2, 0, 0.5)], columns=list(BLOCK_COLUMNS))
    here = replace(make_tables((0, 1, 0.0, 0, 1.0)), block_samples=samples)
    assert derive(here, THERE).block_costs is None


def test_busy_costs_are_at_the_clock_of_all_cores_and_the_table_at_that_of_those_at_work() -> None:
    tables = derive(make_tables((0, 1, 0.0, 0, 1.2)), BOOSTED)
    assert tables.busy_costs is not None
    # On one core alone 6 iterations at half the host's peak: 2.4 s, at 1.5 x the clock 1.6 s.
    assert tables.costs.model("net").seconds[0, 0, 0, 0] == pytest.approx(1.6)
    assert tables.busy_costs.model("net").seconds[0, 0, 0, 0] == pytest.approx(2.4)
    # With all at work both are alike.
    last = tables.costs.model("net").seconds[..., -1, :], tables.busy_costs.model("net").seconds[..., -1, :]
    assert last[0].tolist() == last[1].tolist()


def test_derived_repeats_lost_as_much_of_their_core_as_those_they_are_derived_from() -> None:
    host = make_tables(*[(0, 1, 0.0, repeat, seconds) for repeat, seconds in enumerate((1.0, 1.2, 1.1))])
    marked = host.costs.repeats.assign(**{AWAY: [0.0, 0.5, 0.0]})
    derived = derive(replace(host, costs=CostTable(marked, "host")), THERE).costs
    repeats = derived.repeats[derived.repeats["repeat"] != NO_REPEAT]
    assert repeats[AWAY].tolist() == [0.0, 0.5, 0.0]
    noise = derived.with_noise("undisturbed").model("net").noise
    assert sorted(set(noise.round(6))) == pytest.approx([1.0 / 1.1, 1.0], abs=1e-6)


def test_a_derived_table_charges_a_layer_for_what_it_does_not_find() -> None:
    found = replace(COMPUTE, residency=FOUND)
    repeats = derive(make_tables((0, 1, 0.0, 0, 1.5), versions=(found,)), THERE).costs.repeats
    # Of 64 bytes 10 are of its own query and 20 of the one before; 5 are written back.
    assert set(repeats["traffic_bytes"]) == {64 - 10 - 20 + 5}


def test_what_a_query_finds_in_other_cache_groups_is_counted_and_none_on_one_core() -> None:
    found = replace(COMPUTE, residency=FOUND)
    tables = derive(make_tables((0, 1, 0.0, 0, 1.5), versions=(found,)), THERE)
    # Two groups: half of the 10 bytes of its own query were written in the other one.
    assert crossing_bytes_by_cores(tables) == {"net": {1: 0.0, 2: 5.0, 3: 5.0, 4: 5.0}}
    alone = derive(make_tables((0, 1, 0.0, 0, 1.5)), THERE)
    assert set(crossing_bytes_by_cores(alone)["net"].values()) == {0.0}


def test_computing_time_falls_in_whole_rounds_of_parallel_iterations() -> None:
    # 6 iterations take 3 s here, 6 s on cores half as fast; on 1, 2, 3, 4 cores in 6, 3, 2, 2 rounds.
    # The 64 bytes fit the cache at every level and take at most 64 / (1000 x 1/4) = 0.256 s.
    found = derived_seconds(COMPUTE, 3.0)
    assert found[0.0].to_dict() == {1: 6.0, 2: 3.0, 3: 2.0, 4: 2.0}
    assert found.loc[1].tolist() == [6.0] * 5


def test_a_layer_without_parallel_iterations_takes_as_long_on_any_cores() -> None:
    assert derived_seconds(SERIAL, 3.0)[0.0].to_dict() == {1: 6.0, 2: 6.0, 3: 6.0, 4: 6.0}


def test_a_layer_that_moves_more_than_it_computes_takes_its_share_of_the_bandwidth() -> None:
    # 4 iterations of 1000 bytes, spread over 2 groups of 400 bytes of L3: c of them at work re-fetch
    # sqrt(1000 c / L3). One core reaches one group, two reach both.
    # 1 core alone: 4000 sqrt(1000 / 400) bytes at 1000 bytes/s = 4 sqrt(2.5) s.
    # 1 core at level 0.75, a quarter of the 800 bytes: 4000 sqrt(5) bytes at 250 bytes/s = 16 sqrt(5) s.
    # 2 cores at level 1 keep their share 2/4: 4000 sqrt(5) bytes at 500 bytes/s = 8 sqrt(5) s.
    found = derived_seconds(MEMORY, 0.001)
    assert found.loc[1, 0.0] == pytest.approx(4 * 2.5**0.5)
    assert found.loc[1, 0.75] == pytest.approx(16 * 5**0.5)
    assert found.loc[2, 1.0] == pytest.approx(8 * 5**0.5)


def test_pressure_below_a_blocks_fair_share_of_the_machine_leaves_it_that() -> None:
    # 3 of 4 cores: at level 0.25, 0.5, 0.75 and 1 the share is 3/4 each time; 2 of 4: 0.75, then 1/2.
    found = derived_seconds(MEMORY, 0.001)
    assert len(set(found.loc[3, [0.25, 0.5, 0.75, 1.0]])) == 1
    assert found.loc[2, 0.25] < found.loc[2, 0.5] == found.loc[2, 1.0]


def test_a_derived_table_tells_the_traffic_too() -> None:
    tables = derive(make_tables((0, 1, 0.0, 0, 0.001), versions=(MEMORY,)), THERE)
    alone = tables.costs.model("net").traffic_bytes[0, 0, :, 0]
    assert alone[0] == pytest.approx(4000 * 2.5**0.5)
    assert alone[3] == pytest.approx(4000 * 5**0.5)


def test_the_clock_of_a_derived_table_falls_with_the_cores_at_work() -> None:
    boosting = replace(THERE, clock_factors=((1, 2.0), (4, 1.0)))
    repeats = derive(make_tables((0, 1, 0.0, 0, 3.0)), boosting).costs.repeats
    found = repeats.pivot(index="cores", columns="level", values="seconds")
    # 6 s on a core at the clock of all: alone twice as fast; under full pressure all 4 cores are at work.
    assert found.loc[1, [0.0, 1.0]].tolist() == [3.0, 6.0]
    assert found.loc[4, 0.0] == 2.0


def test_a_derived_layer_pays_launch_and_join_on_several_cores() -> None:
    costly = replace(THERE, launch_s=0.25, join_s=0.5)
    repeats = derive(make_tables((0, 1, 0.0, 0, 3.0)), costly).costs.repeats
    assert repeats[repeats["level"] == 0].set_index("cores")["seconds"].to_dict() == {
        1: 6.0,
        2: 3.75,
        3: 2.75,
        4: 2.75,
    }


def test_what_a_core_moved_while_it_was_timed_is_not_computed_anew() -> None:
    # 3000 bytes at 1000 bytes/s are 3 of the 4 s on one core, and of the 3.5 s of another version; two cores
    # of the same bandwidth need (4 - 3) / 2 + 3 s and (3.5 - 3) / 2 + 3 s if nothing overlaps, which they
    # took. The other machine moves as fast, and computes half as fast: 2 + 3 s.
    slow = replace(HOST, dram_bytes_per_s=1000.0, core_dram_bytes_per_s=1000.0, l3_bytes=10**6)
    rows = [(0, 1, 0.0, 0, 4.0), (0, 2, 0.0, 0, 3.5), (1, 1, 0.0, 0, 3.5), (1, 2, 0.0, 0, 3.25)]
    source = replace(make_tables(*rows, versions=(MEMORY, MEMORY)), machine=slow)
    tables = derive(source, replace(THERE, l3_bytes=10**6))
    assert tables.cost_model is not None
    assert tables.cost_model.combine == 1.0
    assert tables.cost_model.layers["net"][0][0].compute_s == pytest.approx(2.0)
    assert tables.costs.model("net").seconds[0, 0, 0, 0] == pytest.approx(5.0)


def test_a_cell_is_the_median_of_its_repeats_alone_beside_that_on_one_core() -> None:
    rows = [(0, 1, 0.0, 0, 1.0), (0, 1, 0.0, 1, 3.0), (0, 2, 0.0, 0, 1.5), (0, 1, 0.5, 0, 9.0)]
    found = [(cell.cores, cell.solo_s, cell.seconds, cell.macs) for cell in cells(make_tables(*rows))]
    assert found == [(1, 2.0, 2.0, 5), (2, 2.0, 1.5, 5)]


def test_kernels_of_narrow_vectors_reach_only_a_part_of_a_wide_machines_peak() -> None:
    wide = replace(THERE, vector_bits=512)
    assert peak_ratio(HOST, THERE) == 2.0
    assert peak_ratio(HOST, wide) == 4.0
    assert derivation_notes(HOST, wide) == derivation_notes(HOST, THERE)


def test_kernels_that_the_described_machine_cannot_run_are_scaled_by_the_peak_and_it_is_said() -> None:
    wide = replace(HOST, vector_bits=512)
    assert peak_ratio(wide, THERE) == 2.0
    assert any(
        "there is described with 256, so that it may be unable to run them" in note
        for note in derivation_notes(wide, THERE)
    )


def test_all_cores_of_a_derived_machine_are_only_alone() -> None:
    repeats = derive(make_tables((0, 1, 0.0, 0, 1.0)), THERE).costs.repeats
    found = {int(cores): tuple(rows["level"]) for cores, rows in repeats.groupby("cores")}
    assert found == {1: DERIVED_LEVELS, 2: DERIVED_LEVELS, 3: DERIVED_LEVELS, 4: (0.0,)}


def test_a_derived_table_is_made_of_the_times_on_one_core_alone() -> None:
    # 7 s on two cores and 9 s under pressure must not show; each repeat on one core does.
    there = replace(THERE, dram_bytes_per_s=1e12, core_dram_bytes_per_s=1e12)
    rows = [(0, 1, 0.0, 0, 1.0), (0, 1, 0.0, 1, 2.0), (0, 2, 0.0, 0, 7.0), (0, 1, 0.5, 0, 9.0)]
    repeats = derive(make_tables(*rows), there).costs.repeats
    alone = repeats[(repeats["cores"] == 1) & (repeats["level"] == 0)]
    assert dict(zip(alone["repeat"], alone["seconds"], strict=True)) == pytest.approx({0: 2.0, 1: 4.0})
    # What they spread around is each other cell's only time.
    assert set(repeats.loc[repeats["repeat"] == NO_REPEAT, "cores"]) == {1, 2, 3, 4}
    assert repeats.groupby(["cores", "level"]).size().tolist() == [2, *[1] * (len(repeats) - 2)]
    assert repeats["seconds"].max() == pytest.approx(4.0)


def test_each_version_is_derived_from_its_own_tiling() -> None:
    rows = [(0, 1, 0.0, 0, 3.0), (1, 1, 0.0, 0, 3.0)]
    tables = derive(make_tables(*rows, versions=(COMPUTE, SERIAL)), THERE)
    assert tables.costs.model("net").seconds[0, :, 3, 0].tolist() == [2.0, 6.0]


def test_derived_tables_are_of_the_machine_described_and_of_the_same_layers() -> None:
    source = make_tables((0, 1, 0.0, 0, 1.0))
    tables = derive(source, THERE)
    assert (tables.machine, tables.costs.machine, tables.costs.cores) == (THERE, "there", (1, 2, 3, 4))
    assert (tables.layers, tables.tilings) == (source.layers, source.tilings)


def test_tables_without_times_on_one_core_cannot_be_derived_from() -> None:
    with pytest.raises(
        LookupError, match=r"tables of host have no times on 1 core; add 1 to `profile.cores`"
    ):
        derive(make_tables((0, 2, 0.0, 0, 1.0)), THERE)
