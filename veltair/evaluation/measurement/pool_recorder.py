"""Workers whose finished blocks are recorded, for measurements that need each start and end."""

from collections.abc import Sequence
from typing import Any, cast

from veltair.machine.workers.pool import Ended, Launch, Notice, WorkerPool


class RecordingPool:
    """A worker pool that keeps the ends of all blocks."""

    def __init__(self, pool: WorkerPool, ends: list[Ended]) -> None:
        self._pool, self._ends = pool, ends

    def wait(self, timeout_s: float | None) -> Sequence[Notice]:
        """Return what has happened."""
        notices = self._pool.wait(timeout_s)
        self._ends += [notice for notice in notices if isinstance(notice, Ended)]
        return notices

    def __getattr__(self, name: str) -> Any:
        """Return what the pool has."""
        return getattr(self._pool, name)


def recording(launch: Launch, ends: list[Ended]) -> Launch:
    """Return a launch whose pool appends all ends of blocks to `ends`."""
    return lambda core_ids: cast(WorkerPool, RecordingPool(launch(core_ids), ends))
