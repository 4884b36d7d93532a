"""The loop in C over a backend that ends blocks before their last layer, as it does where a policy yields."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veltair.machine.c_library import CLibrary
from veltair.serving.simulator.native_core import load

LAYERS = 3


class OneLayerASecond:
    """One core that ends each block after its first layer, a second after it began, and who starts all.

    `started` holds the first and the last layer of each block.
    """

    def __init__(self, library: CLibrary) -> None:
        self.started: list[tuple[int, int]] = []
        self._ffi, self._constants = library.ffi, library.functions
        self._running: list[tuple[float, Any]] = []
        new, callback = self._ffi.new, self._ffi.callback
        ended = new("int32_t[1]")
        self._kept = [
            callback("event_kind_t(void *, double, event_t *)", self._advance),
            callback("int(void *, const command_t *, double)", self._act),
            callback("double(void *)", lambda _: 0.0),
            callback("const int32_t *(void *)", lambda _: ended),
            callback("void(void *)", lambda _: None),
            callback("int(void *, const view_t *, commands_t *)", self._decide),
        ]
        advance, act, pressure, progress, clear, decide = self._kept
        self.backend = new("backend_t *", (self._ffi.NULL, advance, act, pressure, progress, clear))
        self.decider = new("decider_t *", (decide, self._ffi.NULL))

    def _advance(self, _: Any, limit_s: float, event: Any) -> int:
        if not self._running or self._running[0][0] > limit_s:
            return int(self._constants.NOTHING)
        end_s, account = self._running.pop()
        event.time_s, event.slot, event.next_layer = end_s, account.slot, account.first + 1
        event.kind = self._constants.BLOCK_END
        return int(self._constants.BLOCK_END)

    def _act(self, _: Any, command: Any, now_s: float) -> int:
        self.started.append((command.account.first, command.account.stop))
        self._running.append((now_s + 1.0, command.account))
        return 0

    def _decide(self, _: Any, view: Any, commands: Any) -> int:
        if view.free_cores and view.waiting:
            if not commands.items:  # freed by C
                allocate = ctypes.CDLL(None).malloc
                allocate.restype = ctypes.c_void_p
                commands.items = self._ffi.cast("command_t *", allocate(self._ffi.sizeof("command_t")))
            start = {"account": view.oldest, "kind": self._constants.START, "stop": LAYERS}
            commands.items[0] = self._ffi.new("command_t *", {**start, "cores": 1, "wanted": 1})[0]
            commands.count = commands.capacity = 1
        return 0


@pytest.fixture
def library(c_build: Path) -> CLibrary:
    return load(c_build)


def records(library: CLibrary, core: OneLayerASecond, arrivals_s: list[float]) -> list[Any]:
    """Return the records of queries of one model."""
    count, functions, new = len(arrivals_s), library.functions, library.ffi.new
    layers, own = new("int32_t *", LAYERS), np.zeros(1)  # of which the backend keeps nothing
    run = {"layers": layers, "queries": count, "close_s": 1e9, "cores": 1}
    loop = functions.loop_new(core.backend, core.decider, new("run_t *", run))
    columns = np.arange(count), np.zeros(count, np.int32), np.array(arrivals_s), np.full(count, 9.0), own
    functions.loop_add_arrivals(loop, new("arrivals_t *", [*map(library.pointer, columns), count]))
    assert functions.loop_run(loop) == functions.DONE
    state = functions.loop_state(loop)
    found = [new("record_t *", state.records[index]) for index in range(state.record_count)]
    functions.loop_free(loop)
    return found


def test_a_query_goes_on_where_its_block_ended_and_is_served_after_its_last_layer(library: CLibrary) -> None:
    core = OneLayerASecond(library)
    (record,) = records(library, core, [0.5])
    assert core.started == [(0, 3), (1, 3), (2, 3)]
    assert (record.ending, record.start_s, record.end_s) == (library.functions.SERVED, 0.5, 3.5)
    assert (record.blocks, record.core_s) == (3, 3.0)


def test_a_query_whose_block_ended_early_waits_by_its_age(library: CLibrary) -> None:
    # Query 1 comes while the first layer of query 0 runs, and waits for all of them.
    core = OneLayerASecond(library)
    first, second = records(library, core, [0.0, 0.5])
    assert core.started == [(0, 3), (1, 3), (2, 3)] * 2
    assert (first.end_s, second.start_s, second.end_s) == (3.0, 3.0, 6.0)
