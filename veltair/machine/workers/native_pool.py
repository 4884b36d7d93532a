"""The workers of pool.c: blocks run without the interpreter, and their parallel loops on these workers.

The kernels of every library loaded so far launch their loops there; threads that are none of its workers,
such as those that pack weights, still get TVM's own pool.
"""

import os
import time
from array import array
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from veltair.machine.c_build import FLAGS
from veltair.machine.c_library import CLayoutError, CLibrary, load_library
from veltair.machine.workers.call_tables import ActiveBlock, BoundSample, CallTables
from veltair.machine.workers.crash_notes import CRASH_NOTE
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

SOURCE = Path(__file__).with_name("pool.c")
HEADERS = [SOURCE.with_name(name) for name in ("pool_types.h", "pool.h")]

GRANTS_REMEMBERED = 4096
_MOST_NOTICES = 64
# Of pools whose kernels did not end: their workers may read the buffers until the process ends.
_HUNG: "list[NativePool]" = []


class NativePool:
    """A thread for each core, none of which needs the interpreter's lock."""

    def __init__(
        self,
        core_ids: Sequence[int],
        build_dir: Path,
        *,
        checked: bool = False,
        notes: Path | None = None,
        spins: bool = False,
    ) -> None:
        """Start the workers. pool.c is compiled into `build_dir` if it is not there yet.

        `checked` ends the process when two blocks ever hold one core. `notes` is a file that says which layer
        each worker runs, should the process crash: see `crash_notes.py`. Workers that `spins` look for work
        all the time. Raises ValueError for cores that
        this process may not use, NativeBuildError without gcc.
        """
        check_cores(core_ids)
        self.build_dir = build_dir
        self._library = _load(build_dir, checked)
        self._functions = self._library.functions
        # Calls of a microsecond keep the interpreter's lock: to give it up and get it back takes longer.
        self._start, self._resize, self._yield, self._poke = map(
            self._library.brief, ("pool_start", "pool_resize", "pool_yield", "pool_poke")
        )
        self._cores = tuple(core_ids)
        self._indices = {core: index for index, core in enumerate(core_ids)}
        self._workers = lru_cache(GRANTS_REMEMBERED)(self._name_workers)
        self._active: dict[int, ActiveBlock] = {}
        self._samples: dict[int, BoundSample] = {}
        self._tokens = 0
        self._notices = self._library.ffi.new("notice_t[]", _MOST_NOTICES)
        self._pool = self._open(notes)
        self._address: int | None = self._library.address(self._pool)
        self._states = self._functions.pool_states(self._pool)
        if spins:
            self._functions.pool_let_spin(self._pool)

    def bind(self, runnable: Runnable, name: str) -> CallTables:
        """Return a query's buffers as blocks name them.

        Raises ValueError if its model's kernels have barriers within parallel loops.
        """
        if self._functions.pool_take_over() < 0:
            raise ValueError(
                f"kernels of a loaded library, {name}'s perhaps, have barriers within parallel loops, which "
                "the workers do not support; build the model anew (rule `build`)"
            )
        return CallTables(self._library, runnable, name)

    def run(self, block: BlockRun) -> None:
        """Start a block on its grant.

        Raises LookupError for a core that is not a worker's or a version that a layer lacks, ValueError for a
        first core that leads another block and for a sample of other shapes.
        """
        tables, grant = _tables(block), block.grant
        tables.refresh(block.start, grant.versions)
        tables.hold_back(block.start, block.stop, block.least_s)
        tables.error = None
        workers, count, leader = self._workers(grant.cores)
        put_in = None if block.put_in is None else self._sample(block.put_in, tables).inputs
        check = None if block.check is None else self._sample(block.check, tables).answers
        self._tokens = token = self._tokens + 1
        number = self._start(
            self._address,
            token,
            block.query_id % 2**64,
            tables.address,
            block.start,
            block.stop,
            workers,
            count,
            bytes(grant.versions),
            put_in,
            check,
            None,
        )
        if number < 0:
            raise self._refusal(number, block, grant)
        self._active[token] = tables.active = ActiveBlock(block, token, leader, {number: grant})

    def resize(self, block: BlockRun, grant: Grant) -> None:
        """Grant a running block other cores and versions.

        Raises ValueError if the first core is another one, LookupError as `run` does.
        """
        active = _active(block)
        workers, count, leader = self._workers(grant.cores)
        if leader != active.leader:
            raise ValueError(
                f"a block keeps its first core {block.grant.cores[0]}; {grant.cores} begin otherwise"
            )
        _tables(block).refresh(block.start, grant.versions)
        versions = bytes(grant.versions)
        number = self._resize(self._address, active.token, leader, workers, count, versions)
        if number < 0 and number != self._functions.NOT_RUNNING:
            raise self._refusal(number, block, grant)
        block.grant = active.grants[number] = grant

    def yield_block(self, block: BlockRun) -> None:
        """Let a running block end at its next layer end, one that has just ended as it did."""
        active = _active(block)
        self._yield(self._address, active.token, active.leader)

    def wait(self, timeout_s: float | None) -> Sequence[Notice]:
        """Return what has happened; nothing after `timeout_s`, a `poke` or a signal."""
        timeout_ns = -1 if timeout_s is None else int(1e9 * timeout_s)
        count = self._functions.pool_wait(self._pool, self._notices, _MOST_NOTICES, timeout_ns)
        return [self._notice(self._notices[index]) for index in range(count)]

    def poke(self) -> None:
        """End a wait, or the next one, from any thread."""
        if self._address is not None:
            self._poke(self._address)

    def ended_layers(self, block: BlockRun) -> int:
        """Return how many layers of a running block have ended."""
        ended: int = self._states[_active(block).leader].ended_layers
        return ended

    def layer_started_s(self, block: BlockRun) -> float:
        """Return when the current layer of a running block began, on the monotonic clock."""
        started_ns: int = self._states[_active(block).leader].layer_started_ns
        return 1e-9 * started_ns

    @property
    def in_c(self) -> tuple[int, int]:
        """The addresses of the `pool_t` and of its `pool_functions_t`, for what decides in C."""
        return self._library.address(self._pool), self._library.address(self._functions.pool_functions())

    @property
    def states(self) -> Any:
        """What each worker is at, by its index: `state_t`, which may change at any time."""
        return self._states

    def bind_sample(self, sample: Sample, tables: CallTables) -> BoundSample:
        """Return a sample's arrays for C, kept as long as this object.

        Raises ValueError if they are not like the inputs and outputs of these buffers.
        """
        return self._sample(sample, tables)

    def fault(self, code: int, leader: int, tables: CallTables) -> Exception:
        """Return the error behind the code of an ended block, led by the worker of that index."""
        text: Any = self._library.ffi.string(self._functions.pool_error(self._pool, leader))
        said = text.decode(errors="replace")
        if code == self._functions.CORE_LOST:
            return CoreLostError(
                f"the worker of core {said} was moved to another core; give this process its cores back "
                "(taskset, cgroup) and run again"
            )
        return tables.error or KernelError(said)

    def stop(self, timeout_s: float = STOP_S) -> int:
        """Let running blocks end and the workers go; return how many were not gone in time."""
        address, self._address = self._address, None  # before the rest: other threads may still poke
        if address is None:
            return 0
        left: int = self._functions.pool_close(self._pool, int(1e9 * timeout_s))
        if left:
            _HUNG.append(self)
        return left

    def _open(self, notes: Path | None) -> Any:
        ffi = self._library.ffi
        error, failed = ffi.new("int *"), ffi.new("int *")
        path = ffi.NULL if notes is None else os.fsencode(notes)
        pool = self._functions.pool_open(
            list(self._cores), len(self._cores), OUTPUT_TOLERANCE, path, error, failed
        )
        if pool:
            return pool
        why = os.strerror(error[0])
        if failed[0] >= 0:
            raise ValueError(f"a worker cannot be pinned to core {self._cores[failed[0]]}: {why}")
        raise OSError(error[0], f"cannot start workers on cores {self._cores}: {why}", notes and str(notes))

    def _name_workers(self, cores: tuple[int, ...]) -> tuple[bytes, int, int]:
        """Return the indices of some cores' workers as C reads them, how many there are, and the first."""
        try:
            indices = array("H", [self._indices[core] for core in cores])
        except KeyError as error:
            raise LookupError(f"core {error} is not one of {self._cores}") from None
        return indices.tobytes(), len(indices), indices[0]

    def _sample(self, sample: Sample, tables: CallTables) -> BoundSample:
        if id(sample) not in self._samples:
            self._samples[id(sample)] = BoundSample(sample)
        known = self._samples[id(sample)]
        known.check(tables)
        return known

    def _notice(self, notice: Any) -> Notice:
        """Return what a `notice_t` says."""
        time_s = 1e-9 * notice.time_ns
        if notice.kind == self._functions.ADOPTED:
            active = self._active[notice.token]
            return Adopted(active.block, active.grants[notice.number], time_s)
        active = self._active.pop(notice.token)
        error = self.fault(notice.code, active.leader, _tables(active.block)) if notice.code else None
        busy_s = 1e-9 * notice.busy_ns
        return Ended(active.block, error, notice.ended_layers, time_s, busy_s, notice.wrong_outputs)

    def _refusal(self, code: int, block: BlockRun, grant: Grant) -> Exception:
        if code == self._functions.CORE_BUSY:
            return ValueError(f"core {grant.cores[0]} leads another block; wait for its end")
        if code == self._functions.NO_GRANT:
            return MemoryError(f"no memory for a grant of cores {grant.cores}")
        return LookupError(
            f"layers [{block.start}, {block.stop}) with versions {grant.versions}: the model has no "
            "such layers, or a layer no such version"
        )


