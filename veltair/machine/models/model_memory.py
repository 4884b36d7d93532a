"""Models in memory within a budget: loaded on demand or ahead, evicted when others need the room."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from veltair.machine.models.memory_budget import CannotLoad, Residency

Clock = Callable[[], float]


class ModelMemoryError(RuntimeError):
    """A model is not in memory and could not be brought there; the message says why and what to do."""


class Loadable(Protocol):
    """What a `ModelMemory` holds: the weights of a model, or of some versions of it."""

    @property
    def bytes_needed(self) -> int:
        """Bytes that it holds once loaded, at most; known before."""

    def load(self) -> int:
        """Load, and return the bytes then held. If this raises, nothing may be held."""

    def release(self) -> None:
        """Give the memory back."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a `ModelMemory` did: models found resident by `acquire`, loads ended, models evicted, refusals."""

    hits: int = 0
    loads: int = 0
    evictions: int = 0
    refusals: int = 0


@dataclass(slots=True)
class Loading:
    """A load under way. `run` it once, on any thread, then give it to `ModelMemory.end`."""

    model: str
    weights: Loadable
    reserved_bytes: int
    evicted: Sequence[Loadable]
    clock: Clock
    seconds: float = 0.0
    nbytes: int = 0
    error: Exception | None = None
    has_begun: bool = False
    is_done: bool = False

    def run(self) -> None:
        """Free the memory of the evicted, then load. An error is kept for `ModelMemory.end`."""
        self.has_begun = True
        start_s = self.clock()
        try:
            self._evict()
            self.nbytes = self._load()
        except Exception as error:  # on any thread: whoever ends the load must hear of it
            self.error = error
        self.seconds = self.clock() - start_s
        self.is_done = True

    def give_up(self) -> None:
        """Hold nothing, whether it has run or never will; the evicted are freed all the same."""
        if not self.has_begun:
            self._evict()
        elif self.is_done and self.error is None:
            self.weights.release()

    def _evict(self) -> None:
        for weights in self.evicted:
            weights.release()

    def _load(self) -> int:
        nbytes = self.weights.load()
        if nbytes > self.reserved_bytes:
            self.weights.release()
            raise ValueError(f"it holds {nbytes} bytes but had asked for {self.reserved_bytes}")
        return nbytes


class ModelMemory:
    """Models by name within a budget of bytes.

    One thread calls it, the one that decides; a load itself may `run` on another. The budget is for what the
    models hold; activations are the queries'.
    """

    def __init__(
        self, budget_bytes: int, models: Mapping[str, Loadable], clock: Clock = time.perf_counter
    ) -> None:
        """Begin with nothing loaded. `clock` returns seconds."""
        self.counts = Counts()
        self._models = dict(models)
        self._clock = clock
        self._residency = Residency(budget_bytes)
        self._load_seconds: dict[str, list[float]] = {name: [] for name in models}
        self._under_way: Loading | None = None
        # Versions that pack alike share, which only a first load finds out.
        self._known_bytes: dict[str, int] = {}

    @property
    def resident(self) -> tuple[str, ...]:
        """The models that are in memory, the least recently used first."""
        return self._residency.resident

    @property
    def budget_bytes(self) -> int:
        """The budget."""
        return self._residency.budget_bytes

    @property
    def loading(self) -> str:
        """The model whose load is under way, or the empty text."""
        return self._residency.loading

    @property
    def held_bytes(self) -> int:
        """Bytes of the resident models, and those reserved for the load under way; at most the budget."""
        return self._residency.held_bytes

    @property
    def load_seconds(self) -> Mapping[str, Sequence[float]]:
        """Seconds of each load by model, oldest first: from the release of the evicted to the last byte."""
        return self._load_seconds

    def bytes_needed(self, name: str) -> int:
        """Return the bytes of a model: exact once it was loaded, before that at most.

        Raises LookupError for a model that was not given.
        """
        if name not in self._models:
            raise LookupError(f"{name} is not one of the models {list(self._models)}; name it when made")
        return self._known_bytes.get(name) or self._models[name].bytes_needed

    def refusal(self, name: str) -> CannotLoad | None:
        """Return why a model that is not resident cannot be loaded now; None if it can."""
        return self._residency.refusal(name, self.bytes_needed(name))

    def begin(self, name: str) -> Loading | CannotLoad:
        """Ask for a load ahead: reserve its bytes and return the load to `run`, or why it cannot be.

        Nothing is evicted for a load that is refused. Raises ValueError for a model that is resident.
        """
        if name not in self.resident and (refused := self.refusal(name)):
            self.counts = replace(self.counts, refusals=self.counts.refusals + 1)
            return refused
        nbytes = self.bytes_needed(name)
        leaving = self._residency.begin(name, nbytes)
        self.counts = replace(self.counts, evictions=self.counts.evictions + len(leaving))
        evicted = [self._models[other] for other in leaving]
        self._under_way = Loading(name, self._models[name], nbytes, evicted, self._clock)
        return self._under_way

    def end(self, loading: Loading) -> None:
        """Book a load that has run: the model is resident, and counts as just used.

        Raises ModelMemoryError if the load failed; the model is then not resident. What it had evicted stays
        evicted.
        """
        if not loading.is_done:
            raise ValueError(f"the load of {loading.model} has not run; run it first")
        self._under_way = None
        if loading.error is not None:
            self._residency.abandon(loading.model)
            raise ModelMemoryError(f"loading {loading.model} failed: {loading.error}") from loading.error
        self._residency.end(loading.model, loading.nbytes)
        self._known_bytes[loading.model] = loading.nbytes
        self._load_seconds[loading.model].append(loading.seconds)
        self.counts = replace(self.counts, loads=self.counts.loads + 1)

    def acquire(self, name: str) -> None:
        """Use a model: load it now if it is not resident. It is not evicted until released as often.

        Raises ModelMemoryError if there is no room for it, or its load failed.
        """
        if name in self.resident:
            self.counts = replace(self.counts, hits=self.counts.hits + 1)
        else:
            loading = self.begin(name)
            if isinstance(loading, CannotLoad):
                raise ModelMemoryError(str(loading))
            loading.run()
            self.end(loading)
        self._residency.acquire(name)

    def release(self, name: str) -> None:
        """Stop using a model, once for each `acquire`; it stays until others need the room.

        Raises LookupError if nobody uses it.
        """
        self._residency.release(name)

    def evict(self, name: str) -> None:
        """Give the memory of a resident model that nobody uses back at once.

        Raises LookupError if it is not resident, ValueError if it is in use.
        """
        self._residency.evict(name)
        self._models[name].release()
        self.counts = replace(self.counts, evictions=self.counts.evictions + 1)

    def clear(self) -> None:
        """Evict all models; nobody uses any."""
        for name in self.resident:
            self.evict(name)

    def settle(self) -> None:
        """End all uses and give up the load under way, whose thread has ended: for a run that was cut off.

        What that load was to evict stays evicted. Where a load hangs on its thread, its memory is the
        process's until that ends.
        """
        if self._under_way is not None:
            self._under_way.give_up()
            self._residency.abandon(self._under_way.model)
            self._under_way = None
        self._residency.release_all()

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Within the context, the model is in memory."""
        self.acquire(name)
        try:
            yield
        finally:
            self.release(name)
