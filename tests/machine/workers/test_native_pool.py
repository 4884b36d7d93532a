"""What only the workers in C do, with kernels in C."""

import faulthandler
import gc
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.support.engine_builders import FakeBuffers
from tests.support.pool_builders import (
    TIMEOUT_S,
    Room,
    block_of,
    end_of,
    kinds,
    next_end,
    notices,
    python_room,
)
from tests.support.threads import threads_named
from veltair.compiler.frontend.samples import relative_error
from veltair.machine.c_build import FLAGS
from veltair.machine.c_library import CLibrary, load_library
from veltair.machine.models.library import LoadedModel
from veltair.machine.workers.call_tables import KINDS
from veltair.machine.workers.crash_notes import read_notes
from veltair.machine.workers.native_pool import HEADERS, SOURCE, NativePool
from veltair.machine.workers.pool import BlockRun, CoreLostError, Grant, KernelError, Sample, on_cores

CORES = tuple(sorted(os.sched_getaffinity(0)))
ONE, TWO = CORES[:1], CORES[:2]
KERNELS = Path(__file__).parent / "pool_kernels.c"
needs_two_cores = pytest.mark.skipif(len(CORES) < 2, reason="cores cannot differ where there is one only")

Open = Callable[..., NativePool]


@pytest.fixture
def open_native(c_build: Path) -> Iterator[Open]:
    """Return what starts workers that check themselves; all are stopped at the end."""
    pools: list[NativePool] = []

    def start(cores: tuple[int, ...] = TWO, **options: Any) -> NativePool:
        pools.append(NativePool(cores, c_build, checked=True, **options))
        return pools[-1]

    yield start
    for pool in pools:
        assert pool.stop() == 0


class Native:
    """A kernel of pool_kernels.c as TVM's functions look to workers: a safe call behind a header."""

    def __init__(self, library: CLibrary, name: str) -> None:
        self.cell = np.zeros(4, np.uint64)
        self.cell[3] = library.address(getattr(library.functions, name))

    def __chandle__(self) -> int:
        return int(self.cell.ctypes.data)


@pytest.fixture(scope="module")
def kernels(c_build: Path) -> CLibrary:
    return load_library(KERNELS, [KERNELS.with_suffix(".h")], c_build, (*FLAGS, "-shared", "-fPIC"))


class Meet:
    """A kernel whose tasks run at once on `wanted` cores, or it never ends."""

    def __init__(self, kernels: CLibrary, wanted: int) -> None:
        null = kernels.ffi.NULL
        self.meeting: Any = kernels.ffi.new("meeting_t *", {"wanted": wanted})
        self.call = lambda: kernels.functions.meeting(self.meeting, null, 0, null)

    @property
    def cores(self) -> set[int]:
        """The cores on which its tasks ran."""
        return set(self.meeting.cores[0 : self.meeting.tasks])


@needs_two_cores
def test_a_loop_runs_on_all_cores_granted_at_once(open_native: Open, kernels: CLibrary) -> None:
    meet = Meet(kernels, 2)
    pool = open_native()
    assert end_of(pool, block_of(pool, python_room(meet.call), TWO)).error is None
    assert (meet.meeting.tasks, meet.cores) == (2, set(TWO))


def test_a_loop_on_one_core_is_one_task(open_native: Open, kernels: CLibrary) -> None:
    meet = Meet(kernels, 1)
    pool = open_native()
    end_of(pool, block_of(pool, python_room(meet.call), ONE))
    assert (meet.meeting.tasks, meet.cores) == (1, set(ONE))


@pytest.mark.parametrize("cores", [ONE, TWO])
def test_a_layer_that_is_held_back_runs_its_loop_in_steps_and_takes_so_long_at_least(
    open_native: Open, kernels: CLibrary, cores: tuple[int, ...]
) -> None:
    held_back, meet, pool = Meet(kernels, 1), Meet(kernels, 1), open_native()
    block = block_of(pool, python_room(held_back.call, meet.call), cores)
    block.least_s = (0.05, 0.0)
    assert end_of(pool, block).error is None
    assert (held_back.meeting.tasks, meet.meeting.tasks) == (8 * len(cores), len(cores))
    assert block.buffers.layer_seconds[0] >= 0.05


def test_a_layer_that_is_held_back_gives_the_same_bits(open_native: Open, tiny_loaded: LoadedModel) -> None:
    layers, pool = len(tiny_loaded.plan.layers), open_native()
    instance, answers = tiny_loaded.filled_instance(), []
    for least_s in ((), (1e-6,) * layers):
        block = block_of(pool, instance, TWO, versions=(0,) * layers)
        block.least_s = least_s
        assert end_of(pool, block).error is None
        answers.append(instance.read_outputs()[0].tobytes())
    assert answers[0] == answers[1]


