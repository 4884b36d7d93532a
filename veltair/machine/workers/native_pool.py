"""The gang of gang.c: blocks run without the interpreter, and their parallel loops on its workers.

The kernels of every library loaded so far launch their loops there; threads that are none of its workers,
such as those that pack weights, still get TVM's own pool.
"""

import ctypes
import os
import time
from array import array
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np

from veltair.machine.c_build import FLAGS, compile_c
from veltair.machine.workers.call_tables import BoundSample, CallTables, Led
from veltair.machine.workers.pool import (
    OUTPUT_TOLERANCE,
    STOP_S,
    Adopted,
    BlockRun,
    CoreLostError,
    Ended,
    Grant,
    KernelError,
    Notice,
    Runnable,
    Sample,
    check_cores,
)

SOURCE = Path(__file__).parent / "gang.c"

_NOTICE = Struct("<QQQQIIII")  # token, grant, time_ns, busy_ns, kind, code, ended_layers, wrong_outputs
_MOST_NOTICES = 64
GRANTS_REMEMBERED = 4096
_ADOPTED = 1
_KERNEL_FAILED, _CORE_LOST = 1, 2
_CORE_BUSY, _NO_MEMORY, _NOT_RUNNING = -2, -4, -5


class _State(ctypes.Structure):
    _fields_ = (
        ("token", ctypes.c_uint64),
        ("layer_started_ns", ctypes.c_uint64),
        ("ended_layers", ctypes.c_uint32),
        ("padding", ctypes.c_uint32 * 11),
    )


