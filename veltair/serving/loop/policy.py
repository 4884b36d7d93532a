"""The only scheduling interface: what a policy may know and what it may answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from veltair.compiler.frontend.model import LayerBlock, Model
from veltair.machine.costs.table import CostTable
from veltair.machine.topology.topology import Machine
from veltair.serving.loop.query import Query, QueryRecord


@dataclass(frozen=True, slots=True)
class Context:
    """What a policy is given once per run: the models served, their profiled costs and the machine.

    `tenants` are the tenants' parts of the machine, relative to each other; empty where each model has one
    tenant of its name, all of them equal.
    """

    models: Mapping[str, Model]
    costs: CostTable
    machine: Machine
    tenants: Mapping[str, float] = field(default_factory=dict)


# Pending, Running and Snapshot are made anew at every decision. As frozen dataclasses they would take several
# times as long, a part of the whole decision that shows.


class Pending(NamedTuple):
    """A query that waits: for its first block (`next_layer` 0) or between two blocks."""

    query: Query
    next_layer: int


class Running(NamedTuple):
    """A query whose block runs.

    `cores` are held, `target_cores` is the count it has from its next layer end on (equal unless a
    resize is under way). `wanted_cores` is what its allocation named as its need. `yields` says that it was
    asked to end at its next layer end.
    """

    query: Query
    block: LayerBlock
    versions: tuple[int, ...]
    cores: int
    target_cores: int
    wanted_cores: int
    start_s: float
    yields: bool = False

    @property
    def reserved_cores(self) -> int:
        """Cores that nobody else can have: held ones and those it will grow into."""
        return self.cores if self.cores > self.target_cores else self.target_cores


@dataclass(slots=True)
class Snapshot:
    """All that a policy may know when it decides.

    `pending` is oldest arrival first and `running` oldest block first; both are views of the dispatcher's
    state, valid until the policy returns. `pressure` in [0, 1] is what a block started now would meet.
    `progress` gives, for each running query, how many layers of its block have ended. `ended` are the
    records of the queries that ended since the last decision, those that it rejected among them.
    """

    time_s: float
    free_cores: int
    pressure: float
    pending: Sequence[Pending]
    running: Sequence[Running]
    progress: Mapping[int, int]
    ended: Sequence[QueryRecord] = ()


@dataclass(frozen=True, slots=True)
class Allocation:
    """Start a layer block of a pending query now.

    `versions` holds one version index for each layer of the block. `wanted_cores` is the block's need: a
    start with fewer `cores` counts as a conflict (None: the block wanted what it got).
    """

    query_id: int
    block: LayerBlock
    versions: tuple[int, ...]
    cores: int
    wanted_cores: int | None = None

    def __post_init__(self) -> None:
        if len(self.versions) != len(self.block):
            raise ValueError(
                f"Allocation of query {self.query_id}: {len(self.versions)} versions for "
                f"{len(self.block)} layers; give one a layer"
            )
        if self.cores < 1:
            raise ValueError(f"Allocation of query {self.query_id}: {self.cores} cores; give 1 or more")


@dataclass(frozen=True, slots=True)
class Resize:
    """Change a running block at its next layer end: its cores and, if given, its versions.

    A growth under way (target_cores above cores) can be raised, but not taken back before it is adopted.
    Cores that it gains are taken from the free ones at once; cores that it loses become free at that layer
    end. `versions` has one entry for each layer of the block, as in its Allocation; None keeps them.
    """

    query_id: int
    cores: int
    versions: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.cores < 1:
            raise ValueError(f"Resize of query {self.query_id}: {self.cores} cores; give 1 or more")


@dataclass(frozen=True, slots=True)
class Yield:
    """End a running block at its next layer end: its query then waits again, with the layers left.

    Its cores are free then. A yield under way cannot be taken back, and its block cannot be resized any more.
    A block ends at least one layer; in its last layer a yield has no effect.
    """

    query_id: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """Give a pending query up. It is a QoS violation, always."""

    query_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Wake:
    """Call the policy again at `time_s`, though nothing else happens."""

    time_s: float


Answer = Allocation | Resize | Yield | Rejection | Wake


class Policy(Protocol):
    """Decides who gets which cores. Made fresh for each run as `PolicyClass(context, **options)`.

    It may keep private state, but the same snapshots always give the same answers. It reads no clock.
    """

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return what to do now; an empty sequence waits for the next event."""
        ...
