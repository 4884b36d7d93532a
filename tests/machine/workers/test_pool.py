"""What the engine and the profile need of workers."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm.driver import build
from tvm.ir import IRModule
from tvm.script import tirx as T  # noqa: N812 - what TVMScript calls it

from tests.support.onnx_builders import relative_error, run_onnx
from tests.support.serving.pool_builders import (
    TIMEOUT_S,
    Room,
    block_of,
    end_of,
    kinds,
    notices,
    python_room,
    run_kernels,
)
from tests.support.threads import threads_named
from tests.support.tiny import tiny
from veltair.compiler.search.target import cpu_target
from veltair.machine.models.library import LoadedModel
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import Adopted, Ended, Grant, KernelError, Sample, WorkerPool, on_cores

CORES = tuple(sorted(os.sched_getaffinity(0)))
ONE, TWO = CORES[:1], CORES[:2]
needs_two_cores = pytest.mark.skipif(len(CORES) < 2, reason="cores cannot differ where there is one only")

Open = Callable[..., WorkerPool]


@pytest.fixture
def open_any(c_build: Path) -> Iterator[Open]:
    """Return what starts workers; all are stopped at the end."""
    pools: list[WorkerPool] = []

    def start(cores: tuple[int, ...]) -> WorkerPool:
        pools.append(NativePool(cores, c_build))
        return pools[-1]

    yield start
    for pool in pools:
        assert pool.stop() == 0


@pytest.fixture
def pool(open_any: Open) -> WorkerPool:
    return open_any(TWO)


@pytest.fixture(scope="module")
def where_am_i(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A kernel that writes into each of 64 places the core on which it did so, in parallel."""

    @T.prim_func(s_tir=True)
    def kernel(out: T.Buffer((64,), "int32")) -> None:  # type: ignore[valid-type]
        T.func_attr({"global_symbol": "where_am_i"})
        for i in T.parallel(64):
            with T.sblock("place"):
                index = T.axis.spatial(64, i)
                out[index] = T.call_extern("int32", "sched_getcpu")

    library = tmp_path_factory.mktemp("where") / "kernels.so"
    build(IRModule({"where_am_i": kernel}), target=cpu_target(4)).export_library(str(library))
    return tvm.runtime.load_module(str(library))["where_am_i"]


def run_where(pool: WorkerPool, kernel: Any, cores: tuple[int, ...]) -> set[int]:
    out = tvm.runtime.empty((64,), "int32")
    end = end_of(pool, block_of(pool, Room([[(kernel, (out,))]]), cores))
    assert end.error is None
    return set(out.numpy().tolist())


def worker_threads() -> set[str]:
    """Return the threads of workers: TVM's own, which linger, do not count."""
    names = {thread.name for thread in threading.enumerate()}
    return names | {str(number) for number in threads_named("pool")}


def tell_core(seen: list[set[int]]) -> None:
    seen.append(os.sched_getaffinity(0))


@pytest.mark.parametrize("core", TWO)
def test_a_kernel_runs_on_the_one_core_granted(pool: WorkerPool, where_am_i: Any, core: int) -> None:
    assert run_where(pool, where_am_i, (core,)) == {core}


@needs_two_cores
def test_a_kernel_runs_on_no_core_that_was_not_granted(open_any: Open, where_am_i: Any) -> None:
    pool = open_any(TWO)
    # Each of both workers gets either grant at some time.
    found = [run_where(pool, where_am_i, cores) for cores in (TWO, TWO[1:], ONE) * 4]
    assert all(
        cores <= granted for cores, granted in zip(found, (set(TWO), {TWO[1]}, set(ONE)) * 4, strict=True)
    )


def test_the_thread_that_leads_keeps_to_the_first_core_granted(pool: WorkerPool) -> None:
    seen: list[set[int]] = []
    for cores in (TWO, TWO[::-1]):
        run_kernels(pool, partial(tell_core, seen), cores=cores)
    assert seen == [{TWO[0]}, {TWO[-1]}]


def test_whoever_starts_workers_keeps_its_cores(pool: WorkerPool) -> None:
    assert tuple(sorted(os.sched_getaffinity(0))) == CORES


@needs_two_cores
def test_two_blocks_run_at_once_each_on_its_own_core(pool: WorkerPool) -> None:
    together = threading.Barrier(2, timeout=TIMEOUT_S)
    seen: list[set[int]] = []
    kernels = (together.wait, partial(tell_core, seen), together.wait)
    for core in TWO:
        pool.run(block_of(pool, python_room(*kernels), (core,)))
    ends = [end for end in notices(pool, 2) if isinstance(end, Ended)]
    assert [end.error for end in ends] == [None, None]
    assert sorted(seen, key=min) == [{TWO[0]}, {TWO[1]}]


