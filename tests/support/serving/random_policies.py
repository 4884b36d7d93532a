"""A policy that answers anything that the contract allows, and remembers all that it saw."""

import random
from dataclasses import dataclass, field
from typing import Any

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import (
    Allocation,
    Answer,
    Context,
    Pending,
    Rejection,
    Resize,
    Running,
    Snapshot,
    Wake,
    Yield,
)


@dataclass
class Capricious:
    """Starts blocks of any length on any cores; resizes and yields others, rejects, and asks to be woken.

    `seen` holds what each snapshot said, as values. It wakes within `wake_s`.
    """

    context: Context
    seed: int
    versions: int = 1
    wake_s: float = 0.01
    seen: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        """Return answers that are drawn."""
        reserved = sum(run.reserved_cores for run in snapshot.running)
        assert reserved + snapshot.free_cores == self.context.machine.cores
        self.seen.append(
            (
                *(snapshot.time_s, snapshot.free_cores, snapshot.pressure, tuple(snapshot.pending)),
                *(tuple(snapshot.running), dict(snapshot.progress), tuple(snapshot.ended)),
            )
        )
        self.free, answers = snapshot.free_cores, list[Answer]()
        for run in snapshot.running:
            if not run.yields:
                answers += self._change(run)
        for entry in snapshot.pending:
            idle = not snapshot.running and not any(isinstance(one, Allocation) for one in answers)
            answers += self._decide(entry, must=idle)
        if self.random.random() < 0.2:
            answers.append(Wake(snapshot.time_s + self.random.choice((0.5, 1.0)) * self.wake_s))
        return answers

    def _change(self, run: Running) -> list[Answer]:
        if self.random.random() < 0.2:
            return [Yield(run.query.id)]
        cores = self.random.randint(1, run.reserved_cores + self.free)
        # What a block already holds or has been promised stays promised until it adopts a count.
        cores = max(cores, run.target_cores if run.target_cores > run.cores else 1)
        if self.random.random() < 0.5:
            return []
        self.free -= max(cores, run.cores) - run.reserved_cores
        versions = self._versions(run.block) if self.random.random() < 0.5 else None
        return [Resize(run.query.id, cores, versions)]

    def _decide(self, entry: Pending, must: bool) -> list[Answer]:
        if self.free == 0 or (not must and self.random.random() < 0.5):
            return []
        query = entry.query
        if not must and self.random.random() < 0.1:
            return [Rejection(query.id, self.random.choice(("drawn", "", "größer als 1")))]
        cores, wanted = self.random.randint(1, self.free), self.random.choice((None, 8))
        self.free -= cores
        layers = len(self.context.models[query.model].layers)
        block = LayerBlock(query.model, entry.next_layer, self.random.randint(entry.next_layer + 1, layers))
        start = Allocation(query.id, block, self._versions(block), cores, wanted)
        return [start, Yield(query.id)] if self.random.random() < 0.1 else [start]

    def _versions(self, block: LayerBlock) -> tuple[int, ...]:
        return tuple(self.random.randrange(self.versions) for _ in range(len(block)))
