from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from veltair.compiler.footprint.residency import Residency
from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.frontend.model import Layer
from veltair.machine.costs.block_costs import COLUMNS as BLOCK_COLUMNS
from veltair.machine.costs.block_costs import BlockCosts
from veltair.machine.costs.disturbance import AWAY
from veltair.machine.costs.folder import (
    BLOCKS,
    BUSY,
    COSTS,
    DERIVED_LEVELS,
    LAYERS,
    MACHINE,
    VERSIONS,
    Tables,
    cells,
    derivation_notes,
    derive,
    peak_ratio,
    read_tables,
    table_files,
    write_tables,
)
from veltair.machine.costs.residency import crossing_bytes_by_cores, residency_notes, without_residency
from veltair.machine.costs.table import COLUMNS, NO_REPEAT, CostTable
from veltair.machine.topology.topology import Machine
from veltair.provenance import collect

# Compute-bound: all 64 bytes fit its cache. Memory-bound: they never do.
COMPUTE = Tiling(parallelism=6, blocking_bytes=8, compulsory_bytes=64)
MEMORY = Tiling(parallelism=4, blocking_bytes=1000, compulsory_bytes=3000)
SERIAL = Tiling(parallelism=1, blocking_bytes=64, compulsory_bytes=64)


def make_machine(
    name: str, groups: tuple[tuple[int, ...], ...], core_peak_flops: float, dram_bytes_per_s: float
) -> Machine:
    return Machine(name, 1, groups, 2**18, 400, core_peak_flops, dram_bytes_per_s, validated=False)


HOST = make_machine("host", ((0, 1),), 1e9, 1e9)
# Half as fast a core as the host's, 4 cores, 800 bytes of L3, 1000 bytes/s.
THERE = make_machine("there", ((0, 1), (2, 3)), 5e8, 1000.0)


def make_tables(*rows: tuple[object, ...], versions: tuple[Tiling, ...] = (COMPUTE,)) -> Tables:
    """Return tables of one layer on the host, from (version, cores, level, repeat, seconds)."""
    repeats = [
        ("net", 0, version, cores, level, repeat, seconds, 1.0, 64.0)
        for version, cores, level, repeat, seconds in rows
    ]
    costs = CostTable(pd.DataFrame(repeats, columns=list(COLUMNS)), "host")
    return Tables(HOST, {"net": (Layer("conv", "s0", 5),)}, {"net": (versions,)}, costs)


def derived_seconds(tiling: Tiling, seconds: float) -> pd.DataFrame:
    """Return derived seconds by cores and level, of one version with that time on one core."""
    repeats = derive(make_tables((0, 1, 0.0, 0, seconds), versions=(tiling,)), THERE).costs.repeats
    return repeats.pivot(index="cores", columns="level", values="seconds")


def test_samples_of_blocks_are_read_back_with_their_tables(tmp_path: Path) -> None:
    samples = pd.DataFrame([("start", "net", 2, 0, 0.5)], columns=list(BLOCK_COLUMNS))
    tables = replace(make_tables((0, 1, 0.0, 0, 1.0)), block_samples=samples)
    write_tables(tmp_path, tables, collect({}))
    read = read_tables(tmp_path)
    assert read.block_samples is not None
    pd.testing.assert_frame_equal(read.block_samples, samples)
    assert read.block_costs == BlockCosts(0.5, starts_s={"net": 0.5})
    assert table_files(tmp_path) == [tmp_path / COSTS, tmp_path / BLOCKS]


def test_tables_whose_blocks_nobody_measured_have_no_costs_of_them(tmp_path: Path) -> None:
    write_tables(tmp_path, make_tables((0, 1, 0.0, 0, 1.0)), collect({}))
    assert read_tables(tmp_path).block_costs is None
    assert table_files(tmp_path) == [tmp_path / COSTS]


def test_what_blocks_cost_here_says_nothing_of_a_described_machine() -> None:
    samples = pd.DataFrame([("start", "net", 2, 0, 0.5)], columns=list(BLOCK_COLUMNS))
    here = replace(make_tables((0, 1, 0.0, 0, 1.0)), block_samples=samples)
    assert derive(here, THERE).block_costs is None


BOOSTED = replace(THERE, clock_factors=((1, 1.5), (4, 1.0)))


def test_busy_costs_are_at_the_clock_of_all_cores_and_the_table_at_that_of_those_at_work() -> None:
    tables = derive(make_tables((0, 1, 0.0, 0, 1.2)), BOOSTED)
    assert tables.busy_costs is not None
    # On one core alone 6 iterations at half the host's peak: 2.4 s, at 1.5 x the clock 1.6 s.
    assert tables.costs.model("net").seconds[0, 0, 0, 0] == pytest.approx(1.6)
    assert tables.busy_costs.model("net").seconds[0, 0, 0, 0] == pytest.approx(2.4)
    # With all at work both are alike.
    last = tables.costs.model("net").seconds[..., -1, :], tables.busy_costs.model("net").seconds[..., -1, :]
    assert last[0].tolist() == last[1].tolist()


def test_busy_costs_are_read_back_and_results_depend_on_them(tmp_path: Path) -> None:
    tables = derive(make_tables((0, 1, 0.0, 0, 1.2), (0, 1, 0.0, 1, 1.3)), BOOSTED)
    write_tables(tmp_path, tables, collect())
    found = read_tables(tmp_path).busy_costs
    assert found is not None and tables.busy_costs is not None
    pd.testing.assert_frame_equal(found.repeats, tables.busy_costs.repeats)
    assert len(found.repeats) == 4 * len(DERIVED_LEVELS) - (len(DERIVED_LEVELS) - 1)
    assert table_files(tmp_path) == [tmp_path / COSTS, tmp_path / BUSY]


