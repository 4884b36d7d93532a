"""Queries and what became of them: tuples, since simulations make millions of them."""

from enum import StrEnum
from typing import NamedTuple

NEVER_S = 1e6  # a drain or a target that no run reaches


class Query(NamedTuple):
    """One request for one sample of a model; `arrival_s` is its scheduled arrival.

    `tenant` is who sent it; empty where each model has one tenant (`sender`).
    """

    id: int
    model: str
    arrival_s: float
    qos_s: float
    tenant: str = ""

    @property
    def deadline_s(self) -> float:
        """When its answer is due."""
        return self.arrival_s + self.qos_s

    @property
    def sender(self) -> str:
        """The name of its tenant: the model's, where each model has one."""
        return self.tenant or self.model


class Ending(StrEnum):
    """How a query ended."""

    SERVED = "served"
    REJECTED = "rejected"
    UNFINISHED = "unfinished"


class QueryRecord(NamedTuple):
    """The end of one query, one row of queries.parquet.

    `blocks` counts its block starts, `conflicts` those of them that got fewer cores than they wanted.
    `core_s` is cores held x time, in core-seconds.
    `start_s` is the start of its first block (its end where none started). `batch` is how many queries its
    block served at once: then the block and its conflict count for each of them, its cores in equal parts.
    """

    query: Query
    ending: Ending
    start_s: float
    end_s: float
    blocks: int
    conflicts: int
    core_s: float
    reason: str = ""
    batch: int = 1

    @property
    def latency_s(self) -> float:
        """Seconds from the scheduled arrival to the end."""
        return self.end_s - self.query.arrival_s

    @property
    def on_time(self) -> bool:
        """Whether it was served within its target; a rejected or unfinished query never is."""
        return self.ending is Ending.SERVED and self.latency_s <= self.query.qos_s
