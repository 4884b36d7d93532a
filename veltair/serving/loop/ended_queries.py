"""Queries and how they ended, in columns: what searches read of millions of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from veltair.serving.loop.query import Ending, Query, QueryRecord


@dataclass(frozen=True, slots=True, eq=False)
class ArrivalColumns:
    """The arrivals of a run, in order; columns have shape (queries,).

    `arrivals_s` and `targets_s` are in seconds. `sender` is an index into `senders`, the names of tenants.
    """

    arrivals_s: NDArray[np.float64]
    targets_s: NDArray[np.float64]
    sender: NDArray[np.int64]
    senders: tuple[str, ...]

    @staticmethod
    def of(arrivals: Sequence[Query]) -> "ArrivalColumns":
        """Return those of some queries."""
        names = [query.sender for query in arrivals]
        number = {name: index for index, name in enumerate(dict.fromkeys(names))}
        return ArrivalColumns(
            np.array([query.arrival_s for query in arrivals], np.float64),
            np.array([query.qos_s for query in arrivals], np.float64),
            np.array([number[name] for name in names], np.int64),
            tuple(number),
        )


@dataclass(frozen=True, slots=True, eq=False)
class EndedQueries:
    """What became of some queries, in the order in which they ended; columns have shape (queries,).

    `index` counts arrivals from 0. `served` is False of a query that was rejected or left unfinished.
    `end_s`, `core_s` and `batch` are as in `QueryRecord`.
    """

    index: NDArray[np.int64]
    served: NDArray[np.bool_]
    end_s: NDArray[np.float64]
    core_s: NDArray[np.float64]
    batch: NDArray[np.int64]

    @staticmethod
    def of(records: Iterable[QueryRecord], index_of: dict[int, int]) -> "EndedQueries":
        """Return those of some records; `index_of` has the index of each query by its id."""
        rows = list(records)
        return EndedQueries(
            np.array([index_of[record.query.id] for record in rows], np.int64),
            np.array([record.ending is Ending.SERVED for record in rows], np.bool_),
            np.array([record.end_s for record in rows], np.float64),
            np.array([record.core_s for record in rows], np.float64),
            np.array([record.batch for record in rows], np.int64),
        )

    def on_time(self, arrivals: ArrivalColumns) -> NDArray[np.bool_]:
        """Return which of them were served within their targets."""
        latencies_s = self.end_s - arrivals.arrivals_s[self.index]
        within: NDArray[np.bool_] = latencies_s <= arrivals.targets_s[self.index]
        return self.served & within

    def records(self, arrivals: Sequence[Query]) -> list[QueryRecord]:
        """Return records of them that tell as much; their blocks and conflicts are not known."""
        rows = zip(
            *(column.tolist() for column in (self.index, self.served, self.end_s, self.core_s, self.batch)),
            strict=True,
        )
        return [
            QueryRecord(
                arrivals[index],
                Ending.SERVED if served else Ending.UNFINISHED,
                *(end_s, end_s, 0, 0, core_s),
                batch=batch,
            )
            for index, served, end_s, core_s, batch in rows
        ]
