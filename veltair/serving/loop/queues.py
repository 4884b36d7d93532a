"""Data structures of the dispatcher, whose operations do not slow down with the length of the queue."""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar, overload

from veltair.serving.loop.policy import Pending

Entry = TypeVar("Entry")


class PendingQueue(Sequence[Pending]):
    """The queries that wait, oldest arrival first; those that arrived together by id.

    The newest and the oldest come and go in constant time, which under first come, first served is all that
    happens: a query between two blocks returns among the oldest. Others take a binary search.
    """

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: deque[Pending] = deque()

    def add(self, entry: Pending) -> None:
        """Insert a query by its age."""
        queue = self._queue
        if not queue:
            queue.append(entry)
            return
        age = _age(entry)
        if age > _age(queue[-1]):
            queue.append(entry)
        elif age < _age(queue[0]):
            queue.appendleft(entry)
        else:
            insort(queue, entry, key=_age)

    def remove(self, entry: Pending) -> None:
        """Take out an entry that was added."""
        queue = self._queue
        if queue[0] is entry:
            queue.popleft()
        else:
            del queue[bisect_left(queue, _age(entry), key=_age)]

    def clear(self) -> None:
        """Take out all."""
        self._queue.clear()

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Pending]:
        return iter(self._queue)

    @overload
    def __getitem__(self, index: int) -> Pending: ...

    @overload
    def __getitem__(self, index: slice) -> list[Pending]: ...

    def __getitem__(self, index: int | slice) -> Pending | list[Pending]:
        if isinstance(index, slice):
            return [self._queue[at] for at in range(*index.indices(len(self._queue)))]
        return self._queue[index]


class ValuesView(Sequence[Entry]):
    """The values of a mapping as a sequence, live and read-only; to look at all costs no copy."""

    __slots__ = ("_values",)

    def __init__(self, mapping: Mapping[int, Entry]) -> None:
        self._values = mapping.values()

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._values)

    @overload
    def __getitem__(self, index: int) -> Entry: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry]: ...

    def __getitem__(self, index: int | slice) -> Entry | Sequence[Entry]:
        return tuple(self._values)[index]


class SeenIds:
    """Which ids there have been. Ids that count up from 0, as those of a trace do, take no memory."""

    __slots__ = ("_next", "_others")

    def __init__(self) -> None:
        self._next = 0
        self._others: set[int] = set()

    def add(self, number: int) -> bool:
        """Take note of an id; return whether it is a new one."""
        if number == self._next and not self._others:
            self._next += 1
            return True
        if 0 <= number < self._next or number in self._others:
            return False
        self._others.add(number)
        while self._next in self._others:
            self._others.remove(self._next)
            self._next += 1
        return True


def _age(entry: Pending) -> tuple[float, int]:
    query = entry.query
    return query.arrival_s, query.id