def _active(block: BlockRun) -> ActiveBlock:
    active = _tables(block).active
    if active is None or active.block is not block:
        raise LookupError(f"the block of query {block.query_id} does not run; start it first")
    return active


def _tables(block: BlockRun) -> CallTables:
    if not isinstance(block.buffers, CallTables):
        raise TypeError(f"the block of query {block.query_id} was bound by other workers; bind it with these")
    return block.buffers


class NullKernel:
    """A kernel that does nothing, to measure what all else costs. To workers it looks like one of TVM's."""

    def __init__(self, build_dir: Path, *, passes_time: bool = False) -> None:
        """Take it from pool.c, which is compiled into `build_dir` if it is not there yet.

        With `passes_time` it takes 0.2 ms, longer than a decision.
        """
        library = _load(build_dir, checked=False)
        functions = library.functions
        self._seconds = 2e-4 if passes_time else 0.0
        # The header of a function object, then its safe call.
        self._object = np.zeros(functions.OBJECT_HEADER_BYTES // 8 + 1, np.uint64)
        self._object[-1] = library.address(
            functions.pool_pass_time if passes_time else functions.pool_nothing
        )

    def __chandle__(self) -> int:
        """Return the address of what workers take for a function object."""
        return int(self._object.ctypes.data)

    def __call__(self) -> None:
        """Do as much from Python."""
        time.sleep(self._seconds)


@lru_cache
def _load(build_dir: Path, checked: bool) -> CLibrary:
    check = ("-DPOOL_CHECK",) if checked else ()
    library = load_library(SOURCE, HEADERS, build_dir, (*FLAGS, *check, "-shared", "-fPIC"))
    if library.dtype("crash_note_t") != CRASH_NOTE:
        raise CLayoutError(
            f"crash_note_t of {HEADERS[0].name} is {library.dtype('crash_note_t')}, CRASH_NOTE of "
            f"crash_notes.py is {CRASH_NOTE}; make them agree"
        )
    return library