def test_layers_run_in_order_and_their_times_add_up(pool: WorkerPool) -> None:
    order: list[str] = []
    end = run_kernels(pool, *(partial(order.append, name) for name in "abc"), cores=ONE)
    assert order == ["a", "b", "c"]
    assert end.ended_layers == 3 and end.busy_s > 0


def test_of_a_layer_is_noted_how_long_its_core_was_away_once_somebody_watches(pool: WorkerPool) -> None:
    def stay() -> None:
        until_s = time.thread_time() + 0.01
        while time.thread_time() < until_s:
            pass

    block = block_of(pool, python_room(partial(time.sleep, 0.02), stay), ONE)
    end_of(pool, block)
    assert list(block.buffers.away_seconds) == [0.0, 0.0]
    block.buffers.watch()
    end_of(pool, block)
    slept, stayed = zip(block.buffers.away_seconds, block.buffers.layer_seconds, strict=True)
    # A sleeping thread has no core. The other one had it for as long as it asked for.
    assert slept[0] >= 0.9 * 0.02
    assert stayed[0] <= stayed[1] - 0.9 * 0.01


def test_a_block_runs_the_layers_and_versions_named_and_no_others(pool: WorkerPool) -> None:
    order: list[str] = []
    layers = [[(order.append, (f"{layer}{version}",)) for version in range(2)] for layer in "abcd"]
    block = block_of(pool, Room(layers), ONE, versions=(0, 1, 0, 1))
    block.start, block.stop, block.grant = 1, 3, Grant(ONE, (1, 0))
    assert end_of(pool, block).ended_layers == 2
    assert order == ["b1", "c0"]


def test_the_sample_goes_in_before_the_layers_and_the_answer_is_compared_after(pool: WorkerPool) -> None:
    room_in, room_out = np.zeros(3, np.float32), np.zeros(3, np.float32)
    room = python_room(lambda: np.multiply(room_in, 2, out=room_out), inputs=[room_in], outputs=[room_out])
    values = np.array([1, 2, 3], np.float32)
    right, wrong = Sample((values,), (2 * values,)), Sample((values,), (2 * values + np.float32(0.01),))
    found = [end_of(pool, block_of(pool, room, ONE, put_in=one, check=one)) for one in (right, wrong)]
    assert [end.wrong_outputs for end in found] == [0, 1]


def test_a_block_without_a_sample_leaves_its_room_alone(pool: WorkerPool) -> None:
    room_in, room_out = np.ones(3, np.float32), np.ones(3, np.float32)
    end = end_of(pool, block_of(pool, python_room(lambda: None, inputs=[room_in], outputs=[room_out]), ONE))
    assert end.wrong_outputs == 0
    assert room_in.tolist() == [1, 1, 1]


class Held:
    """A block of three layers whose first one waits until `go`."""

    def __init__(
        self, pool: WorkerPool, layers: int = 3, outputs: Sequence[Any] = (), check: Sample | None = None
    ) -> None:
        self.pool = pool
        self.started, self.go = threading.Event(), threading.Event()
        self.seen: list[str] = []
        later = [[(self.seen.append, (f"{n} v{v}",)) for v in range(2)] for n in range(1, layers)]
        room = Room([[(self.first, ())] * 2, *later], outputs=outputs)
        self.block = block_of(pool, room, ONE, check=check)
        pool.run(self.block)
        assert self.started.wait(TIMEOUT_S)

    def first(self) -> None:
        self.started.set()
        assert self.go.wait(TIMEOUT_S)


def test_a_new_grant_is_adopted_at_the_next_layer_end_and_told_once(pool: WorkerPool) -> None:
    held = Held(pool)
    grant = Grant(TWO, (0, 1, 1))
    pool.resize(held.block, grant)
    assert pool.wait(0.0) == () or pool.wait(0.0) == []
    held.go.set()
    adopted, ended = notices(pool, 2)
    assert isinstance(adopted, Adopted) and adopted.grant is grant and adopted.block is held.block
    assert isinstance(ended, Ended) and adopted.monotonic_s <= ended.monotonic_s
    assert held.seen == ["1 v1", "2 v1"]


