import os
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.builders import make_costs
from tests.support.serving.pool_builders import launch_workers
from veltair.compiler.frontend.model import Model
from veltair.machine.costs.table import CostTable
from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.models.buffers import layers_of
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.pool import on_cores
from veltair.serving.engine.open_engine import Hosted, OpenEngine, SlotAddresses
from veltair.serving.loop.policy import Context, Policy
from veltair.serving.policies.presets import make_policy

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]
REQUEST = struct.Struct("<IIQqq")
OUTCOME = struct.Struct("<QqqdII")
ARRIVAL, CANCEL = 1, 3
SERVED, REJECTED, UNFINISHED = range(3)
SLOTS = 4
IN_C = "veltair.serving.policies.adaptive:VeltairFULL"
IN_PYTHON = "veltair.serving.policies.lookahead:Lookahead"
POLICIES = [
    IN_C,
    IN_PYTHON,
    "baselines.planaria:Planaria",
    "baselines.preemptive_edf:PreemptiveEdf",
    "baselines.layer_wise:LayerWise",
    "baselines.fcfs_min:FcfsMin",
]


class Outcome(NamedTuple):
    sequence: int
    began_ns: int
    ended_ns: int
    core_s: float
    ending: int
    blocks: int


@dataclass
class Slots:
    """Memory for requests of one model, its first slot of number `first`."""

    model: LoadedModel
    first: int
    inputs: list[NDArray[Any]] = field(default_factory=list)
    outputs: list[NDArray[Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        instance = self.model.instance()
        (value,) = instance.model.plan.inputs
        (output,) = instance.read_outputs()
        for _ in range(SLOTS):
            self.inputs.append(np.zeros(value.shape, value.dtype))
            self.outputs.append(np.full_like(output, np.nan))

    @property
    def addresses(self) -> list[SlotAddresses]:
        return [
            SlotAddresses(self.first + number, (one.ctypes.data,), (other.ctypes.data,))
            for number, (one, other) in enumerate(zip(self.inputs, self.outputs, strict=True))
        ]


def costs_of(model: LoadedModel) -> CostTable:
    counts = tuple(range(1, len(CORES) + 1))
    versions = [len(model.plan.of(layer)) for layer in range(len(model.plan.layers))]
    seconds = np.full((len(versions), max(versions), len(counts), 1), np.nan)
    for layer, count in enumerate(versions):
        # Its first version is the fastest of each layer: all policies choose it, whatever the pressure is.
        seconds[layer, :count] = 1e-4 * np.arange(1, count + 1)[:, None, None]
    return make_costs({"tiny": seconds}, counts, (0.0,))


class Service:
    """An engine that a thread polls, and the client's end of its socket."""

    def __init__(self, path: str) -> None:
        machine = Machine("toy", 1, (CORES,), 2**19, 2**24, 1e11, 1e11, validated=False)
        self.error: Exception | None = None
        self.hosted: dict[str, Hosted] = {}
        self.slots: dict[str, Slots] = {}
        self._costs: CostTable | None = None
        self._machine, self._path = machine, path
        self.engine: OpenEngine | None = None
        self.client, self._channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.client.settimeout(20)
        self._thread = threading.Thread(target=self._poll)
        self._next, self._is_over = 0, False

    def add(self, key: str, model: LoadedModel, qos_s: float = 10.0) -> None:
        costs = costs_of(model)
        if self.engine is None:
            self.engine = OpenEngine(self._machine, costs, self._make, ObservedSlowdown(), launch_workers)
        slots = self.slots[key] = Slots(model, self._next)
        self._next += SLOTS
        zeros = tuple(np.zeros(value.shape, value.dtype) for value in model.plan.inputs)
        served = Model(key, layers_of(model.plan), qos_s)
        self.hosted[key] = self.engine.host(served, model, costs, slots.addresses, zeros)
        self.change()

    def remove(self, key: str) -> None:
        del self.hosted[key]
        self.change()

    def change(self) -> None:
        assert self.engine is not None
        done = self.engine.serve_models(dict(self.hosted), self._channel.fileno())
        if not self._thread.is_alive():
            self._thread.start()
        assert done.wait(20), self.error

    def ask(self, sequence: int, key: str, slot: int, due_s: float = 10.0) -> None:
        now_ns = time.monotonic_ns()
        number, due_ns = self.slots[key].first + slot, now_ns + round(1e9 * due_s)
        self.client.send(REQUEST.pack(ARRIVAL, number, sequence, now_ns, due_ns))

    def cancel(self, sequence: int) -> None:
        self.client.send(REQUEST.pack(CANCEL, 0, sequence, 0, 0))

    def outcomes(self, count: int) -> dict[int, Outcome]:
        found: dict[int, Outcome] = {}
        while len(found) < count:
            for fields in OUTCOME.iter_unpack(self.client.recv(1 << 16)):
                found[fields[0]] = Outcome(*fields)
        return found

    def stop(self) -> None:
        self._is_over = True
        self.client.close()
        if self._thread.is_alive():
            self._thread.join(20)
        if self.engine is not None:
            self.engine.stop()

    def _make(self, context: Context) -> Policy:
        return make_policy(self._path, context, "tuned", {})

    def _poll(self) -> None:
        assert self.engine is not None
        try:
            while not self._is_over:
                self.engine.poll()
        except Exception as error:
            self.error = error


@pytest.fixture
def services() -> Iterator[list[Service]]:
    made: list[Service] = []
    yield made
    for service in made:
        service.stop()


def answers(model: LoadedModel, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return the outputs of each input by itself, by the versions that all policies choose here."""
    instance, versions = model.instance(), [0] * len(model.plan.layers)
    found = []
    with on_cores(CORES):
        for values in inputs:
            instance.set_inputs((values,))
            found.append(instance.run(versions)[0])
    return found


def drawn(model: LoadedModel, count: int, seed: int) -> list[NDArray[Any]]:
    generator = np.random.default_rng(seed)
    (value,) = model.plan.inputs
    return [generator.standard_normal(value.shape, dtype=np.float32) for _ in range(count)]


def serve_all(
    service: Service, keys: Sequence[str], inputs: Sequence[NDArray[Any]], first: int
) -> Mapping[tuple[str, int], NDArray[Any]]:
    """Ask for all inputs of each model at once, and return the outputs."""
    asked = {}
    for key in keys:
        for slot, values in enumerate(inputs):
            service.slots[key].inputs[slot][:] = values
            service.slots[key].outputs[slot][:] = np.nan
            asked[first + len(asked)] = (key, slot)
    for sequence, (key, slot) in asked.items():
        service.ask(sequence, key, slot)
    found = service.outcomes(len(asked))
    assert {sequence: one.ending for sequence, one in found.items()} == dict.fromkeys(asked, SERVED)
    return {(key, slot): service.slots[key].outputs[slot].copy() for key, slot in asked.values()}


@pytest.mark.parametrize("path", POLICIES)
def test_answers_are_those_of_a_query_alone_while_models_come_and_go(
    path: str, tiny_loaded: LoadedModel, services: list[Service]
) -> None:
    services.append(service := Service(path))
    inputs = drawn(tiny_loaded, SLOTS, seed=1)
    right = answers(tiny_loaded, inputs)
    for number in range(4):
        service.add(f"shop/{number}", tiny_loaded)
        keys = list(service.hosted)
        given = serve_all(service, keys, inputs, first=100 * number)
        for (_, slot), output in given.items():
            assert output.tobytes() == right[slot].tobytes()
        if number == 2:
            service.remove("shop/0")
    assert service.error is None


@pytest.mark.parametrize("path", POLICIES[:4])
def test_requests_under_way_go_on_while_models_come_and_go(
    path: str, tiny_loaded: LoadedModel, services: list[Service]
) -> None:
    services.append(service := Service(path))
    service.add("first", tiny_loaded)
    service.add("stays", tiny_loaded)
    inputs = drawn(tiny_loaded, SLOTS, seed=2)
    right = answers(tiny_loaded, inputs)
    for slot, values in enumerate(inputs):
        service.slots["stays"].inputs[slot][:] = values
    asked, open_now, ended = 0, [0] * SLOTS, 0
    changes = threading.Thread(target=lambda: [_come_and_go(service, tiny_loaded, n) for n in range(6)])
    changes.start()
    while changes.is_alive() or ended < asked:
        for slot in range(SLOTS):
            if not open_now[slot] and changes.is_alive():
                service.ask(SLOTS * asked + slot, "stays", slot)
                open_now[slot], asked = 1, asked + 1
        if ended == asked:
            continue
        for sequence, outcome in service.outcomes(1).items():
            slot = sequence % SLOTS
            assert outcome.ending == SERVED
            assert service.slots["stays"].outputs[slot].tobytes() == right[slot].tobytes()
            service.slots["stays"].outputs[slot][:] = np.nan
            open_now[slot], ended = 0, ended + 1
    changes.join()
    assert service.error is None
    assert asked > 20


def _come_and_go(service: Service, model: LoadedModel, number: int) -> None:
    service.add(f"guest{number}", model)
    service.remove("first" if number == 0 else f"guest{number - 1}")


@pytest.mark.parametrize("path", [IN_C, IN_PYTHON])
def test_a_request_that_has_not_begun_can_be_cancelled(
    path: str, tiny_loaded: LoadedModel, services: list[Service]
) -> None:
    services.append(service := Service(path))
    service.add("net", tiny_loaded)
    for sequence in range(40):  # far more than there are cores
        service.ask(sequence, "net", sequence % SLOTS)
    for sequence in range(40):
        service.cancel(sequence)
    found = service.outcomes(40)
    endings = [found[sequence].ending for sequence in range(40)]
    assert set(endings) == {SERVED, UNFINISHED}
    for outcome in found.values():
        if outcome.ending == UNFINISHED:
            assert outcome.began_ns == outcome.ended_ns
            assert (outcome.blocks, outcome.core_s) == (0, 0.0)
    serve_all(service, ["net"], drawn(tiny_loaded, 1, seed=0), first=100)


def test_each_request_has_a_deadline_of_its_own(tiny_loaded: LoadedModel, services: list[Service]) -> None:
    seen: dict[int, float] = {}

    class Watching:
        def __init__(self, context: Context) -> None:
            self._policy = make_policy(IN_PYTHON, context, "tuned", {})

        def allocate(self, snapshot: Any) -> Any:
            seen.update({one.query.id: one.query.qos_s for one in snapshot.pending})
            return self._policy.allocate(snapshot)

    services.append(service := Service(IN_C))
    service._make = Watching  # type: ignore[method-assign]
    service.add("net", tiny_loaded)
    service.ask(1, "net", 0, due_s=0.5)
    service.ask(2, "net", 1, due_s=2.0)
    service.outcomes(2)
    assert seen[1] == pytest.approx(0.5, abs=0.1)
    assert seen[2] == pytest.approx(2.0, abs=0.1)


def test_an_engine_whose_client_leaves_says_so(tiny_loaded: LoadedModel, services: list[Service]) -> None:
    services.append(service := Service(IN_C))
    service.add("net", tiny_loaded)
    service.client.close()
    service._thread.join(20)
    assert isinstance(service.error, ConnectionError)
