"""The queries that wait and run, as a policy sees them; and what it may answer."""

from collections.abc import Collection, Sequence

from veltair.serving.loop.loaded_models import LoadedModels
from veltair.serving.loop.policy import (
    MOST_SHARING,
    Allocation,
    Answer,
    Context,
    Evict,
    Load,
    LoadUnderWay,
    Pending,
    Policy,
    Rejection,
    Resize,
    Running,
    Wake,
    Yield,
    limits_of,
)
from veltair.serving.loop.policy_error import PolicyError
from veltair.serving.loop.query import Query
from veltair.serving.loop.queues import PendingQueue, SeenIds, ValuesView

__all__ = ["IDLE_WAKES", "OpenQueries", "PolicyError", "stall"]

IDLE_WAKES = 10_000  # in a row: no policy has a reason to let queries wait for so many while nothing runs


class OpenQueries:
    """The state that a policy decides on: kept by events and by its answers, which are checked here.

    Raises PolicyError, naming the policy, when it gives cores that are not free, lets blocks share cores
    beside others that do not, names an unknown query, starts layers out of order, starts several queries as
    what was not built or a model that is not resident, loads or evicts one that cannot be, yields a query
    that does not run or yields already, or is woken again and again while queries wait and nothing runs. No
    policy can yield for ever: a block ends at least one layer, and each layer of a query ends once.
    """

    __slots__ = (
        "_context", "_cores", "_fixed", "_idle_wakes", "_memory", "_models", "_policy", "_seen", "_waiting",
        "free_cores", "pending", "resident", "running", "running_view", "sharing_cores",
    )  # fmt: skip

    def __init__(self, policy: Policy, context: Context) -> None:
        """Begin with free cores and without queries."""
        self._policy, self._models, self._cores = policy, context.models, context.machine.cores
        limits, self._context = limits_of(policy, context), context
        self._memory = None if limits is None else LoadedModels(self._name, limits)
        self.resident: Collection[str] = context.models if self._memory is None else self._memory.resident
        self._seen, self._idle_wakes = SeenIds(), 0
        self._waiting: dict[int, Pending] = {}
        self.free_cores = self._cores
        self.sharing_cores = 0
        self._fixed: dict[int, range] = {}
        self.pending = PendingQueue()
        self.running: dict[int, Running] = {}
        self.running_view: Sequence[Running] = ValuesView(self.running)

    @property
    def load(self) -> LoadUnderWay | None:
        """The load under way."""
        return None if self._memory is None else self._memory.load

    # What happened.

    def admit(self, query: Query, next_layer: int = 0) -> None:
        """Let a query wait; `next_layer` is above 0 where it began under another policy.

        Raises ValueError if it came before, LookupError if its model is not served.
        """
        if not self._seen.add(query.id):
            raise ValueError(f"query {query.id} arrived twice")
        if query.model not in self._models:
            raise LookupError(f"query {query.id} asks for {query.model}, which this run does not serve")
        self._enqueue(Pending(query, next_layer))

    def withdraw(self, query_id: int) -> None:
        """Forget a query that waits: whoever sent it does not want it any more."""
        self._dequeue(query_id)

    def end_load(self) -> None:
        """End the load under way."""
        assert self._memory is not None
        self._memory.end()

    def end_block(self, query_id: int, next_layer: int) -> bool:
        """End a block before a layer of its model; return whether that was its last one, of all it serves.

        Raises RuntimeError if the block was not to end there.
        """
        running = self.running.pop(query_id)
        query, block = running.query, running.block
        self.free_cores += running.reserved_cores
        self.sharing_cores -= running.cores if running.shares_cores else 0
        self._fixed.pop(query_id, None)
        if not block.start < next_layer <= block.stop:
            raise RuntimeError(
                f"the backend ended {block} of query {query_id} before layer {next_layer}; a block ends "
                f"after one of its layers, so from {block.start + 1} to {block.stop}"
            )
        if self._memory is not None:
            self._memory.release(block.model)
        if next_layer == len(self._models[query.model].layers):
            return True
        if running.others:
            raise RuntimeError(f"the backend ended {block} of {1 + len(running.others)} queries early")
        self._enqueue(Pending(query, next_layer))
        return False

    def adopt(self, query_id: int, cores: int) -> None:
        """Let a running block have the cores that it has adopted."""
        running = self.running[query_id]
        self._update(running, cores, running.target_cores, running.versions)

    def clear(self) -> None:
        """Forget all queries."""
        self.pending.clear()
        self.running.clear()
        self._fixed.clear()
        self._waiting.clear()

    def held_cores(self, running: Running) -> float:
        """Return the cores that a block has: those that it holds, or an equal part of shared ones."""
        if not running.shares_cores:
            return running.reserved_cores
        if self.sharing_cores <= self._cores:
            return running.cores
        return running.cores * (self._cores / self.sharing_cores)

    # What the policy answers.

    def obey(self, answer: Answer, time_s: float) -> None:
        """Check an answer, and take it into account."""
        match answer:
            case Allocation():
                self._start(answer, time_s)
            case Resize():
                self._resize(answer)
            case Yield():
                self._yield(answer)
            case Rejection():
                self._dequeue(answer.query_id)
            case Wake():
                self._check_wake(answer, time_s)
            case Load(model=model):
                self._loaded_models("loads", model).begin(model, time_s)
            case Evict(model=model):
                self._loaded_models("evicts", model).evict(model)
            case _:
                raise PolicyError(
                    f"{self._name} answered {answer!r}; return Allocation, Resize, Yield, Rejection, Wake, "
                    "Load or Evict"
                )

    def check_idle(self, was_woken: bool) -> None:
        """Check after a decision that the policy does not let queries wait from one wake to the next."""
        is_idle = was_woken and self.pending and not self.running
        self._idle_wakes = self._idle_wakes + 1 if is_idle else 0
        if self._idle_wakes == IDLE_WAKES:
            oldest = self.pending[0].query
            raise PolicyError(
                f"{self._name} waits for ever: {len(self.pending)} queries wait (the oldest is {oldest.id}, "
                f"a {oldest.model}), nothing runs, and woken {IDLE_WAKES} times in a row it started none; "
                "allocate cores or reject the query"
            )

    @property
    def _name(self) -> str:
        return type(self._policy).__name__

    def _start(self, allocation: Allocation, time_s: float) -> None:
        block, cores = allocation.block, allocation.cores
        query, next_layer = self._dequeue(allocation.query_id)
        layers = len(self._models[query.model].layers)
        if block.model != query.model or block.start != next_layer or block.stop > layers:
            raise PolicyError(
                f"{self._name} starts {block} for query {query.id}, whose next layer is "
                f"{next_layer} of "
                f"{layers} of {query.model}"
            )
        shares = allocation.shares_cores
        if self._fixed or allocation.first_core is not None:
            self._check_place(allocation)
        (self._share if shares else self._take)(cores, query.id)
        others = self._join(allocation) if allocation.others else ()
        if self._memory is not None:
            self._memory.acquire(block.model)
        wanted, grant = allocation.wanted_cores or cores, (allocation.versions, cores, cores)
        self.running[query.id] = Running(
            *(query, block, *grant, wanted, time_s), others=others, shares_cores=shares
        )

    def _join(self, allocation: Allocation) -> tuple[Query, ...]:
        """Take the queries that a block serves beside its own out of those that wait, and return them."""
        block, queries = allocation.block, 1 + len(allocation.others)
        if len(block) != len(self._models[block.model].layers):
            raise PolicyError(
                f"{self._name} starts {block} for {queries} queries at once; give such a block all "
                f"{len(self._models[block.model].layers)} layers"
            )
        try:
            self._context.costs_name(block.model, queries)
        except LookupError as error:
            raise PolicyError(f"{self._name} starts {error}") from None
        others = [self._dequeue(query_id) for query_id in allocation.others]
        for query, next_layer in others:
            if query.model != block.model or next_layer:
                raise PolicyError(
                    f"{self._name} lets {block} serve query {query.id} too, whose next layer is {next_layer} "
                    f"of {query.model}; such a block serves queries of one model that have not begun"
                )
        return tuple(query for query, _ in others)

    def _loaded_models(self, what: str, model: str) -> LoadedModels:
        if self._memory is None:
            raise PolicyError(
                f"{self._name} {what} {model}, but all models are resident: either their memory is not "
                "bounded (`memory_mb`), or the class lacks `loads_models = True`"
            )
        return self._memory

    def _check_place(self, allocation: Allocation) -> None:
        """Check that all blocks have their cores named, or none has, and that no core is named twice."""
        query_id, first = allocation.query_id, allocation.first_core
        if self.running and (first is None) == bool(self._fixed):
            which = "picks cores of its own" if self._fixed else "names the cores"
            others = "have theirs named" if self._fixed else "have what the placement picks"
            raise PolicyError(
                f"{self._name} {which} for query {query_id} beside blocks that {others}; do as they"
            )
        if first is None:
            return
        cores = range(first, first + allocation.cores)
        taken = [core for held in self._fixed.values() for core in held if core in cores]
        if first < 0 or cores.stop > self._cores or taken or allocation.shares_cores:
            raise PolicyError(
                f"{self._name} names cores {first} to {cores.stop - 1} for query {query_id}; of the "
                f"{self._cores} others have {taken or 'none of these'}: name free ones, and none that are "
                "shared"
            )
        self._fixed[query_id] = cores

    def _resize(self, resize: Resize) -> None:
        running = self.running.get(resize.query_id)
        if running is None:
            raise PolicyError(f"{self._name} resizes query {resize.query_id}, which is not running")
        if running.yields:
            raise PolicyError(
                f"{self._name} resizes query {resize.query_id}, which yields; wait for the end of its block"
            )
        if running.shares_cores:
            raise PolicyError(
                f"{self._name} resizes query {resize.query_id}, which shares its cores; start its next block "
                "on another count"
            )
        if resize.cores < running.target_cores and running.target_cores > running.cores:
            # The block may have grown already, with its Resized still on the way.
            raise PolicyError(
                f"{self._name} takes back cores from query {resize.query_id}, which is growing from "
                f"{running.cores} to {running.target_cores}; wait for its Resized event"
            )
        versions = running.versions if resize.versions is None else resize.versions
        if len(versions) != len(running.block):
            raise PolicyError(
                f"{self._name} resizes query {resize.query_id} with {len(versions)} versions for "
                f"{len(running.block)} layers"
            )
        self._update(running, running.cores, resize.cores, versions)

    def _yield(self, answer: Yield) -> None:
        running = self.running.get(answer.query_id)
        if running is None:
            raise PolicyError(f"{self._name} yields query {answer.query_id}, which is not running")
        if running.others:
            raise PolicyError(
                f"{self._name} yields query {answer.query_id}, whose block serves {1 + len(running.others)} "
                "queries; wait for its end"
            )
        if running.yields:
            raise PolicyError(
                f"{self._name} yields query {answer.query_id} twice; a yield cannot be taken back: wait for "
                "the end of its block"
            )
        self.running[answer.query_id] = running._replace(yields=True)

    def _check_wake(self, wake: Wake, time_s: float) -> None:
        if not wake.time_s > time_s:
            raise PolicyError(
                f"{self._name} asks at {time_s} s to be woken at {wake.time_s} s; name a later time"
            )

    def _update(self, before: Running, cores: int, target_cores: int, versions: tuple[int, ...]) -> None:
        query, wanted_cores, start_s, yields = (
            before.query,
            before.wanted_cores,
            before.start_s,
            before.yields,
        )
        after = Running(
            *(query, before.block, versions, cores, target_cores, wanted_cores, start_s, yields),
            before.others,
        )
        gained = after.reserved_cores - before.reserved_cores
        if gained > 0:
            self._take(gained, query.id)
        else:
            self.free_cores -= gained
        self.running[query.id] = after

    def _take(self, cores: int, query_id: int) -> None:
        if self.sharing_cores:
            raise PolicyError(
                f"{self._name} gives query {query_id} cores of its own beside blocks that share theirs; let "
                "it share cores, too, or wait for their ends"
            )
        if cores > self.free_cores:
            raise PolicyError(
                f"{self._name} gives {cores} cores to query {query_id}, but {self.free_cores} of "
                f"{self._cores} are free"
            )
        self.free_cores -= cores

    def _share(self, cores: int, query_id: int) -> None:
        if self.running and not self.sharing_cores:
            raise PolicyError(
                f"{self._name} lets query {query_id} share cores beside blocks that have cores of their own; "
                "wait for their ends"
            )
        if cores > self._cores:
            raise PolicyError(
                f"{self._name} lets query {query_id} share {cores} cores; there are {self._cores}"
            )
        if len(self.running) == MOST_SHARING:
            raise PolicyError(
                f"{self._name} lets query {query_id} share cores with {MOST_SHARING} blocks; no more may run"
            )
        self.sharing_cores += cores

    def _enqueue(self, entry: Pending) -> None:
        self._waiting[entry.query.id] = entry
        self.pending.add(entry)

    def _dequeue(self, query_id: int) -> Pending:
        entry = self._waiting.pop(query_id, None)
        if entry is None:
            raise PolicyError(f"{self._name} answers for query {query_id}, which is not waiting")
        self.pending.remove(entry)
        return entry


def stall(policy: Policy, waiting: int, oldest: Query, free_cores: int) -> PolicyError:
    """Return the error of a policy that leaves queries waiting for good."""
    return PolicyError(
        f"{type(policy).__name__} stalls: {waiting} queries wait (the oldest is {oldest.id}, a "
        f"{oldest.model}), {free_cores} cores are free, and nothing is due; "
        "allocate cores, reject the query or return a Wake"
    )
