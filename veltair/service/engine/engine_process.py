"""The engine process: it holds the models, decides and computes; no byte of a client is parsed here.

`python -m veltair.service.engine.engine_process SETTINGS FD` serves the one front that connects to the
listening socket of that descriptor, and ends with it. The main thread watches the engine, another one adds
and removes models for the front.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue

import msgspec

from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.native_pool import NativePool
from veltair.service.engine.artifact import Artifact, read_artifact, tensors
from veltair.service.engine.lifetime import end_with_parent
from veltair.service.engine.link import EngineRefusalError, ServedModel
from veltair.service.engine.messages import (
    Added,
    AddModel,
    Hello,
    Refused,
    Removed,
    RemoveModel,
    Welcome,
    receive_order,
    send,
)
from veltair.service.engine.settings import EngineSettings
from veltair.service.engine.slots import SlotMemory, layout_of
from veltair.serving.engine.open_engine import Hosted, OpenEngine
from veltair.serving.engine.watchdog import EngineError
from veltair.serving.loop.policy_error import PolicyError

# Of the thread that loads models: kernels, and what decides, come first.
NICENESS = 10
_LOOK_S = 0.2
# So long does a change of the models take at most: a policy in Python waits for the longest block.
CHANGE_S = 60.0


class EngineProcess:
    """The models of one front, and the engine that serves them while there are some."""

    def __init__(self, settings: EngineSettings, front: socket.socket) -> None:
        """Serve the front at the other end of a socket."""
        self._settings, self._front = settings, front
        self._cores = tuple(sorted(os.sched_getaffinity(0)))
        self._engine: OpenEngine | None = None
        # What the main thread is to watch from now on, and the event to set once it does.
        self._watched = SimpleQueue[tuple[OpenEngine | None, threading.Event]]()
        self._is_over = False
        self._hosted: dict[str, Hosted] = {}
        self._memory: dict[str, SlotMemory] = {}
        self._machine: Machine | None = None
        self._requests: socket.socket | None = None

    def run(self) -> None:
        """Serve until the front is gone. Raises EngineError and PolicyError if the engine cannot go on."""
        loader = threading.Thread(target=self._serve_front, name="loader", daemon=True)
        loader.start()
        watched: OpenEngine | None = None
        while not self._is_over:
            with suppress(Empty):
                watched, heard = self._watched.get(watched is None, _LOOK_S)
                heard.set()
            try:
                if watched is not None:
                    watched.poll()
            except ConnectionError:
                break  # the front is gone
        if watched is not None:
            watched.stop()

    # What the front asks for, on a thread of its own.

    def _serve_front(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            while not self._is_over:
                order, files = receive_order(self._front)
                if order is None:
                    break
                try:
                    match order:
                        case Hello():
                            (file,) = files
                            self._requests = socket.socket(fileno=file)
                            send(self._front, Welcome(self._settings.name, len(self._cores)))
                        case AddModel():
                            added, memory = self._add(order)
                            send(self._front, added, [memory.file])
                        case RemoveModel():
                            self._remove(order.key)
                            send(self._front, Removed())
                except EngineRefusalError as error:
                    send(self._front, Refused(str(error)))
        finally:
            self._is_over = True

    def _add(self, order: AddModel) -> tuple[Added, SlotMemory]:
        began_s = time.monotonic()
        if order.key in self._hosted:
            raise EngineRefusalError(f"{order.key} is served already")
        artifact = read_artifact(Path(order.folder), self._cores)
        machine = artifact.machine
        if self._machine is not None and self._machine != machine:
            raise EngineRefusalError(
                f"the model was profiled on {machine.name} as it was then; the others that are served were "
                "profiled otherwise: profile it anew"
            )
        inputs, outputs = tensors(artifact.loaded.plan)
        memory = SlotMemory(layout_of(inputs, outputs), order.slots)
        first = self._free_numbers(order.slots)
        try:
            hosted = self._host(order, artifact, memory, first)
            self._change({**self._hosted, order.key: hosted}, machine)
        except Exception as error:  # of a kernel, or of a policy: the others are served as before
            memory.close()
            if not self._hosted:
                self._rest()
            raise EngineRefusalError(f"the model cannot be served beside the others: {error}") from error
        self._memory[order.key] = memory
        served = ServedModel(
            *(order.key, inputs, outputs, order.qos_s, artifact.alone_s, artifact.core_s),
            *(artifact.loaded.held_bytes, hosted.buffer_bytes, order.slots, time.monotonic() - began_s),
        )
        return Added(served, first), memory

    def _free_numbers(self, count: int) -> int:
        """Return the first of so many numbers in a row that no slot has."""
        first = 0
        for taken in sorted(slot.number for one in self._hosted.values() for slot in one.slots):
            if taken >= first + count:
                break
            first = taken + 1
        return first

    def _host(self, order: AddModel, artifact: Artifact, memory: SlotMemory, first: int) -> Hosted:
        if self._engine is None:
            launch = partial(NativePool, build_dir=Path(self._settings.build_folder))
            self._engine = OpenEngine(
                *(artifact.machine, artifact.costs, self._settings.policy, ObservedSlowdown(), launch),
                placement=self._settings.placement,
            )
        model = artifact.model(order.key, order.qos_s)
        slots = memory.addresses(first)
        return self._engine.host(model, artifact.loaded, artifact.costs, slots, artifact.samples)

    def _remove(self, key: str) -> None:
        if key not in self._hosted:
            raise EngineRefusalError(f"{key} is not served")
        self._change({other: one for other, one in self._hosted.items() if other != key}, self._machine)
        self._memory.pop(key).close()

    def _change(self, hosted: dict[str, Hosted], machine: Machine | None) -> None:
        if not hosted:
            self._rest()
        else:
            assert self._engine is not None and self._requests is not None
            done = self._engine.serve_models(hosted, self._requests.fileno())
            self._watched.put((self._engine, threading.Event()))
            if not done.wait(CHANGE_S):
                raise EngineRefusalError("the models could not be changed in time; ask again")
        self._hosted, self._machine = hosted, machine if hosted else None

    def _rest(self) -> None:
        """Stop the engine: there is no model left."""
        heard = threading.Event()
        self._watched.put((None, heard))
        heard.wait()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one front; return 0 once it has left, 1 if the engine broke down."""
    settings, file = sys.argv[1:] if arguments is None else arguments
    end_with_parent()
    with socket.socket(fileno=int(file)) as listening:
        front, _ = listening.accept()
    process = EngineProcess(msgspec.json.decode(settings, type=EngineSettings), front)
    try:
        process.run()
    except (EngineError, PolicyError) as error:
        print(f"error: the engine broke down: {error}", file=sys.stderr, flush=True)
        # A worker may hang, and would keep the process from ending.
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