@needs_two_cores
def test_a_kernel_after_the_new_grant_runs_on_its_cores_only(pool: WorkerPool, where_am_i: Any) -> None:
    outs = [tvm.runtime.empty((64,), "int32") for _ in range(2)]
    started, go = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        assert go.wait(TIMEOUT_S)

    calls = [[(where_am_i, (outs[0],))], [(wait, ())], [(where_am_i, (outs[1],))]]
    block = block_of(pool, Room(calls), TWO)
    pool.run(block)
    assert started.wait(TIMEOUT_S)
    pool.resize(block, Grant(ONE, (0, 0, 0)))
    go.set()
    notices(pool, 2)
    assert [set(out.numpy().tolist()) <= set(cores) for out, cores in zip(outs, (TWO, ONE), strict=True)]


def test_of_two_grants_during_a_layer_the_last_one_counts(pool: WorkerPool) -> None:
    held = Held(pool)
    last = Grant(ONE, (0, 0, 1))
    pool.resize(held.block, Grant(TWO, (0, 1, 0)))
    pool.resize(held.block, last)
    held.go.set()
    adopted, _ = notices(pool, 2)
    assert isinstance(adopted, Adopted) and adopted.grant is last
    assert held.seen == ["1 v0", "2 v1"]


def test_a_grant_during_the_last_layer_is_not_told(pool: WorkerPool) -> None:
    held = Held(pool, layers=1)
    pool.resize(held.block, Grant(TWO, (0,)))
    held.go.set()
    assert kinds(notices(pool, 1)) == ["ended"]
    assert run_kernels(pool, lambda: None, cores=ONE).error is None


def test_a_block_that_yields_ends_at_its_next_layer_end_and_is_not_compared(pool: WorkerPool) -> None:
    wrong = Sample((), (np.ones(1, np.float32),))
    held = Held(pool, outputs=[np.zeros(1, np.float32)], check=wrong)
    pool.yield_block(held.block)
    held.go.set()
    (ended,) = notices(pool, 1)
    assert isinstance(ended, Ended) and (ended.error, ended.ended_layers) == (None, 1)
    assert (held.seen, ended.wrong_outputs) == ([], 0)


def test_a_yield_during_the_last_layer_changes_nothing(pool: WorkerPool) -> None:
    wrong = Sample((), (np.ones(1, np.float32),))
    held = Held(pool, layers=1, outputs=[np.zeros(1, np.float32)], check=wrong)
    pool.yield_block(held.block)
    held.go.set()
    (ended,) = notices(pool, 1)
    assert isinstance(ended, Ended) and (ended.ended_layers, ended.wrong_outputs) == (1, 1)


def test_a_yield_that_comes_too_late_does_not_end_the_next_block(pool: WorkerPool) -> None:
    held = Held(pool, layers=1)
    pool.yield_block(held.block)
    held.go.set()
    notices(pool, 1)
    assert run_kernels(pool, *[lambda: None] * 3, cores=ONE).ended_layers == 3


def test_a_block_that_is_to_yield_as_it_starts_ends_one_layer(pool: WorkerPool) -> None:
    block = block_of(pool, python_room(*[lambda: time.sleep(0.05)] * 3), ONE)
    pool.run(block)
    pool.yield_block(block)
    (ended,) = notices(pool, 1)
    assert isinstance(ended, Ended) and ended.ended_layers == 1


def test_a_block_that_yields_adopts_no_grant(pool: WorkerPool) -> None:
    held = Held(pool)
    pool.resize(held.block, Grant(TWO, (0, 0, 0)))
    pool.yield_block(held.block)
    held.go.set()
    assert kinds(notices(pool, 1)) == ["ended"]
    assert run_kernels(pool, *[lambda: None] * 3, cores=ONE).ended_layers == 3


def test_progress_is_seen_while_a_block_runs(pool: WorkerPool) -> None:
    held = Held(pool)
    assert pool.ended_layers(held.block) == 0
    assert 0 < pool.layer_started_s(held.block) <= Ended(held.block, None, 0, 1e9, 0.0, 0).monotonic_s
    held.go.set()
    notices(pool, 1)
    assert pool.ended_layers(held.block) == 3


def fail() -> None:
    raise RuntimeError("kernel failed")


def test_an_error_of_a_kernel_ends_its_block_only(pool: WorkerPool) -> None:
    for core in TWO:
        end = run_kernels(pool, lambda: None, fail, lambda: None, cores=(core,))
        assert str(end.error) == "kernel failed"
        assert end.ended_layers == 1
    assert all(run_kernels(pool, lambda: None, cores=(core,)).error is None for core in TWO)


