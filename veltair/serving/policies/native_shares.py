"""Core shares in C: the same as those of `core_shares.py`, bit for bit, many times as fast."""

import ctypes
import warnings
from array import array
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veltair.machine.c_build import EXACT_LIBRARY, NativeBuildError, compile_c, default_build_dir
from veltair.serving.policies.blocks import TOLERANCE
from veltair.serving.policies.core_shares import PythonShares, Shares, ShareTables

SOURCE = Path(__file__).parent / "core_shares.c"

_QUERIES = 256
_ARRAY = ctypes.c_void_p
_DOUBLE, _LONG = ctypes.c_double, ctypes.c_int64


class _Grants(ctypes.Structure):
    _fields_ = (("counts", _ARRAY), ("count_count", _LONG), ("cores", _LONG), ("tolerance", _DOUBLE))


class _Sharing(ctypes.Structure):
    _fields_ = (
        ("grants", _Grants),
        ("remaining_s", _ARRAY),
        ("best_cores", _ARRAY),
        ("rows", _LONG),
        *((name, _ARRAY) for name in ("slack_s", "row_of", "best_of", "claims", "shares", "needs")),
    )


class NativeShares:
    """Shares cores out in C."""

    def __init__(self, tables: ShareTables, build_dir: Path | None = None) -> None:
        """Compile the C source into `build_dir` at first use. Raises NativeBuildError if it cannot be."""
        library = _load(build_dir or default_build_dir())
        self._share_out, self._claim_bytes = library.core_shares_at_level, library.core_shares_claim_bytes()
        remaining_s = np.array(tables.remaining_s, np.float64)
        best_cores, counts = np.array(tables.best_cores, np.int32), np.array(tables.counts, np.int32)
        self._sharing = _Sharing(
            _Grants(counts.ctypes.data, len(counts), tables.cores, TOLERANCE),
            remaining_s.ctypes.data,
            best_cores.ctypes.data,
            best_cores.shape[1],
        )
        # C reads these, so they are kept here.
        self._kept = remaining_s, best_cores, counts
        self._make_room(_QUERIES)

    def __call__(
        self, deadlines_s: "array[float]", rows: "array[int]", time_s: float, level: int
    ) -> tuple[list[int], list[int]]:
        """Return the shares and needs of queries that are at these rows, as `core_shares` does."""
        count = len(rows)
        if count > len(self._shares):
            self._make_room(2 * count)
        deadlines, indices = deadlines_s.buffer_info()[0], rows.buffer_info()[0]
        self._share_out(self._sharing, count, deadlines, indices, time_s, level)
        return self._shares[:count].tolist(), self._needs[:count].tolist()

    def _make_room(self, queries: int) -> None:
        """Make room for so many queries at once."""
        self._shares, self._needs = np.empty(queries, np.int32), np.empty(queries, np.int32)
        self._room: dict[str, NDArray[Any]] = {
            "slack_s": np.empty(queries, np.float64),
            "row_of": np.empty(queries, np.uintp),
            "best_of": np.empty(queries, np.int32),
            "claims": np.empty(queries * self._claim_bytes, np.uint8),
            "shares": self._shares,
            "needs": self._needs,
        }
        for name, part in self._room.items():
            setattr(self._sharing, name, part.ctypes.data)


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
def _load(build_dir: Path) -> Any:
    """Return the compiled library. It calls no Python and is short: it keeps the interpreter's lock."""
    library = ctypes.PyDLL(str(compile_c(SOURCE, build_dir, EXACT_LIBRARY)))
    library.core_shares_claim_bytes.restype = _LONG
    share_out = library.core_shares_at_level
    share_out.restype = None
    share_out.argtypes = (ctypes.POINTER(_Sharing), _LONG, _ARRAY, _ARRAY, _DOUBLE, _LONG)
    return library