class NativePool:
    """A thread for each core, none of which needs the interpreter's lock."""

    def __init__(
        self,
        core_ids: Sequence[int],
        build_dir: Path,
        *,
        malleable: bool = False,
        checked: bool = False,
        notes: Path | None = None,
    ) -> None:
        """Start the workers. gang.c is compiled into `build_dir` if it is not there yet.

        `malleable` lets cores that a block gains help with its running layer. `checked` ends the process when
        two blocks ever hold one core. `notes` is a file that says what each worker is at, should the process
        crash: see `worker_notes.py`. Raises ValueError for cores that this process may not use,
        NativeBuildError without gcc.
        """
        check_cores(core_ids)
        self._library = _load(build_dir, checked)
        self._cores = tuple(core_ids)
        self._places = {core: index for index, core in enumerate(core_ids)}
        self._workers = lru_cache(GRANTS_REMEMBERED)(self._name_workers)
        self._led: dict[int, Led] = {}
        self._samples: dict[int, BoundSample] = {}
        self._tokens = 0
        self._notices = ctypes.create_string_buffer(_NOTICE.size * _MOST_NOTICES)
        self._handle: int | None = self._open(malleable, notes)
        states = ctypes.cast(self._library.states(self._handle), ctypes.POINTER(_State * len(core_ids)))
        self._states = states.contents

    def bind(self, runnable: Runnable, name: str) -> CallTables:
        """Return a query's room as blocks name it.

        Raises ValueError if its model's kernels have barriers within parallel loops.
        """
        if self._library.take_over() < 0:
            raise ValueError(
                f"kernels of a loaded library, {name}'s perhaps, have barriers within parallel loops, which "
                "the workers do not support; build the model anew (rule `build`)"
            )
        return CallTables(runnable, name)

    def run(self, block: BlockRun) -> None:
        """Start a block on its grant.

        Raises LookupError for a core that is not the gang's or a version that a layer lacks, ValueError for a
        first core that leads another block and for a sample of other shapes.
        """
        bound, grant = _bound(block), block.grant
        bound.refresh(block.start, grant.versions)
        bound.error = None
        workers, count, leader = self._workers(grant.cores)
        put_in = None if block.put_in is None else self._sample(block.put_in, bound).inputs
        check = None if block.check is None else self._sample(block.check, bound).answers
        self._tokens = token = self._tokens + 1
        number = self._library.start(
            self._handle,
            token,
            block.query_id % 2**64,
            bound.address,
            block.start,
            block.stop,
            workers,
            count,
            bytes(grant.versions),
            put_in,
            check,
        )
        if number < 0:
            raise self._refusal(number, block, grant)
        self._led[token] = bound.led = Led(block, token, leader, {number: grant})

    def resize(self, block: BlockRun, grant: Grant) -> None:
        """Grant a running block other cores and versions.

        Raises ValueError if the first core is another one, LookupError as `run` does.
        """
        led = _led(block)
        workers, count, leader = self._workers(grant.cores)
        if leader != led.leader:
            raise ValueError(
                f"a block keeps its first core {block.grant.cores[0]}; {grant.cores} begin otherwise"
            )
        _bound(block).refresh(block.start, grant.versions)
        number = self._library.resize(self._handle, led.token, leader, workers, count, bytes(grant.versions))
        if number < 0 and number != _NOT_RUNNING:
            raise self._refusal(number, block, grant)
        block.grant = led.grants[number] = grant

    def wait(self, timeout_s: float | None) -> Sequence[Notice]:
        """Return what has happened; nothing after `timeout_s`, a `poke` or a signal."""
        timeout_ns = -1 if timeout_s is None else int(1e9 * timeout_s)
        count = self._library.wait(self._handle, self._notices, _MOST_NOTICES, timeout_ns)
        if not count:
            return ()
        read = memoryview(self._notices)[: count * _NOTICE.size]
        return [self._notice(*fields) for fields in _NOTICE.iter_unpack(read)]

    def poke(self) -> None:
        """End a wait, or the next one, from any thread."""
        if self._handle is not None:
            self._library.poke(self._handle)

    def ended_layers(self, block: BlockRun) -> int:
        """Return how many layers of a running block have ended."""
        ended: int = self._states[_led(block).leader].ended_layers
        return ended

    def layer_started_s(self, block: BlockRun) -> float:
        """Return when the current layer of a running block began, on the monotonic clock."""
        started_ns: int = self._states[_led(block).leader].layer_started_ns
        return 1e-9 * started_ns

    def stop(self, timeout_s: float = STOP_S) -> int:
        """Let the blocks under way end and the workers go; return how many were not gone in time."""
        handle, self._handle = self._handle, None  # before the rest: other threads may still poke
        if handle is None:
            return 0
        left: int = self._library.close(handle, int(1e9 * timeout_s))
        return left

    def _open(self, malleable: bool, notes: Path | None) -> int:
        cores = (ctypes.c_uint32 * len(self._cores))(*self._cores)
        error, failed = ctypes.c_int(), ctypes.c_int()
        path = None if notes is None else os.fsencode(notes)
        handle: int | None = self._library.open(
            cores, len(cores), malleable, OUTPUT_TOLERANCE, path, ctypes.byref(error), ctypes.byref(failed)
        )
        if handle is not None:
            return handle
        why = os.strerror(error.value)
        if failed.value >= 0:
            raise ValueError(f"a worker cannot be pinned to core {self._cores[failed.value]}: {why}")
        raise OSError(
            error.value, f"cannot start workers on cores {self._cores}: {why}", notes and str(notes)
        )

    def _name_workers(self, cores: tuple[int, ...]) -> tuple[bytes, int, int]:
        """Return the places of some cores' workers as C reads them, how many there are, and the first."""
        try:
            indices = array("H", [self._places[core] for core in cores])
        except KeyError as error:
            raise LookupError(f"core {error} is not one of {self._cores}") from None
        return indices.tobytes(), len(indices), indices[0]

    def _sample(self, sample: Sample, bound: CallTables) -> BoundSample:
        if id(sample) not in self._samples:
            self._samples[id(sample)] = BoundSample(sample)
        known = self._samples[id(sample)]
        known.check(bound)
        return known

    def _notice(
        self,
        token: int,
        number: int,
        time_ns: int,
        busy_ns: int,
        kind: int,
        code: int,
        ended_layers: int,
        wrong_outputs: int,
    ) -> Notice:
        if kind == _ADOPTED:
            led = self._led[token]
            return Adopted(led.block, led.grants[number], 1e-9 * time_ns)
        led = self._led.pop(token)
        error = self._error(code, led) if code else None
        return Ended(led.block, error, ended_layers, 1e-9 * time_ns, 1e-9 * busy_ns, wrong_outputs)

    def _error(self, code: int, led: Led) -> Exception:
        text = self._library.error(self._handle, led.leader).decode(errors="replace")
        if code == _CORE_LOST:
            return CoreLostError(
                f"the worker of core {text} was moved to another core; give this process its cores back "
                "(taskset, cgroup) and run again"
            )
        return _bound(led.block).error or KernelError(text)

    def _refusal(self, code: int, block: BlockRun, grant: Grant) -> Exception:
        if code == _CORE_BUSY:
            return ValueError(f"core {grant.cores[0]} leads another block; wait for its end")
        if code == _NO_MEMORY:
            return MemoryError(f"no memory for a grant of cores {grant.cores}")
        return LookupError(
            f"layers [{block.start}, {block.stop}) with versions {grant.versions}: the model has no "
            "such layers, or a layer no such version"
        )


