from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.support.machine_tables import (
    BOOSTED,
    COMPUTE,
    FOUND,
    HOST,
    MEMORY,
    THERE,
    make_tables,
)
from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.frontend.model import Layer
from veltair.machine.costs.block_costs import COLUMNS as BLOCK_COLUMNS
from veltair.machine.costs.block_costs import BlockCosts
from veltair.machine.costs.derivation import DERIVED_LEVELS, derive
from veltair.machine.costs.folder import (
    BLOCKS,
    BUSY,
    COSTS,
    LAYERS,
    MACHINE,
    VERSIONS,
    Tables,
    read_tables,
    table_files,
    write_tables,
)
from veltair.machine.costs.residency import residency_notes, without_residency
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.provenance import collect


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


def test_busy_costs_are_read_back_and_results_depend_on_them(tmp_path: Path) -> None:
    tables = derive(make_tables((0, 1, 0.0, 0, 1.2), (0, 1, 0.0, 1, 1.3)), BOOSTED)
    write_tables(tmp_path, tables, collect())
    found = read_tables(tmp_path).busy_costs
    assert found is not None and tables.busy_costs is not None
    pd.testing.assert_frame_equal(found.repeats, tables.busy_costs.repeats)
    assert len(found.repeats) == 4 * len(DERIVED_LEVELS) - (len(DERIVED_LEVELS) - 1)
    assert table_files(tmp_path) == [tmp_path / COSTS, tmp_path / BUSY]


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


def test_the_cost_model_behind_derived_tables_is_read_back(tmp_path: Path) -> None:
    written = derive(make_tables((0, 1, 0.0, 0, 1.5), (1, 1, 0.0, 0, 2.0), versions=(COMPUTE, MEMORY)), THERE)
    write_tables(tmp_path, written, collect())
    cost_model = read_tables(tmp_path).cost_model
    assert cost_model is not None and written.cost_model is not None
    assert (cost_model.combine, cost_model.layers) == (written.cost_model.combine, written.cost_model.layers)


def test_measured_tables_have_no_law(tmp_path: Path) -> None:
    write_tables(tmp_path, make_tables((0, 1, 0.0, 0, 1.5)), collect())
    assert read_tables(tmp_path).cost_model is None