def test_derived_repeats_lost_as_much_of_their_core_as_those_they_are_derived_from() -> None:
    host = make_tables(*[(0, 1, 0.0, repeat, seconds) for repeat, seconds in enumerate((1.0, 1.2, 1.1))])
    marked = host.costs.repeats.assign(**{AWAY: [0.0, 0.5, 0.0]})
    derived = derive(replace(host, costs=CostTable(marked, "host")), THERE).costs
    repeats = derived.repeats[derived.repeats["repeat"] != NO_REPEAT]
    assert repeats[AWAY].tolist() == [0.0, 0.5, 0.0]
    noise = derived.with_noise("undisturbed").model("net").noise
    assert sorted(set(noise.round(6))) == pytest.approx([1.0 / 1.1, 1.0], abs=1e-6)


def test_tables_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    written = make_tables(
        (0, 1, 0.0, 0, 1.5),
        (0, 1, 0.0, 1, 2.5),
        (1, 1, 0.0, 0, 3.0),
        (0, 2, 0.0, 0, 1.0),
        versions=(COMPUTE, MEMORY),
    )
    write_tables(tmp_path, written, collect())
    found = read_tables(tmp_path)
    assert (found.machine, found.layers, found.tilings) == (written.machine, written.layers, written.tilings)
    assert found.costs.machine == "host"
    pd.testing.assert_frame_equal(found.costs.repeats, written.costs.repeats)


def test_models_and_their_layers_keep_their_order(tmp_path: Path) -> None:
    layers = {
        name: tuple(Layer(f"{name}{index}", f"s{index}", index) for index in range(12)) for name in ("z", "a")
    }
    tilings = {name: tuple((Tiling(index + 1, 2, 3),) for index in range(12)) for name in layers}
    rows = [(name, layer, 0, 1, 0.0, 0, 1.0, 1.0, 1.0) for name in layers for layer in range(12)]
    costs = CostTable(pd.DataFrame(rows, columns=list(COLUMNS)), "host")
    write_tables(tmp_path, Tables(HOST, layers, tilings, costs), collect())
    found = read_tables(tmp_path)
    assert list(found.layers.items()) == list(layers.items())
    assert list(found.tilings.items()) == list(tilings.items())
    assert found.costs.models == ("z", "a")


def test_what_versions_fetch_is_read_back_and_unknown_in_tables_that_lack_it(tmp_path: Path) -> None:
    known = replace(COMPUTE, fetched_bytes=(9, 8, 7, 6, 5, 4, 3, 2, 1))
    write_tables(tmp_path, make_tables((0, 1, 0.0, 0, 1.0), versions=(known, MEMORY)), collect())
    assert read_tables(tmp_path).tilings["net"] == ((known, MEMORY),)
    pd.read_parquet(tmp_path / VERSIONS).drop(columns="fetched_bytes").to_parquet(tmp_path / VERSIONS)
    assert read_tables(tmp_path).tilings["net"] == ((COMPUTE, MEMORY),)


FOUND = Residency((10,) * 10, (20,) * 10, (5,) * 10)


def test_what_versions_find_is_read_back_and_unknown_in_tables_that_lack_it(tmp_path: Path) -> None:
    known = tuple(replace(one, residency=FOUND) for one in (COMPUTE, MEMORY))
    written = make_tables((0, 1, 0.0, 0, 1.0), versions=known)
    write_tables(tmp_path, written, collect())
    found = read_tables(tmp_path)
    assert found.tilings["net"] == (known,) and found.is_resident and residency_notes(found) == []
    write_tables(tmp_path, without_residency(written), collect())
    found = read_tables(tmp_path)
    assert found.tilings["net"] == ((COMPUTE, MEMORY),) and not found.is_resident
    (note,) = residency_notes(found)
    assert "charged as if it ran alone, as with `simulated.residency: false`; rerun rule `profile`" in note


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


@pytest.mark.parametrize("name", [COSTS, LAYERS, VERSIONS, MACHINE])
@pytest.mark.parametrize("content", [None, b"", b"PAR1 but no table"])
def test_a_folder_whose_file_is_missing_or_spoilt_is_named(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    write_tables(tmp_path, make_tables((0, 1, 0.0, 0, 1.0)), collect())
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LookupError, match=rf"the cost tables in {tmp_path} cannot be read: .*`profile`"):
        read_tables(tmp_path)


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


def test_the_cost_model_behind_derived_tables_is_read_back(tmp_path: Path) -> None:
    written = derive(make_tables((0, 1, 0.0, 0, 1.5), (1, 1, 0.0, 0, 2.0), versions=(COMPUTE, MEMORY)), THERE)
    write_tables(tmp_path, written, collect())
    cost_model = read_tables(tmp_path).cost_model
    assert cost_model is not None and written.cost_model is not None
    assert (cost_model.combine, cost_model.layers) == (written.cost_model.combine, written.cost_model.layers)


def test_measured_tables_have_no_law(tmp_path: Path) -> None:
    write_tables(tmp_path, make_tables((0, 1, 0.0, 0, 1.5)), collect())
    assert read_tables(tmp_path).cost_model is None


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