def _led(block: BlockRun) -> Led:
    led = _bound(block).led
    if led is None or led.block is not block:
        raise LookupError(f"the block of query {block.query_id} does not run; start it first")
    return led


def _bound(block: BlockRun) -> CallTables:
    if not isinstance(block.bound, CallTables):
        raise TypeError(f"the block of query {block.query_id} was bound by other workers; bind it with these")
    return block.bound


class NullKernel:
    """A kernel that does nothing, to measure what all else costs. To a gang it looks like one of TVM's."""

    def __init__(self, build_dir: Path, *, passes_time: bool = False) -> None:
        """Take it from gang.c, which is compiled into `build_dir` if it is not there yet.

        With `passes_time` it takes 0.2 ms, longer than a decision.
        """
        library = _load(build_dir, checked=False)
        self._seconds = 2e-4 if passes_time else 0.0
        self._object = np.zeros(4, np.uint64)  # the header of an object, then its safe call
        self._object[3] = library.pass_time if passes_time else library.nothing

    def __chandle__(self) -> int:
        """Return the address of what gangs take for a function object."""
        return int(self._object.ctypes.data)

    def __call__(self) -> None:
        """Do as much from Python."""
        time.sleep(self._seconds)


class _Library:
    """gang.c, compiled and loaded."""

    def __init__(self, path: Path) -> None:
        # Calls of a microsecond keep the interpreter's lock: to give it up and get it back takes longer.
        brief, lengthy = ctypes.PyDLL(str(path)), ctypes.CDLL(str(path))
        pointer, size, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
        i64, text, number = ctypes.c_int64, ctypes.c_char_p, ctypes.c_int
        self.open = _function(
            lengthy.gang_open, pointer, pointer, size, number, ctypes.c_double, text, pointer, pointer
        )
        self.close = _function(lengthy.gang_close, number, pointer, i64)
        self.wait = _function(lengthy.gang_wait, number, pointer, pointer, number, i64)
        self.take_over = _function(lengthy.gang_take_over, number)
        self.start = _function(
            brief.gang_start, i64, pointer, u64, u64, pointer, size, size, text, size, text, pointer, pointer
        )
        self.resize = _function(brief.gang_resize, i64, pointer, u64, size, text, size, text)
        self.poke = _function(brief.gang_poke, None, pointer)
        self.states = _function(brief.gang_states, pointer, pointer)
        self.pass_time: int = ctypes.cast(brief.gang_pass_time, ctypes.c_void_p).value or 0
        self.nothing: int = ctypes.cast(brief.gang_nothing, ctypes.c_void_p).value or 0
        self.error = _function(brief.gang_error, text, pointer, size)


def _function(function: Any, result: Any, *arguments: Any) -> Any:
    function.restype, function.argtypes = result, arguments
    return function


@lru_cache
def _load(build_dir: Path, checked: bool) -> _Library:
    check = ("-DGANG_CHECK",) if checked else ()
    return _Library(compile_c(SOURCE, build_dir, (*FLAGS, *check, "-shared", "-fPIC")))
