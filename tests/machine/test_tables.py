from pathlib import Path

import pandas as pd
import pytest

from veltair.compiler.model import Layer
from veltair.compiler.tiling import Tiling
from veltair.machine.cost import COLUMNS, CostTable
from veltair.machine.tables import (
    COSTS,
    DERIVED_LEVELS,
    LAYERS,
    MACHINE,
    VERSIONS,
    Tables,
    derive,
    read_tables,
    write_tables,
)
from veltair.machine.topology import Machine
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
        name: tuple(Layer(f"{name}{place}", f"s{place}", place) for place in range(12)) for name in ("z", "a")
    }
    tilings = {name: tuple((Tiling(place + 1, 2, 3),) for place in range(12)) for name in layers}
    rows = [(name, layer, 0, 1, 0.0, 0, 1.0, 1.0, 1.0) for name in layers for layer in range(12)]
    costs = CostTable(pd.DataFrame(rows, columns=list(COLUMNS)), "host")
    write_tables(tmp_path, Tables(HOST, layers, tilings, costs), collect())
    found = read_tables(tmp_path)
    assert list(found.layers.items()) == list(layers.items())
    assert list(found.tilings.items()) == list(tilings.items())
    assert found.costs.models == ("z", "a")


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
    # 4 iterations of 1000 bytes beside L3 of 800: c of them at work re-fetch sqrt(1000 c / (800 share)).
    # 1 core alone: 4000 sqrt(1.25) bytes at 1000 bytes/s = 2 sqrt(5) s.
    # 1 core at level 0.5: 4000 sqrt(2.5) bytes at 500 bytes/s = 8 sqrt(2.5) s.
    # 2 cores at level 1 keep their share 2/4: 4000 sqrt(5) bytes at 500 bytes/s = 8 sqrt(5) s.
    found = derived_seconds(MEMORY, 0.001)
    assert found.loc[1, 0.0] == pytest.approx(2 * 5**0.5)
    assert found.loc[1, 0.5] == pytest.approx(8 * 2.5**0.5)
    assert found.loc[2, 1.0] == pytest.approx(8 * 5**0.5)


def test_pressure_below_a_blocks_fair_share_of_the_machine_leaves_it_that() -> None:
    # 3 of 4 cores: at level 0.25, 0.5, 0.75 and 1 the share is 3/4 each time; 2 of 4: 0.75, then 1/2.
    found = derived_seconds(MEMORY, 0.001)
    assert len(set(found.loc[3, [0.25, 0.5, 0.75, 1.0]])) == 1
    assert found.loc[2, 0.25] < found.loc[2, 0.5] == found.loc[2, 1.0]


def test_a_derived_table_tells_the_traffic_too() -> None:
    tables = derive(make_tables((0, 1, 0.0, 0, 0.001), versions=(MEMORY,)), THERE)
    alone = tables.costs.model("net").traffic_bytes[0, 0, :, 0]
    assert alone[0] == pytest.approx(4000 * 1.25**0.5)
    assert alone[3] == pytest.approx(4000 * 5**0.5)


def test_all_cores_of_a_derived_machine_are_only_alone() -> None:
    repeats = derive(make_tables((0, 1, 0.0, 0, 1.0)), THERE).costs.repeats
    found = {int(cores): tuple(rows["level"]) for cores, rows in repeats.groupby("cores")}
    assert found == {1: DERIVED_LEVELS, 2: DERIVED_LEVELS, 3: DERIVED_LEVELS, 4: (0.0,)}


def test_a_derived_table_is_made_of_the_times_on_one_core_alone() -> None:
    # 7 s on two cores and 9 s under pressure must not show; each repeat on one core does.
    rows = [(0, 1, 0.0, 0, 1.0), (0, 1, 0.0, 1, 2.0), (0, 2, 0.0, 0, 7.0), (0, 1, 0.5, 0, 9.0)]
    repeats = derive(make_tables(*rows), THERE).costs.repeats
    alone = repeats[(repeats["cores"] == 1) & (repeats["level"] == 0)]
    assert dict(zip(alone["repeat"], alone["seconds"], strict=True)) == {0: 2.0, 1: 4.0}
    assert repeats["seconds"].max() == 4.0


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
