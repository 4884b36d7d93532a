"""The only scheduling interface: what a policy may know and what it may answer."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple, Protocol

from veltair.compiler.frontend.model import LayerBlock, Model
from veltair.machine.costs.table import CostTable
from veltair.machine.topology.topology import Machine
from veltair.serving.loop.query import Query, QueryRecord

MOST_SHARING = 32
"""How many blocks may share cores at once: as many threads as a pool of Python's calls from at most."""


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """Bounded memory for models: its bytes, and of each model its bytes and what a load of it takes.

    One load is under way at a time, beside the blocks that run. Raises ValueError for a model that is larger
    than the budget.
    """

    budget_bytes: int
    model_bytes: Mapping[str, int]
    load_s: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, nbytes in self.model_bytes.items():
            if nbytes > self.budget_bytes:
                raise ValueError(
                    f"{name} has {nbytes / 1e6:.1f} MB of weights, more than the memory for models "
                    f"({self.budget_bytes / 1e6:.1f} MB) holds; raise `memory_mb`"
                )
            if not 0 <= self.load_s[name] < float("inf"):
                raise ValueError(
                    f"a load of {name} takes {self.load_s[name]} s; give a finite time, 0 or more"
                )


@dataclass(frozen=True, slots=True)
class Context:
    """What a policy is given once per run: the models served, their profiled costs and the machine.

    `batches` has, for each model that was also built for several queries at once, the name in `costs` of its
    versions for that many, by their number. It has the same layers. `memory` is None where all models are
    resident all the time. `tenants` are the tenants' parts of the machine, relative to each other; empty
    where each model has one tenant of its name, all of them equal.
    """

    models: Mapping[str, Model]
    costs: CostTable
    machine: Machine
    batches: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    memory: MemoryLimits | None = None
    tenants: Mapping[str, float] = field(default_factory=dict)

    def costs_name(self, model: str, queries: int) -> str:
        """Return what a model is called in `costs` where it serves so many queries at once.

        Raises LookupError if it was not built for so many.
        """
        if queries == 1:
            return model
        built = self.batches.get(model, {})
        if queries not in built:
            raise LookupError(
                f"{queries} queries of {model} at once: it was built for {', '.join(map(str, (1, *built)))}; "
                f"add {queries} to `models.{model}.batches`"
            )
        return built[queries]


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
    asked to end at its next layer end. `others` are those whom the block serves beside its query. One that
    `shares_cores` holds none of its own: its threads take turns with those of others.
    """

    query: Query
    block: LayerBlock
    versions: tuple[int, ...]
    cores: int
    target_cores: int
    wanted_cores: int
    start_s: float
    yields: bool = False
    others: tuple[Query, ...] = ()
    shares_cores: bool = False

    @property
    def reserved_cores(self) -> int:
        """Cores that nobody else can have: held ones and those it will grow into."""
        if self.shares_cores:
            return 0
        return self.cores if self.cores > self.target_cores else self.target_cores


class LoadUnderWay(NamedTuple):
    """A model whose weights are on their way into memory, and when they are expected to be there."""

    model: str
    end_s: float


@dataclass(slots=True)
class Snapshot:
    """All that a policy may know when it decides.

    `pending` is oldest arrival first and `running` oldest block first; both are views of the dispatcher's
    state, valid until the policy returns. `pressure` in [0, 1] is what a block started now would meet.
    `progress` gives, for each running query, how many layers of its block have ended. `ended` are the
    records of the queries that ended since the last decision, those that it rejected among them. Blocks of
    `resident` models can start (a live view; all of them, where memory is not bounded), `load` is the one
    load under way.
    """

    time_s: float
    free_cores: int
    pressure: float
    pending: Sequence[Pending]
    running: Sequence[Running]
    progress: Mapping[int, int]
    ended: Sequence[QueryRecord] = ()
    resident: Collection[str] = ()
    load: LoadUnderWay | None = None


@dataclass(frozen=True, slots=True)
class Allocation:
    """Start a layer block of a pending query now.

    `versions` holds one version index for each layer of the block. `wanted_cores` is the block's need: a
    start with fewer `cores` counts as a conflict (None: the block wanted what it got). `others` are pending
    queries of the same model that the block serves too: all of its layers, in versions that were built for
    as many (`Context.batches`). They run as one, under the name of `query_id`, and end together. Its layers
    draw no more than `dram_bytes_per_s` of the memory (None: what they can).

    A block that `shares_cores` takes none of the free ones: the operating system lets its `cores` threads
    take turns with those of other such blocks. There may be `MOST_SHARING` at once, and no others beside.

    Which cores a block gets, the placement picks; or it has core number `first_core` and those after it, in
    the order of the machine's cache groups, where all blocks beside it have such cores, too.
    """

    query_id: int
    block: LayerBlock
    versions: tuple[int, ...]
    cores: int
    wanted_cores: int | None = None
    others: tuple[int, ...] = ()
    dram_bytes_per_s: float | None = None
    shares_cores: bool = False
    first_core: int | None = None

    def __post_init__(self) -> None:
        if len(self.versions) != len(self.block):
            raise ValueError(
                f"Allocation of query {self.query_id}: {len(self.versions)} versions for "
                f"{len(self.block)} layers; give one a layer"
            )
        if self.cores < 1:
            raise ValueError(f"Allocation of query {self.query_id}: {self.cores} cores; give 1 or more")
        if self.dram_bytes_per_s is not None and not 0 < self.dram_bytes_per_s < inf:
            raise ValueError(
                f"Allocation of query {self.query_id}: {self.dram_bytes_per_s} bytes/s of memory; give a "
                "number above 0, or None for no limit"
            )


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
    A block ends at least one layer; in its last layer a yield has no effect. One that serves several queries
    cannot yield.
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


@dataclass(frozen=True, slots=True)
class Load:
    """Bring a model into memory: it is resident at the end of the load. One load is under way at a time."""

    model: str


@dataclass(frozen=True, slots=True)
class Evict:
    """Take a resident model, of which no block runs, out of memory: its room is free at once."""

    model: str


Answer = Allocation | Resize | Yield | Rejection | Wake | Load | Evict


def most_blocks(machine: Machine) -> int:
    """Return how many blocks may run at once: one a core at most, where they do not share cores."""
    return max(machine.cores, MOST_SHARING)


class Policy(Protocol):
    """Decides who gets which cores. Made fresh for each run as `PolicyClass(context, **options)`.

    It may keep private state, but the same snapshots always give the same answers. It reads no clock. One
    whose class has `loads_models = True` says itself which models are in bounded memory, and begins with
    none; to any other all are resident.
    """

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return what to do now; an empty sequence waits for the next event."""
        ...


def limits_of(policy: object, context: Context) -> MemoryLimits | None:
    """Return the limits of memory that a policy loads models within itself; None: all are resident to it."""
    return context.memory if getattr(policy, "loads_models", False) else None
