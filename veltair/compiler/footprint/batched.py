"""The tiling of a version that serves several queries at once: its loop nest once for each, outermost. Pure.

That is a kernel that could be built from the version as it is: queries share weights through caches only, not
inside its tiles. One that is made for the batch may move less.
"""

from dataclasses import replace

from veltair.compiler.footprint.residency import RESIDENT_CACHE_BYTES, Residency
from veltair.compiler.footprint.traffic import CURVE_BYTES, Tiling, interpolated


def batched(tiling: Tiling, queries: int, weight_bytes: int) -> Tiling:
    """Return the tiling of a version for several queries, each of which has its own iterations.

    Weights come once where a cache holds all that one query touches, as an outer loop counts in
    `tiling.nest_traffic_bytes`, else once for each query. Of its own batch a layer finds and leaves in a
    cache what one query does in its part of the cache. Raises ValueError for less than one query or byte.
    """
    if queries < 1 or weight_bytes < 0:
        raise ValueError(f"{queries} queries, {weight_bytes} bytes of weights; give 1 or more, and 0 or more")
    one, again = tiling.compulsory_bytes, queries - 1
    weights = min(weight_bytes, one)
    residency = tiling.residency
    return replace(
        tiling,
        parallelism=queries * tiling.parallelism,
        compulsory_bytes=queries * one - again * weights,
        fetched_bytes=tuple(
            queries * amount - (again * min(weights, amount) if size >= one else 0)
            for size, amount in zip(CURVE_BYTES, tiling.fetched_bytes, strict=False)
        ),
        residency=None if residency is None else _in_parts(residency, queries),
    )


def _in_parts(residency: Residency, queries: int) -> Residency:
    """Return the residency of several queries, each in an equal part of a cache; what is old is shared."""

    def of_part(amounts: tuple[int, ...], times: int) -> tuple[int, ...]:
        parts = (size / queries for size in RESIDENT_CACHE_BYTES)
        return tuple(round(times * interpolated(RESIDENT_CACHE_BYTES, amounts, part)) for part in parts)

    return Residency(
        of_part(residency.within_bytes, queries),
        of_part(residency.old_bytes, 1),
        of_part(residency.written_bytes, queries),
    )
