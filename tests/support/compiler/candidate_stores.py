"""A store of made-up candidates of two structures."""

import gzip
import json
from pathlib import Path
from typing import Any

from veltair.compiler.footprint.traffic import CACHE_BYTES, Tiling
from veltair.compiler.footprint.version import Candidate
from veltair.compiler.select.store import (
    TRACES,
    SearchInfo,
)

INFO = SearchInfo("x86-64-v3", cores=64, measured_cores=1, slack=1.5, seed=3, core_peak_flops=1e11)


def candidates(structure: str, count: int) -> tuple[Candidate, ...]:
    """Return a front of candidates that all took about as long, and one that did not run.

    Times are multiples of 1/64: 32 bits hold them whole.
    """
    front = [
        Candidate(
            structure,
            n,
            Tiling(2**n, 10 ** (count - n), 10**9),
            (1.0 + n / 64, 1.125, 0.875),
            ["trace", n],
            "schedule" if n == 0 else "search",
            (10**9 + n,) * len(CACHE_BYTES),
        )
        for n in range(count)
    ]
    return (*front, Candidate(structure, count, Tiling(1, 5, 5), (), None))


FOUND = {"conv-1": candidates("conv-1", 4), "dense-2": candidates("dense-2", 2)}


def with_recipe(structure: str, **keys: Any) -> tuple[Candidate, ...]:
    """Return candidates of a structure, the fastest a recipe of `recipe_fakes`, with some keys added."""
    recipe = Candidate(
        structure,
        9,
        Tiling(2, 10, 10**9),
        (0.875,),
        {"winograd": {"tile": 16, **keys}},
        "recipe",
        (10**9,) * len(CACHE_BYTES),
    )
    return (*candidates(structure, 4), recipe)


def tamper(folder: Path, structure: str) -> None:
    """Change one trace of a structure, as an edit of the file would."""
    traces = json.loads(gzip.decompress((folder / TRACES).read_bytes()))
    traces[structure]["0"] = ["another"]
    (folder / TRACES).write_bytes(gzip.compress(json.dumps(traces).encode()))
