"""Constants come back from the mapped file as they were given, and a file of another build is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from veltair.compiler.build.constants import PAGE_BYTES, ConstantPlan, MappedConstants, write_constants

DTYPES = st.sampled_from([np.dtype(name) for name in ("float32", "int64", "int32", "bool", "uint8")])
ARRAYS = DTYPES.flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40))
)


@given(arrays=st.lists(ARRAYS, max_size=5))
def test_constants_come_back_as_they_were_given(
    arrays: list[NDArray[Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("constants") / "file"
    mapped = MappedConstants(path, write_constants(path, arrays))
    for number, array in enumerate(arrays):
        found = mapped.array(number)
        assert (found.shape, found.dtype) == (array.shape, array.dtype)
        assert found.tobytes() == array.tobytes()
        assert found.ctypes.data % PAGE_BYTES == 0


def test_an_array_that_lies_in_another_order_is_written_in_its_own(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3).T
    mapped = MappedConstants(tmp_path / "file", write_constants(tmp_path / "file", [array]))
    assert np.array_equal(mapped.array(0), array)


def test_two_pages_and_a_byte_take_three_pages_and_nothing_takes_one(tmp_path: Path) -> None:
    sizes = (2 * PAGE_BYTES + 1, 0, 1)
    plans = write_constants(tmp_path / "file", [np.ones(size, np.uint8) for size in sizes])
    assert [plan.offset_bytes for plan in plans] == [0, 3 * PAGE_BYTES, 4 * PAGE_BYTES]
    assert [plan.nbytes for plan in plans] == list(sizes)
    assert (tmp_path / "file").stat().st_size == 5 * PAGE_BYTES


def test_a_constant_that_was_dropped_has_its_values_still(tmp_path: Path) -> None:
    array = np.arange(3 * PAGE_BYTES, dtype=np.int32)
    mapped = MappedConstants(tmp_path / "file", write_constants(tmp_path / "file", [array]))
    view = mapped.array(0)
    for act in (mapped.expect, mapped.fetch, mapped.drop):
        act(0)
        assert np.array_equal(view, array)


def test_constants_cannot_be_written(tmp_path: Path) -> None:
    mapped = MappedConstants(tmp_path / "file", write_constants(tmp_path / "file", [np.ones(3)]))
    with pytest.raises(ValueError, match="read-only"):
        mapped.array(0)[0] = 2.0


def test_who_has_mapped_a_file_keeps_it_when_it_is_built_anew(tmp_path: Path) -> None:
    path = tmp_path / "file"
    mapped = MappedConstants(path, write_constants(path, [np.ones(3)]))
    write_constants(path, [np.zeros(3)])
    assert mapped.array(0).tolist() == [1.0, 1.0, 1.0]
    assert [other.name for other in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("found", [None, PAGE_BYTES])
def test_a_file_that_is_not_the_planned_one_is_refused(tmp_path: Path, found: int | None) -> None:
    path = tmp_path / "file"
    plans = write_constants(path, [np.ones(PAGE_BYTES)])
    path.unlink() if found is None else path.write_bytes(b"0" * found)
    message = rf"{path} has {found or 0} bytes, its plan says {8 * PAGE_BYTES}; .* run rule `build`"
    with pytest.raises(LookupError, match=message):
        MappedConstants(path, plans)


@pytest.mark.parametrize("offset_bytes", [-PAGE_BYTES, 64])
def test_a_constant_between_pages_is_refused(offset_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"byte {offset_bytes} cannot be mapped; give a multiple of 4096"):
        ConstantPlan(offset_bytes, (1,), "float32")