def test_a_thread_that_is_no_worker_still_gets_tvms_own_pool(
    open_native: Open, kernels: CLibrary, tiny_loaded: LoadedModel
) -> None:
    pool = open_native()
    instance = tiny_loaded.instance()
    sample = np.zeros((1, 3, 16, 16), np.float32)
    instance.set_inputs([sample])
    (before,) = instance.run((0,) * 6)
    end_of(pool, block_of(pool, instance, TWO))
    (after,) = instance.run((0,) * 6)
    assert after.tobytes() == before.tobytes()


def test_every_version_gives_the_same_bits_as_on_tvms_pool(
    open_native: Open, tiny_loaded: LoadedModel
) -> None:
    plan, pool = tiny_loaded.plan, open_native()
    counts = [len(plan.of(layer)) for layer in range(len(plan.layers))]
    instance = tiny_loaded.filled_instance()
    for number in range(max(counts)):
        versions = tuple(min(number, count - 1) for count in counts)
        for cores in (ONE, TWO):
            assert end_of(pool, block_of(pool, instance, cores, versions=versions)).error is None
            ours = instance.read_outputs()[0].tobytes()
            with on_cores(cores):
                (theirs,) = instance.run(versions)
            assert ours == theirs.tobytes()


def test_random_core_sets_and_resizes_give_the_right_bits(
    open_native: Open, tiny_loaded: LoadedModel
) -> None:
    pool, chance = open_native(), np.random.default_rng(7)
    instance = tiny_loaded.instance()
    values = np.random.default_rng(1).standard_normal((1, 3, 16, 16), dtype=np.float32)
    instance.set_inputs([values])
    (answer,) = instance.run((0,) * 6)
    sample = Sample((values,), (answer,))
    for _ in range(60):
        first = int(chance.integers(len(TWO)))
        order = (TWO[first], *(core for core in TWO if core != TWO[first]))
        granted = [order[: int(chance.integers(1, len(order) + 1))] for _ in range(2)]
        block = block_of(pool, instance, granted[0], put_in=sample, check=sample)
        pool.run(block)
        pool.resize(block, Grant(granted[1], (0,) * 6))
        end = next_end(pool)
        assert (end.error, end.wrong_outputs) == (None, 0)
        assert instance.read_outputs()[0].tobytes() == answer.tobytes()


def test_an_error_without_a_message_says_so(open_native: Open, kernels: CLibrary) -> None:
    pool = open_native()
    end = end_of(pool, block_of(pool, Room([[(Native(kernels, "refuse"), ())]]), ONE))
    assert isinstance(end.error, KernelError)
    assert "it returned an error without a message" in str(end.error)


def test_a_core_that_leads_a_block_leads_no_other(open_native: Open) -> None:
    pool, go = open_native(), threading.Event()
    pool.run(block_of(pool, python_room(lambda: go.wait(TIMEOUT_S)), ONE))
    with pytest.raises(ValueError, match=f"core {ONE[0]} leads another block; wait for its end"):
        pool.run(block_of(pool, python_room(lambda: None), ONE))
    go.set()
    assert kinds(notices(pool, 1)) == ["ended"]


def test_a_version_that_a_layer_lacks_is_refused(open_native: Open) -> None:
    pool = open_native()
    with pytest.raises(LookupError, match="layer 1 has no version 3"):
        pool.run(block_of(pool, python_room(print, print), ONE, versions=(0, 3)))


def test_buffers_that_were_not_bound_are_refused(open_native: Open) -> None:
    block = BlockRun(1, FakeBuffers(python_room(print)), 0, 1, Grant(ONE, (0,)))
    with pytest.raises(TypeError, match="the block of query 1 was bound by other workers"):
        open_native().run(block)


@needs_two_cores
def test_a_worker_that_was_moved_to_another_core_is_told(open_native: Open) -> None:
    pool = open_native(ONE)
    end_of(pool, block_of(pool, python_room(lambda: None), ONE))  # by now it has its name
    (worker,) = (task for task in threads_named("pool") if os.sched_getaffinity(task) == set(ONE))
    os.sched_setaffinity(worker, {TWO[1]})
    end = end_of(pool, block_of(pool, python_room(lambda: None), ONE))
    assert isinstance(end.error, CoreLostError)
    assert f"the worker of core {ONE[0]} was moved to another core" in str(end.error)


def crash(c_build: Path, kernels: CLibrary, notes: Path) -> None:
    """Run a kernel that crashes, in a process that has no other threads."""
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pool = NativePool(ONE, c_build, notes=notes)
    end_of(pool, block_of(pool, Room([[(Native(kernels, name), ())] for name in ("nothing", "crash")]), ONE))


def test_what_crashed_is_known_though_the_process_is_gone(
    c_build: Path, kernels: CLibrary, tmp_path: Path
) -> None:
    if (child := os.fork()) == 0:
        try:
            crash(c_build, kernels, tmp_path / "notes")
        finally:
            os._exit(0)  # an error must not go on with the tests of its parent
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGSEGV
    assert read_notes(tmp_path / "notes") == ["worker 0: layer 1 of net, query 1"]


