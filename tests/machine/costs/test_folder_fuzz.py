"""Whatever is left of a folder of cost tables: every time in it is usable, or it is refused by its name."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st

from tests.support.fuzz import INPUTS, ODD_NUMBERS, ODD_VALUES, cut_or_spoilt, fuzz
from tests.support.table_builders import write_made_up_tables
from veltair.machine.costs.folder import COSTS, LAYERS, MACHINE, VERSIONS, read_tables

FILES = (COSTS, LAYERS, VERSIONS, MACHINE)
TABLES = (COSTS, LAYERS, VERSIONS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of tables that are right, of which each input changes a copy."""
    return write_made_up_tables(tmp_path / "right")


def take(folder: Path, name: str, content: bytes) -> None:
    """Read the tables with another content of one file."""
    spoilt = folder.with_name("spoilt")
    shutil.rmtree(spoilt, ignore_errors=True)
    shutil.copytree(folder, spoilt)
    (spoilt / name).write_bytes(content)
    try:
        tables = read_tables(spoilt)
    except LookupError as error:
        assert str(spoilt) in str(error)
        return
    for model in tables.costs.models:
        assert (
            np.isfinite(tables.costs.isolated_latency_s(model)) and tables.costs.isolated_latency_s(model) > 0
        )
        assert len(tables.costs.model(model).solo) == len(tables.layers[model])


@INPUTS
def test_a_spoilt_file_is_refused(inputs: int, folder: Path) -> None:
    files = {name: (folder / name).read_bytes() for name in FILES}
    contents = st.sampled_from(FILES).flatmap(
        lambda name: st.tuples(st.just(name), cut_or_spoilt(files[name]))
    )
    fuzz(inputs, contents, lambda given: take(folder, *given))


def with_cell(frame: pd.DataFrame, row: int, column: int, value: Any) -> bytes:
    name = frame.columns[column % len(frame.columns)]
    cells = list(frame[name])
    cells[row % len(cells)] = value
    try:
        return parquet(frame.assign(**{name: pd.Series(cells, dtype=object).infer_objects()}))
    except (ValueError, TypeError, OverflowError):  # pyarrow takes no column of such values
        return parquet(frame.drop(columns=name))


def parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


@INPUTS
def test_a_value_that_no_table_has_is_refused(inputs: int, folder: Path) -> None:
    frames = {name: pd.read_parquet(folder / name) for name in TABLES}

    def change(given: tuple[str, int, int, Any]) -> None:
        name, *place, value = given
        take(folder, name, with_cell(frames[name], *place, value))

    cells = st.tuples(
        st.sampled_from(TABLES),
        st.integers(0, 500),
        st.integers(0, 20),
        st.sampled_from(ODD_NUMBERS) | ODD_VALUES,
    )
    fuzz(inputs, cells, change)


@INPUTS
def test_tables_that_lack_rows_are_whole_or_refused(inputs: int, folder: Path) -> None:
    frames = {name: pd.read_parquet(folder / name) for name in TABLES}

    def change(given: tuple[str, list[int]]) -> None:
        name, rows = given
        frame = frames[name]
        take(folder, name, parquet(frame.iloc[[row % len(frame) for row in rows]]))

    fuzz(inputs, st.tuples(st.sampled_from(TABLES), st.lists(st.integers(0, 500), max_size=60)), change)
