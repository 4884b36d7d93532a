"""Tests of memory for large arrays."""

import numpy as np
import pytest

from veltair.machine.models.pages import LARGE_PAGE_BYTES, anonymous


@pytest.mark.parametrize("nbytes", [0, 1, 4096, LARGE_PAGE_BYTES - 1, 5 * LARGE_PAGE_BYTES + 3])
def test_it_is_zeros_of_the_size_that_was_asked_for(nbytes: int) -> None:
    pages = anonymous(nbytes)
    assert len(pages) == max(1, nbytes)
    assert not np.frombuffer(pages, np.uint8).any()


def test_it_can_be_written_and_goes_with_its_last_array() -> None:
    array = np.ndarray((3, LARGE_PAGE_BYTES), np.uint8, anonymous(3 * LARGE_PAGE_BYTES))
    array[:] = 7
    assert array.sum(dtype=np.int64) == 7 * array.size