def state_of(task: int) -> str:
    """Return the letter by which Linux tells whether a thread runs or sleeps."""
    return Path(f"/proc/self/task/{task}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("spins", [False, True])
def test_idle_workers_look_for_work_all_the_time_only_if_told(open_native: Open, spins: bool) -> None:
    pool = open_native(ONE, spins=spins)
    end_of(pool, block_of(pool, python_room(lambda: None), ONE))
    (worker,) = (task for task in threads_named("pool") if os.sched_getaffinity(task) == set(ONE))
    end_s = time.monotonic() + TIMEOUT_S
    while not spins and state_of(worker) != "S" and time.monotonic() < end_s:
        time.sleep(0.01)
    states = {state_of(worker) for _ in range(50)}
    assert states == ({"R"} if spins else {"S"})


def test_nothing_is_noted_after_a_block_has_ended(open_native: Open, tmp_path: Path) -> None:
    pool = open_native(ONE, notes=tmp_path / "notes")
    end_of(pool, block_of(pool, python_room(lambda: None), ONE))
    assert read_notes(tmp_path / "notes") == []


def test_notes_that_cannot_be_written_are_an_error_that_names_the_file(
    open_native: Open, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match=r"cannot start workers.*No such file") as error:
        open_native(ONE, notes=tmp_path / "nowhere" / "notes")
    assert error.value.filename == str(tmp_path / "nowhere" / "notes")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def blocks_leak_nothing(pool: NativePool, kernels: CLibrary, count: int) -> None:
    values = np.zeros(64, np.float32)
    room = Room([[(Native(kernels, "nothing"), ())]] * 3, inputs=[values], outputs=[values])
    sample = Sample((values.copy(),), (values.copy(),))
    buffers = pool.bind(room, "net")
    gc.collect()  # else files of earlier tests are closed meanwhile
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    before = 0
    for number in range(count):
        block = BlockRun(number, buffers, 0, 3, Grant(TWO, (0, 0, 0)), put_in=sample, check=sample)
        pool.run(block)
        pool.resize(block, Grant(ONE, (0, 0, 0)))
        assert next_end(pool).wrong_outputs == 0
        if number == count // 10:
            gc.collect()
            before = resident_bytes()
    gc.collect()
    assert resident_bytes() - before < 2**20
    assert len(list(Path("/proc/self/fd").iterdir())) <= open_files
    assert (len(pool._active), len(pool._samples)) == (0, 1)


def test_ten_thousand_blocks_leak_nothing(open_native: Open, kernels: CLibrary) -> None:
    blocks_leak_nothing(open_native(), kernels, 10_000)


@pytest.mark.long
def test_a_hundred_thousand_blocks_leak_nothing(open_native: Open, kernels: CLibrary) -> None:
    blocks_leak_nothing(open_native(), kernels, 100_000)


NUMBERS = {
    "float32": st.floats(width=32),
    "float64": st.floats(),
    "int8": st.integers(-128, 127),
    "uint8": st.integers(0, 255),
    "bool": st.booleans(),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
}


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Any, Any]:
    """Return two arrays of one dtype, often alike."""
    dtype = draw(st.sampled_from(sorted(NUMBERS)))
    right = draw(arrays(dtype, st.integers(1, 20), elements=NUMBERS[dtype]))
    if draw(st.booleans()):
        return right.copy(), right
    return draw(arrays(dtype, right.shape, elements=NUMBERS[dtype])), right


@given(pairs())
@example((np.zeros(3, np.float32), np.zeros(3, np.float32)))
@example((np.ones(3, np.float32), np.zeros(3, np.float32)))
@example((np.array([np.nan], np.float32), np.ones(1, np.float32)))
@example((np.array([3e38], np.float32), np.array([-3e38], np.float32)))
@example((np.array([1e-45], np.float32), np.array([2e-45], np.float32)))
def test_an_answer_is_as_far_off_as_samples_say(pair: tuple[Any, Any]) -> None:
    values, right = pair
    library = LIBRARY[0]
    kind = getattr(library.functions, KINDS[str(values.dtype)])
    record = {"items": values.size, "item_bytes": values.itemsize, "kind": kind}
    array = library.ffi.new("array_t *", {"data": library.pointer(values), **record})
    with np.errstate(all="ignore"):
        expected = relative_error(values, right)
    assert library.functions.pool_relative_error(array, library.pointer(right)) == expected


LIBRARY: list[CLibrary] = []


@pytest.fixture(autouse=True, scope="module")
def library(c_build: Path) -> None:
    """The C function of the test above, which hypothesis may not be given by a fixture of its own."""
    LIBRARY.append(load_library(SOURCE, HEADERS, c_build, (*FLAGS, "-shared", "-fPIC")))
