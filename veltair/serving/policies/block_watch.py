"""How long layers took: seen from the snapshots alone."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from veltair.serving.loop.policy import Allocation, Snapshot


class Stretch(NamedTuple):
    """Layers [first, stop) of a model that ran on so many cores, one after the other, in so many seconds."""

    model: str
    first: int
    stop: int
    cores: int
    seconds: float


class _Since(NamedTuple):
    model: str
    first: int
    cores: int
    start_s: float


class BlockWatch:
    """Remembers since when each running block is on its cores, and from which layer.

    A policy is asked whenever a block ends or adopts cores, so what it sees is exact. `layers` are the
    models' numbers of layers.
    """

    def __init__(self, layers: Mapping[str, int]) -> None:
        self._layers = layers
        self._since: dict[int, _Since] = {}

    def start(self, allocation: Allocation, time_s: float) -> None:
        """Remember a block that starts."""
        block = allocation.block
        self._since[allocation.query_id] = _Since(block.model, block.start, allocation.cores, time_s)

    def see(self, snapshot: Snapshot) -> Iterator[Stretch]:
        """Yield what ended since the last snapshot: with its block, or by a change of cores."""
        gone = self._since.copy()
        for running in snapshot.running:
            before = gone.pop(running.query.id, None)
            if before is not None and before.cores != running.cores:
                layer = running.block.start + snapshot.progress.get(running.query.id, 0)
                yield _stretch(before, layer, snapshot.time_s)
                self._since[running.query.id] = _Since(before.model, layer, running.cores, snapshot.time_s)
        if gone:
            yield from self._ended(snapshot, gone)

    def _ended(self, snapshot: Snapshot, gone: Mapping[int, _Since]) -> Iterator[Stretch]:
        stops = {entry.query.id: entry.next_layer for entry in snapshot.pending if entry.next_layer}
        stops |= {record.query.id: self._layers[record.query.model] for record in snapshot.ended}
        for query_id, since in gone.items():
            del self._since[query_id]
            yield _stretch(since, stops[query_id], snapshot.time_s)


def _stretch(since: _Since, stop: int, time_s: float) -> Stretch:
    return Stretch(since.model, since.first, stop, since.cores, time_s - since.start_s)
