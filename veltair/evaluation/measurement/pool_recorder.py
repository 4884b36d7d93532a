"""Workers whose finished blocks are recorded, for measurements that need each start and end."""

from collections.abc import Sequence
from typing import Any, cast

from veltair.machine.workers.pool import Ended, Gang, Launch, Notice


class Noting:
    """A gang that keeps the ends of all blocks."""

    def __init__(self, gang: Gang, ends: list[Ended]) -> None:
        self._gang, self._ends = gang, ends

    def wait(self, timeout_s: float | None) -> Sequence[Notice]:
        """Return what has happened."""
        notices = self._gang.wait(timeout_s)
        self._ends += [notice for notice in notices if isinstance(notice, Ended)]
        return notices

    def __getattr__(self, name: str) -> Any:
        """Return what the gang has."""
        return getattr(self._gang, name)


def noting(launch: Launch, ends: list[Ended]) -> Launch:
    """Return a launch whose gang writes all ends of blocks down."""
    return lambda core_ids: cast(Gang, Noting(launch(core_ids), ends))
