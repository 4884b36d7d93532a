from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.support.compiler.candidate_stores import INFO
from veltair.compiler.footprint.residency import RESIDENT_CACHE_BYTES, Residency
from veltair.compiler.footprint.traffic import Tiling, curve
from veltair.compiler.footprint.version import Candidate
from veltair.compiler.frontend.model import Layer
from veltair.compiler.select.select import Selection
from veltair.compiler.select.store import write_store
from veltair.machine.costs.described_versions import derive_described, own_versions, with_versions
from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.machine.topology.topology import Machine

# What the search tells of a candidate, and what the host's tables do of its versions.
SEARCHED_CURVE = (800, 700, 600, 500, 400, 300, 200, 100)
CURVE = curve(SEARCHED_CURVE)
FOUND = Residency(*((amount,) * len(RESIDENT_CACHE_BYTES) for amount in (3, 2, 1)))
HOST = Machine("host", 1, ((0, 1),), 2**18, 400, 1e9, 1e9, validated=False)


def candidate(index: int, parallelism: int, seconds: float, structure: str = "conv") -> Candidate:
    tiling = Tiling(parallelism, 10 * (9 - index), 1000 + index)
    return Candidate(structure, index, tiling, (seconds,), ["trace"], "search", SEARCHED_CURVE)


# What the search found: times on one core, cold.
SEARCHED = [candidate(0, 1, 1.0), candidate(1, 8, 2.0), candidate(2, 64, 3.0)]


def make_tables(*profiled: int, seconds: tuple[float, ...] = (1.1,)) -> Tables:
    """Return the host's tables of one layer in some of those versions, each with its repeats on 1 core."""
    rows = [
        ("net", 0, number, cores, 0.0, repeat, time * SEARCHED[index].median_seconds / cores, 1.0, 1.0)
        for number, index in enumerate(profiled)
        for cores in (1, 2)
        for repeat, time in enumerate(seconds)
    ]
    tilings = tuple(replace(SEARCHED[index].tiling, fetched_bytes=CURVE) for index in profiled)
    costs = CostTable(pd.DataFrame(rows, columns=list(COLUMNS)), "host")
    return Tables(HOST, {"net": (Layer("layer", "conv", 5),)}, {"net": (tilings,)}, costs)


def test_a_version_that_the_host_profiled_keeps_its_times_under_its_new_number() -> None:
    tables = with_versions(make_tables(0, 2), {"conv": [SEARCHED[2]]}, {"conv": SEARCHED})
    assert tables.tilings["net"][0] == (replace(SEARCHED[2].tiling, fetched_bytes=CURVE),)
    assert tables.costs.model("net").seconds[0, 0, :, 0].tolist() == pytest.approx([3.3, 1.65])


def test_another_version_is_timed_as_the_nearest_profiled_one_by_the_ratio_of_the_search() -> None:
    # Its 2 s in the search are nearer to the 3 s of version 1 of the host than to the 1 s of its version 0.
    host = make_tables(0, 2, seconds=(1.0, 1.2, 1.1))
    tables = with_versions(host, {"conv": [SEARCHED[1]]}, {"conv": SEARCHED})
    assert tables.tilings["net"][0] == (replace(SEARCHED[1].tiling, fetched_bytes=CURVE),)
    repeats = tables.costs.repeats
    # It was on no two cores, and spreads as that version did.
    assert repeats["cores"].tolist() == [1, 1, 1]
    assert repeats["seconds"].tolist() == pytest.approx([2.0, 2.4, 2.2])
    assert repeats["footprint_bytes"].tolist() == [1001.0] * 3


def test_versions_are_numbered_as_they_were_chosen() -> None:
    chosen = {"conv": [SEARCHED[1], SEARCHED[0]]}
    tables = with_versions(make_tables(0, 2), chosen, {"conv": SEARCHED})
    alone = tables.costs.model("net").seconds[0, :, 0, 0]
    assert alone.tolist() == pytest.approx([2.2, 1.1])
    assert [one.parallelism for one in tables.tilings["net"][0]] == [8, 1]


def test_a_layer_without_candidates_keeps_the_versions_of_the_host() -> None:
    host = make_tables(0, 2)
    for found in ({}, {"conv": [candidate(7, 3, 1.0)]}):
        tables = with_versions(host, found, found)
        assert tables.tilings == host.tilings
        assert tables.costs.model("net").seconds.tolist() == host.costs.model("net").seconds.tolist()


def test_a_layer_that_looks_rows_up_gets_no_curve_of_its_traffic() -> None:
    host = make_tables(0)
    blind = replace(host, tilings={"net": ((SEARCHED[0].tiling,),)})
    tables = with_versions(blind, {"conv": SEARCHED}, {"conv": SEARCHED})
    assert [one.fetched_bytes for one in tables.tilings["net"][0]] == [()] * 3


def test_a_layer_that_looks_rows_up_keeps_the_versions_of_the_host_for_they_are_told_by_its_rows() -> None:
    host = make_tables(0, 2)
    rows = tuple(replace(one, compulsory_bytes=7, fetched_bytes=()) for one in host.tilings["net"][0])
    told = replace(host, tilings={"net": (rows,)})
    assert with_versions(told, {"conv": [SEARCHED[1]]}, {"conv": SEARCHED}).tilings == told.tilings


def test_a_version_finds_in_caches_what_the_profiled_one_does_whose_times_it_has() -> None:
    host = make_tables(0, 2)
    first, second = host.tilings["net"][0]
    known = replace(host, tilings={"net": ((first, replace(second, residency=FOUND)),)})
    tables = with_versions(known, {"conv": [SEARCHED[1]]}, {"conv": SEARCHED})
    assert [one.residency for one in tables.tilings["net"][0]] == [FOUND]


def test_a_machine_of_many_cores_chooses_versions_that_the_host_did_not_build(tmp_path: Path) -> None:
    # On one core candidate 0, which has no parallel loop, is the fastest; on 64 cores 1 and 2 are.
    write_store(tmp_path, {"conv": SEARCHED}, replace(INFO, core_peak_flops=1e9))
    wide = Machine("wide", 8, (tuple(range(64)),), 2**18, 2**30, 1e9, 1e12, validated=False)
    asked = Selection(1.05, 2)
    tables = own_versions(make_tables(0), wide, asked, tmp_path)
    assert [one.parallelism for one in tables.tilings["net"][0]] == [8, 64]
    derived = derive_described(make_tables(0), wide, asked, tmp_path)
    # 3 s in the search, 1.1 x as long inside the network; on 64 cores one iteration each.
    whole = derived.costs.model("net").seconds[0, 1, -1, 0]
    assert whole == pytest.approx(3.3 / 64, rel=1e-3)