def test_what_tvm_says_of_a_wrong_argument_is_told(pool: WorkerPool, where_am_i: Any) -> None:
    short = tvm.runtime.empty((63,), "int32")
    end = end_of(pool, block_of(pool, Room([[(where_am_i, (short,))]]), ONE))
    assert "shape" in str(end.error) and "64" in str(end.error)
    assert isinstance(end.error, KernelError | ValueError)


def test_a_version_that_was_bound_again_runs_as_it_is_now(pool: WorkerPool) -> None:
    order: list[str] = []
    room = Room([[(order.append, ("old",))], [(order.append, ("kept",))]])
    block = block_of(pool, room, ONE)
    assert end_of(pool, block).error is None
    room.calls[0][0] = (order.append, ("new",))
    assert end_of(pool, block).error is None
    assert order == ["old", "kept", "new", "kept"]


def test_a_core_without_a_worker_is_refused(pool: WorkerPool) -> None:
    with pytest.raises(LookupError, match="core 100000 is not one of"):
        run_kernels(pool, lambda: None, cores=(100_000,))


@needs_two_cores
def test_a_block_keeps_its_first_core(pool: WorkerPool) -> None:
    held = Held(pool)
    with pytest.raises(ValueError, match=f"a block keeps its first core {TWO[0]}"):
        pool.resize(held.block, Grant(TWO[::-1], (0, 0, 0)))
    held.go.set()
    notices(pool, 1)


def test_a_poke_ends_a_wait_and_is_used_up(pool: WorkerPool) -> None:
    threading.Timer(0.02, pool.poke).start()
    assert not pool.wait(TIMEOUT_S)
    pool.poke()
    assert not pool.wait(TIMEOUT_S)
    assert not pool.wait(0.01)


def test_stopping_ends_the_blocks_under_way_and_all_threads(open_any: Open) -> None:
    before = worker_threads()
    pool = open_any(TWO)
    done: list[int] = []
    pool.run(block_of(pool, python_room(*(partial(done.append, n) for n in range(5))), ONE))
    assert pool.stop() == 0
    assert done == [0, 1, 2, 3, 4]
    assert worker_threads() == before


def test_a_worker_whose_kernel_does_not_end_is_counted_by_stop(open_any: Open) -> None:
    pool = open_any(ONE)
    held = Held(pool)
    assert pool.stop(0.01) == 1
    held.go.set()


@pytest.mark.parametrize("cores", [(100_000, 100_001), (*ONE, *ONE), ()])
def test_a_pool_on_cores_that_cannot_be_had_is_an_error_and_leaves_no_thread(
    open_any: Open, cores: tuple[int, ...]
) -> None:
    before = worker_threads()
    with pytest.raises(ValueError, match=r"cannot all be had; this process may use \["):
        open_any(cores)
    assert worker_threads() == before


def test_a_network_run_by_workers_gives_the_right_answer(pool: WorkerPool, tiny_loaded: LoadedModel) -> None:
    for seed in range(4):
        instance = tiny_loaded.instance()
        values = np.random.default_rng(seed).standard_normal((1, 3, 16, 16), dtype=np.float32)
        (answer,) = run_onnx(tiny(), values)
        sample = Sample((values,), (answer,))
        end = end_of(pool, block_of(pool, instance, TWO, put_in=sample, check=sample))
        assert (end.error, end.wrong_outputs, end.ended_layers) == (None, 0, 6)
        assert relative_error(instance.read_outputs()[0], answer) < 1e-4


def test_a_version_that_is_not_loaded_is_named(pool: WorkerPool, tiny_folder: Path) -> None:
    model = LoadedModel(tiny_folder)
    block = block_of(pool, model.instance(), ONE)
    assert end_of(pool, block).error is None
    model.release()
    end = end_of(pool, block)
    assert isinstance(end.error, LookupError) and "of tiny is not loaded" in str(end.error)
    model.load()
    assert end_of(pool, block).error is None


def test_a_sample_of_another_shape_is_refused(pool: WorkerPool) -> None:
    room = python_room(lambda: None, inputs=[np.zeros(3, np.float32)], outputs=[np.zeros(3, np.float32)])
    sample = Sample((np.zeros(4, np.float32),), (np.zeros(3, np.float32),))
    try:
        error: Exception | None = end_of(pool, block_of(pool, room, ONE, put_in=sample)).error
    except ValueError as refused:
        error = refused
    assert "float32[4], its buffer is float32[3]" in str(error)


def test_a_thread_has_its_cores_back_after_it_ran_kernels_on_others() -> None:
    with on_cores(ONE):
        assert os.sched_getaffinity(0) == {CORES[0]}
    assert tuple(sorted(os.sched_getaffinity(0))) == CORES
