import json
from pathlib import Path

import pytest

from tests.support.compiler.candidates import FOUND, SELECTION
from tests.support.table_builders import write_made_up_tables
from veltair.compiler.build.build import FORMAT, PLAN
from veltair.compiler.select.shipped import AVX2, AVX512
from veltair.compiler.select.store import SearchInfo, StoreError, write_store
from veltair.evaluation.versions.version_steps import (
    described_stores,
    draw_version_figures,
    write_version_tables,
)


def write_plan(folder: Path) -> None:
    folder.mkdir(parents=True)
    layers = [
        {"name": f"layer{n}", "structure": s, "macs": 9 - n, "inputs": [], "outputs": [], "dtypes": []}
        for n, s in enumerate(FOUND)
    ]
    document = {"format": FORMAT, "model": "net", "inputs": [], "layers": layers, "versions": {}}
    document |= {"outputs": [], "constants": []}
    (folder / PLAN).write_text(json.dumps(document))


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    write_store(tmp_path / "store", FOUND, SearchInfo("x86-64-v3", 64, 1, 1.5, 1))
    write_plan(tmp_path / "net")
    costs = write_made_up_tables(tmp_path / "costs")
    machines = ["threadripper-3990x"]
    write_version_tables(
        {"net": tmp_path / "net"},
        [tmp_path / "store"],
        costs,
        SELECTION,
        machines,
        tmp_path / "tables",
        root=tmp_path,
    )
    return tmp_path / "tables"


def test_the_study_leaves_its_tables_and_each_figure_in_each_format(tables: Path, tmp_path: Path) -> None:
    assert {path.stem for path in tables.iterdir()} == {"saturation", "scatter", "sets"}
    draw_version_figures(tables, tmp_path / "figures", ["svg", "png"])
    forms, names = ("svg", "png"), ("saturation", "scatter", "sets")
    wanted = {f"versions_{name}.{form}" for name in names for form in forms}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == wanted


def test_the_same_tables_give_the_same_figures(tables: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        draw_version_figures(tables, tmp_path / name, ["svg"])
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_described_machine_takes_the_candidates_for_avx2_where_they_are_shipped(tmp_path: Path) -> None:
    shipped, searched = tmp_path / "shipped", tmp_path / "results" / "search"
    stores = [shipped / AVX512, searched]
    assert described_stores(stores, shipped) == stores
    write_store(shipped / AVX2, FOUND, SearchInfo("x86-64-v3", 64, 1, 1.5, 1))
    # And what this run found of layers that are not shipped at all.
    assert described_stores(stores, shipped) == [shipped / AVX2, searched]


def test_candidates_that_are_gone_since_the_build_are_named(tmp_path: Path) -> None:
    write_plan(tmp_path / "net")
    costs = write_made_up_tables(tmp_path / "costs")
    builds, folder = {"net": tmp_path / "net"}, tmp_path / "tables"
    with pytest.raises(
        StoreError, match=r"no store has candidates of conv, pool any more; rerun rule `build`"
    ):
        write_version_tables(builds, [], costs, SELECTION, [], folder)
