"""Core shares in C: the same as those of `core_shares.py`, bit for bit, many times as fast."""

import warnings
from array import array
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veltair.machine.c_build import EXACT_LIBRARY, NativeBuildError, default_build_dir
from veltair.machine.c_library import CLibrary, load_library
from veltair.serving.policies.blocks import TOLERANCE
from veltair.serving.policies.core_shares import PythonShares, Shares, ShareTables

SOURCE = Path(__file__).parent / "native" / "core_shares.c"
HEADER = SOURCE.with_name("core_sharing.h")

_QUERIES = 256


class NativeShares:
    """Shares cores out in C."""

    def __init__(self, tables: ShareTables, build_dir: Path | None = None) -> None:
        """Compile the C source into `build_dir` at first use. Raises NativeBuildError if it cannot be."""
        self._library = library = _load(build_dir or default_build_dir())
        # It calls no Python and is short; in a live run other threads wait for the lock.
        self._share_out = library.brief("core_shares_at_level")
        remaining_s = np.array(tables.remaining_s, np.float64)
        best_cores, counts = np.array(tables.best_cores, np.int32), np.array(tables.counts, np.int32)
        grants = {
            "counts": library.pointer(counts),
            "count_count": len(counts),
            "cores": tables.cores,
            "tolerance": TOLERANCE,
        }
        self._sharing = library.ffi.new(
            "sharing_t *",
            {
                "grants": grants,
                "remaining_s": library.pointer(remaining_s),
                "best_cores": library.pointer(best_cores),
                "rows": best_cores.shape[1],
            },
        )
        self._address = library.address(self._sharing)
        # C reads these, so they are kept here.
        self._kept = remaining_s, best_cores, counts
        self._reserve(_QUERIES)

    def __call__(
        self, deadlines_s: "array[float]", rows: "array[int]", time_s: float, level: int
    ) -> tuple[list[int], list[int]]:
        """Return the shares and needs of queries that are at these rows, as `core_shares` does."""
        count = len(rows)
        if count > len(self._shares):
            self._reserve(2 * count)
        deadlines, indices = deadlines_s.buffer_info()[0], rows.buffer_info()[0]
        self._share_out(self._address, count, deadlines, indices, time_s, level)
        return self._shares[:count].tolist(), self._needs[:count].tolist()

    def _reserve(self, queries: int) -> None:
        """Allocate memory for so many queries at once."""
        self._shares, self._needs = np.empty(queries, np.int32), np.empty(queries, np.int32)
        self._scratch: dict[str, NDArray[Any]] = {
            "slack_s": np.empty(queries, np.float64),
            "row_of": np.empty(queries, np.uintp),
            "best_of": np.empty(queries, np.int32),
            "claims": np.empty(queries, self._library.dtype("core_claim_t")),
            "shares": self._shares,
            "needs": self._needs,
        }
        for name, part in self._scratch.items():
            setattr(self._sharing, name, self._library.pointer(part))


def make_shares(tables: ShareTables) -> Shares:
    """Return what shares cores out: in C, or in Python where that cannot be compiled."""
    try:
        return NativeShares(tables)
    except NativeBuildError as error:
        warnings.warn(
            f"sharing cores out in Python, with the same shares but slowly: {error}",
            RuntimeWarning,
            stacklevel=3,
        )
    return PythonShares(tables)


@lru_cache
def _load(build_dir: Path) -> CLibrary:
    return load_library(SOURCE, [HEADER], build_dir, EXACT_LIBRARY)
