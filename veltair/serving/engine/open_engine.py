"""The engine of a service: models come and go while it serves, and each request brings its own input.

Requests come and outcomes go through a socket, without Python; see docs/engine.md. A policy that decides in C
is exchanged for one of other models between two events, and nobody waits; one in Python once no block runs,
and until then no other begins.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from threading import Event
from typing import Any

import numpy as np

from veltair.compiler.frontend.model import Model
from veltair.compiler.frontend.samples import Samples
from veltair.machine.c_library import KeptArrays
from veltair.machine.costs.table import CostTable
from veltair.machine.interference.source import InterferenceSource
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.call_tables import CallTables
from veltair.machine.workers.pool import Launch, on_cores
from veltair.serving.engine.live_tables import LiveTables
from veltair.serving.engine.log_entries import Entry, EntryKind
from veltair.serving.engine.native_engine import RINGS, TAKEN, NativeEngine, Site
from veltair.serving.engine.running_blocks import profiled_s
from veltair.serving.engine.watchdog import DecisionWatch
from veltair.serving.loop.policy import Context, Policy
from veltair.serving.loop.query import NEVER_S, Query, QueryRecord
from veltair.serving.policies.deciders import Decider, decider_of
from veltair.serving.policies.native_spec import spec_of

_BLOCKS_REMEMBERED = 1 << 14
MakePolicy = Callable[[Context], Policy]


@dataclass(frozen=True, slots=True)
class SlotAddresses:
    """Where the requests of one slot have their inputs and outputs, in the model's order.

    `number` names the slot in requests, and is no other slot's.
    """

    number: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Hosted:
    """A model that can be served: named by its key, in memory, with buffers, costs of its own and slots.

    `buffer_bytes` are those of the buffers that it begins with: one for each core.
    """

    model: Model
    loaded: LoadedModel
    costs: CostTable
    slots: Sequence[SlotAddresses]
    buffers: list[CallTables]
    buffer_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class _Service:
    """All that C reads while these models are served, by a policy made for them."""

    hosted: Mapping[str, Hosted]
    context: Context
    policy: Policy
    decider: Decider
    tables: LiveTables
    arrays: KeptArrays
    done: Event


class OpenEngine(NativeEngine):
    """Serves requests from a socket until it is stopped.

    One thread calls `poll`, another one `host` and `serve_models`.
    """

    def __init__(
        self,
        machine: Machine,
        costs: CostTable,
        make: MakePolicy,
        interference: InterferenceSource,
        launch: Launch,
        *,
        placement: str = "spread",
    ) -> None:
        """Start the workers. `costs` are of any model. Raises EngineError for costs of another machine."""
        super().__init__(Site(Context({}, costs, machine), placement, interference, NEVER_S), {}, [], launch)
        self._make = make
        self._service: _Service | None = None
        self._next: _Service | None = None
        # What deciders before gave to blocks that still run: they read it to their ends.
        self._before: list[tuple[set[int], _Service]] = []

    def host(
        self,
        model: Model,
        loaded: LoadedModel,
        costs: CostTable,
        slots: Sequence[SlotAddresses],
        inputs: Samples,
    ) -> Hosted:
        """Return a loaded model with buffers, in each of which it has run on `inputs`, on one core.

        `costs` is a table of this model only.
        """
        (name,) = costs.models
        solo = [int(version) for version in costs.model(name).solo]
        cores = self._site.context.machine.core_ids
        buffers, nbytes = list[CallTables](), 0
        for _ in cores:
            instance = loaded.instance()
            instance.set_inputs(inputs)
            with on_cores(cores[-1:]):
                instance.run(solo)
            buffers.append(self._pool.bind(instance, model.name))
            buffers[-1].bind_all()
            nbytes += instance.nbytes
        return Hosted(model, loaded, costs, slots, buffers, nbytes)

    def serve_models(self, hosted: Mapping[str, Hosted], channel: int) -> Event:
        """Serve these models from now on; the event is set once that is so, which `poll` finds.

        Those that were served keep their requests; no request may be under way of one that goes. The first
        time, `channel` is the socket of the client. Raises ValueError for costs that cannot be joined, what
        the policy's constructor raises, and OSError.
        """
        service = self._prepared(hosted)
        if self._service is None:
            self._use(service)
            rings = (*RINGS, EntryKind.CHANGED)
            self._open(service.policy, service.decider, service.tables, rings, tells_outcomes=True)
            self.listen(channel, _client_left)
            service.done.set()
            return service.done
        change = self._change_to(service, list(self._service.hosted))
        self._next = service
        self._library.functions.live_change(self._live, change)
        return service.done

    def poll(self) -> None:
        """Take note of what has happened, or wait a moment for something to happen; check for hangs.

        Raises EngineError if a kernel failed or hangs, or a core was taken away, PolicyError if the policy
        breaks its contract, and ConnectionError once the client is gone.
        """
        read = self._reader.read(self._live)
        for entry in self._reader.entries(read, (*TAKEN, EntryKind.CHANGED)):
            self._take(entry)
        if not read:
            self._wait()

    def _prepared(self, hosted: Mapping[str, Hosted]) -> _Service:
        costs = CostTable.joined({key: one.costs for key, one in hosted.items()})
        models = {key: one.model for key, one in hosted.items()}
        context = Context(models, costs, self._site.context.machine)
        policy, arrays = self._make(context), KeptArrays(self._library)
        decider = decider_of(policy, context, self._library, partial(_query_of, list(models)))
        tables = LiveTables(self._library, context, _buffers_of(hosted), self._rows(hosted, arrays))
        return _Service(hosted, context, policy, decider, tables, arrays, Event())

    def _rows(self, hosted: Mapping[str, Hosted], arrays: KeptArrays) -> list[Mapping[str, Any]]:
        """Return the slots of all models as C finds them by their numbers."""
        null = self._library.ffi.NULL
        nobodys = {"inputs": null, "answers": null, "outputs": null, "model": -1}
        numbers = [slot.number for one in hosted.values() for slot in one.slots]
        rows: list[Mapping[str, Any]] = [nobodys] * (max(numbers, default=-1) + 1)
        for index, one in enumerate(hosted.values()):
            for slot in one.slots:
                inputs, outputs = (arrays.pointer(part, np.uintp) for part in (slot.inputs, slot.outputs))
                rows[slot.number] = {**nobodys, "inputs": inputs, "outputs": outputs, "model": index}
        return rows

    def _change_to(self, service: _Service, before: Sequence[str]) -> Any:
        numbers = {key: number for number, key in enumerate(before)}
        kept = service.arrays.pointer([numbers.get(key, -1) for key in service.hosted], np.int32)
        change = {
            "settings": service.tables.settings,
            "kept": kept,
            "decider": service.decider.decider,
            "at_rest": spec_of(service.policy) is None,
        }
        return service.arrays.structs("live_change_t", [change])

    def _take(self, entry: Entry) -> QueryRecord | None:
        if entry.kind is not EntryKind.CHANGED:
            return super()._take(entry)
        service, before = self._next, self._service
        assert service is not None and before is not None
        numbers = {key: number for number, key in enumerate(service.hosted)}
        self._blocks = {
            query_id: started._replace(model=numbers[self._names[started.model]])
            for query_id, started in self._blocks.items()
        }
        self._changes += 1
        if self._blocks:
            self._before.append((set(self._blocks), before))
        self._policy, self._decider, self._tables = service.policy, service.decider, service.tables
        self._decisions = DecisionWatch(service.policy, service.decider)
        self._use(service)
        self._next = None
        service.done.set()
        return None

    def _use(self, service: _Service) -> None:
        self._service, self._site = service, replace(self._site, context=service.context)
        self._names = list(service.hosted)
        self._buffers = _buffers_of(service.hosted)
        self._models = {key: one.loaded for key, one in service.hosted.items()}
        self._profiled_s = lru_cache(_BLOCKS_REMEMBERED)(partial(profiled_s, service.context.costs))
        self._watchdog.read(service.context.costs)

    def _end(self, entry: Entry) -> None:
        super()._end(entry)
        for running, _ in self._before:
            running.discard(entry.id)
        self._before = [(running, service) for running, service in self._before if running]


def _buffers_of(hosted: Mapping[str, Hosted]) -> dict[str, list[CallTables]]:
    return {key: one.buffers for key, one in hosted.items()}


def _query_of(names: Sequence[str], account: Any) -> Query:
    """Return the query of an account, whose deadline is its own."""
    qos_s = account.deadline_s - account.arrival_s
    return Query(account.id, names[account.model], account.arrival_s, qos_s)


def _client_left(has_left: bool) -> None:
    if has_left:
        raise ConnectionError("the client has closed its end of the socket")
