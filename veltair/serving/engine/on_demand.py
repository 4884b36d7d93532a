"""A backend whose models are loaded when a block needs them or the policy says so, in bounded memory."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from veltair.machine.models.model_memory import Loading, ModelMemory, ModelMemoryError
from veltair.serving.engine.background import InBackground
from veltair.serving.loop.backend import (
    Backend,
    BackendWrapper,
    BlockEnd,
    Closed,
    Command,
    Event,
    Loaded,
    Resized,
)
from veltair.serving.loop.policy import Allocation, Evict, Load, Resize, Yield


class OnDemand(BackendWrapper):
    """Passes everything on to another backend, but a block only once its model is in memory.

    A model is in use while a block of it runs. It is loaded in the background, while decisions go on: one
    load at a time, in the order in which blocks were given cores. Until then a block waits on the cores that
    it was given; later ones whose models are in memory run meanwhile. Where those in use leave no room for
    the next load, later blocks wait too, lest a model in constant use keep another one out for ever. Some
    block always runs then, so the wait ends.

    A policy that loads models itself starts no block of one that is not there, and hears of ends of loads.
    """

    def __init__(
        self,
        backend: Backend,
        memory: ModelMemory,
        models: tuple[str, ...],
        in_background: InBackground,
        now_s: Callable[[], float],
    ) -> None:
        """Begin. `in_background` is where models are loaded, `now_s` the clock of the backend.

        Raises ModelMemoryError if one of the models is larger than the whole budget.
        """
        for name in models:
            if name not in memory.resident and (refused := memory.refusal(name)) and refused.is_final:
                raise ModelMemoryError(f"{refused} (`engine.memory_mb`)")
        super().__init__(backend)
        self._memory, self._in_background, self._now_s = memory, in_background, now_s
        self._waiting: dict[int, Allocation] = {}
        self._running: dict[int, str] = {}  # the model of each query's block
        # Changes of blocks that wait, of each the last one: only that frees cores for sure.
        self._changed: dict[int, int] = {}
        self._adopted: dict[int, Resized] = {}
        self._yielding: set[int] = set()  # of those that wait

    def do(self, command: Command) -> None:
        """Start a block as soon as its model is in memory; change one that waits at the next event.

        One that is to yield before it has begun still ends one layer.
        """
        if isinstance(command, Allocation):
            self._waiting[command.query_id] = command
            self._start_waiting()
        elif isinstance(command, Resize) and (waiting := self._waiting.get(command.query_id)):
            self._change(waiting, command)
        elif isinstance(command, Yield) and command.query_id in self._waiting:
            self._yielding.add(command.query_id)
        elif isinstance(command, Load):
            self._load_asked(command.model)
        elif isinstance(command, Evict):
            self._memory.evict(command.model)
        else:
            self._backend.do(command)

    def wait(self) -> Event | None:
        """Return the backend's next event, and after it the changes of blocks that wait.

        Raises ModelMemoryError if loading a model failed.
        """
        if self._adopted:
            return self._adopted.pop(next(iter(self._adopted)))
        event = self._backend.wait()
        if event is not None and not isinstance(event, Closed):
            # Not before an event: a policy that changes a block at each call would be called for ever.
            changes = self._changed.items()
            self._adopted = {query_id: Resized(event.time_s, query_id, cores) for query_id, cores in changes}
            self._changed = {}
        if isinstance(event, BlockEnd):
            self._adopted.pop(event.query_id, None)  # it ended before it could be told
            self._memory.release(self._running.pop(event.query_id))
            self._start_waiting()
        return event

    def progress(self) -> Mapping[int, int]:
        """Return how many layers of each block have ended: none of one that waits."""
        progress = self._backend.progress()
        return {**progress, **dict.fromkeys(self._waiting, 0)} if self._waiting else progress

    def _change(self, waiting: Allocation, resize: Resize) -> None:
        versions = waiting.versions if resize.versions is None else resize.versions
        self._waiting[resize.query_id] = replace(waiting, cores=resize.cores, versions=versions)
        self._adopted.pop(resize.query_id, None)
        self._changed[resize.query_id] = resize.cores

    def _start_waiting(self) -> None:
        for query_id, allocation in list(self._waiting.items()):
            model = allocation.block.model
            if model in self._memory.resident:
                self._memory.acquire(model)
                del self._waiting[query_id]
                self._running[query_id] = model
                self._backend.do(allocation)
                if query_id in self._yielding:
                    self._yielding.remove(query_id)
                    self._backend.do(Yield(query_id))
            elif not self._memory.loading and not self._load(model):
                return

    def _load(self, model: str) -> bool:
        """Begin to load a model, and return whether there is room for it."""
        loading = self._memory.refusal(model) or self._memory.begin(model)
        if isinstance(loading, Loading):
            self._in_background(loading.run, partial(self._end_load, loading))
            return True
        if not self._running:
            raise ModelMemoryError(str(loading))  # nobody's end will make room
        return False

    def _load_asked(self, model: str) -> None:
        loading = self._memory.begin(model)
        if not isinstance(loading, Loading):
            raise ModelMemoryError(str(loading))
        self._in_background(loading.run, partial(self._end_asked, loading))

    def _end_asked(self, loading: Loading) -> Loaded:
        self._memory.end(loading)
        return Loaded(self._now_s(), loading.model)

    def _end_load(self, loading: Loading) -> None:
        self._memory.end(loading)
        self._start_waiting()
