import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import tvm
from onnx_builders import relative_error, run_onnx
from tiny import tiny
from tvm.driver import build
from tvm.ir import IRModule
from tvm.script import tirx as T  # noqa: N812 - what TVMScript calls it

from veltair.compiler.target import cpu_target
from veltair.machine.gang import BlockRun, Gang, Grant, on_cores
from veltair.machine.library import LoadedModel

CORES = tuple(sorted(os.sched_getaffinity(0)))
PAIR = (CORES * 2)[:2]  # a gang of two workers, on one core if there is no other
TIMEOUT_S = 60.0
needs_two_cores = pytest.mark.skipif(len(CORES) < 2, reason="cores cannot differ where there is one only")

Kernel = Callable[..., None]


@pytest.fixture
def gang() -> Iterator[Gang]:
    gang = Gang(PAIR)
    yield gang
    gang.stop()


@pytest.fixture(scope="module")
def where_am_i() -> Any:
    """A kernel that writes into each of 64 places the core on which it did so, in parallel."""

    @T.prim_func(s_tir=True)
    def kernel(out: T.Buffer((64,), "int32")) -> None:  # type: ignore[valid-type]
        T.func_attr({"global_symbol": "where_am_i"})
        for i in T.parallel(64):
            with T.sblock("place"):
                place = T.axis.spatial(64, i)
                out[place] = T.call_extern("int32", "sched_getcpu")

    return build(IRModule({"where_am_i": kernel}), target=cpu_target(4))["where_am_i"]


class Run:
    """A block of kernels without arguments, and what its worker told about it."""

    def __init__(self, *kernels: Kernel, cores: tuple[int, ...] = PAIR[:1], **hooks: Any) -> None:
        self.resized: list[Grant] = []
        self.ends: list[Exception | None] = []
        self.over = threading.Event()
        grant = Grant(cores, (0,) * len(kernels))
        calls = [[(kernel, ())] for kernel in kernels]
        self.block = BlockRun(1, calls, grant, self._on_resized, self._on_end, **hooks)

    def _on_resized(self, block: BlockRun, grant: Grant) -> None:
        assert block is self.block
        self.resized.append(grant)

    def _on_end(self, block: BlockRun, error: Exception | None) -> None:
        assert block is self.block
        self.ends.append(error)
        self.over.set()

    def wait(self) -> None:
        assert self.over.wait(TIMEOUT_S)


def cores_of(out: Any) -> set[int]:
    return set(out.numpy().tolist())


def run_where(gang: Gang, kernel: Any, cores: tuple[int, ...]) -> set[int]:
    out = tvm.runtime.empty((64,), "int32")
    run = Run(partial(kernel, out), cores=cores)
    gang.run(run.block)
    run.wait()
    assert run.ends == [None]
    return cores_of(out)


@pytest.mark.parametrize("core", CORES[:2])
def test_a_kernel_runs_on_the_one_core_granted(gang: Gang, where_am_i: Any, core: int) -> None:
    assert run_where(gang, where_am_i, (core,)) == {core}


@needs_two_cores
def test_a_kernel_runs_on_all_cores_granted(gang: Gang, where_am_i: Any) -> None:
    assert run_where(gang, where_am_i, CORES[:2]) == set(CORES[:2])


@needs_two_cores
def test_a_gang_does_not_depend_on_the_threads_set_before(
    where_am_i: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TVM_NUM_THREADS", "1")
    gang = Gang(CORES[:2])
    found = run_where(gang, where_am_i, CORES[:2])
    gang.stop()
    assert found == set(CORES[:2])


@needs_two_cores
def test_a_worker_gives_up_the_cores_of_the_block_before(where_am_i: Any) -> None:
    gang = Gang(CORES[:2])
    # Each of both workers gets either grant at some time.
    found = [run_where(gang, where_am_i, cores) for cores in (CORES[:2], CORES[1:2], CORES[:1]) * 4]
    gang.stop()
    assert found == [set(CORES[:2]), {CORES[1]}, {CORES[0]}] * 4


@needs_two_cores
def test_two_blocks_side_by_side_keep_to_their_own_cores(gang: Gang, where_am_i: Any) -> None:
    together = threading.Barrier(2, timeout=TIMEOUT_S)
    outs = [tvm.runtime.empty((64,), "int32") for _ in range(2)]
    runs = [
        Run(together.wait, partial(where_am_i, out), together.wait, cores=(core,))
        for out, core in zip(outs, CORES, strict=False)
    ]
    for run in runs:
        gang.run(run.block)
    for run in runs:
        run.wait()
    assert [cores_of(out) for out in outs] == [{CORES[0]}, {CORES[1]}]


def test_the_thread_of_a_worker_keeps_to_the_first_core_granted(gang: Gang) -> None:
    seen: list[set[int]] = []
    run = Run(lambda: seen.append(os.sched_getaffinity(0)), cores=PAIR)
    gang.run(run.block)
    run.wait()
    assert seen == [{PAIR[0]}]


def test_whoever_makes_a_gang_keeps_its_cores(gang: Gang) -> None:
    assert tuple(sorted(os.sched_getaffinity(0))) == CORES


def test_two_blocks_run_at_once(gang: Gang) -> None:
    together = threading.Barrier(2, timeout=TIMEOUT_S)
    runs = [Run(together.wait, cores=(core,)) for core in PAIR]
    for run in runs:
        gang.run(run.block)
    for run in runs:
        run.wait()
    assert [run.ends for run in runs] == [[None], [None]]


def test_more_blocks_than_workers_all_run(gang: Gang) -> None:
    runs = [Run(lambda: None, lambda: None) for _ in range(20)]
    for run in runs:
        gang.run(run.block)
    for run in runs:
        run.wait()
    assert all(run.ends == [None] for run in runs)


def test_layers_run_in_order_and_each_is_timed(gang: Gang) -> None:
    order: list[str] = []
    run = Run(*(partial(order.append, name) for name in "abc"))
    gang.run(run.block)
    run.wait()
    assert order == ["a", "b", "c"]
    assert (run.block.ended_layers, len(run.block.layer_seconds)) == (3, 3)


def test_the_sample_goes_in_before_the_layers_and_the_answer_comes_out_after(gang: Gang) -> None:
    order: list[str] = []
    hooks = {name: partial(order.append, name) for name in ("before", "after")}
    run = Run(partial(order.append, "layer"), **hooks)
    gang.run(run.block)
    run.wait()
    assert order == ["before", "layer", "after"]


def test_a_new_grant_is_adopted_at_the_next_layer_end_and_told_once(gang: Gang) -> None:
    seen: list[tuple[str, set[int]]] = []
    started, go = threading.Event(), threading.Event()

    def first() -> None:
        started.set()
        assert go.wait(TIMEOUT_S)
        seen.append(("first", os.sched_getaffinity(0)))

    def note(name: str) -> None:
        seen.append((name, os.sched_getaffinity(0)))

    run = Run(first)
    names = [("second v0", "second v1"), ("third v0", "third v1")]
    run.block.calls = [[(first, ())], *[[(note, (name,)) for name in pair] for pair in names]]
    run.block.grant = Grant(PAIR[:1], (0, 0, 0))
    gang.run(run.block)
    assert started.wait(TIMEOUT_S)
    grant = Grant(PAIR[1:], (0, 1, 1))
    run.block.grant = grant
    assert run.resized == []
    go.set()
    run.wait()
    assert seen == [("first", {PAIR[0]}), ("second v1", {PAIR[1]}), ("third v1", {PAIR[1]})]
    assert len(run.resized) == 1 and run.resized[0] is grant


def test_of_two_grants_during_a_layer_the_last_one_counts(gang: Gang) -> None:
    started, go = threading.Event(), threading.Event()

    def first() -> None:
        started.set()
        assert go.wait(TIMEOUT_S)

    run = Run(first, lambda: None)
    gang.run(run.block)
    assert started.wait(TIMEOUT_S)
    run.block.grant = Grant(PAIR[1:], (0, 0))
    run.block.grant = last = Grant(PAIR, (0, 0))
    go.set()
    run.wait()
    assert len(run.resized) == 1 and run.resized[0] is last


def test_a_grant_during_the_last_layer_is_not_told(gang: Gang) -> None:
    started, go = threading.Event(), threading.Event()

    def only() -> None:
        started.set()
        assert go.wait(TIMEOUT_S)

    run = Run(only)
    gang.run(run.block)
    assert started.wait(TIMEOUT_S)
    run.block.grant = Grant(PAIR[1:], (0,))
    go.set()
    run.wait()
    assert (run.resized, run.ends) == ([], [None])


def fail() -> None:
    raise RuntimeError("kernel failed")


def test_an_error_of_a_kernel_ends_its_block_only(gang: Gang) -> None:
    broken = [Run(lambda: None, fail, lambda: None, cores=(core,)) for core in PAIR]
    for run in broken:
        gang.run(run.block)
    for run in broken:
        run.wait()
        (error,) = run.ends
        assert str(error) == "kernel failed"
        assert run.block.ended_layers == 1
    # Both workers live on: two blocks still run at once.
    test_two_blocks_run_at_once(gang)


@pytest.mark.parametrize("hook", ["before", "after"])
def test_an_error_beside_the_layers_ends_the_block_too(gang: Gang, hook: str) -> None:
    run = Run(lambda: None, **{hook: fail})
    gang.run(run.block)
    run.wait()
    assert [str(error) for error in run.ends] == ["kernel failed"]


def test_a_core_that_is_not_the_gangs_is_refused(gang: Gang) -> None:
    with pytest.raises(LookupError, match="core 100000 is not one of"):
        gang.run(Run(lambda: None, cores=(100_000,)).block)


def test_stopping_ends_the_blocks_under_way_and_all_threads() -> None:
    before = set(threading.enumerate())
    gang = Gang(PAIR)
    workers = set(threading.enumerate()) - before
    runs = [Run(lambda: None) for _ in range(5)]
    for run in runs:
        gang.run(run.block)
    gang.stop()
    assert all(run.ends == [None] for run in runs)
    assert len(workers) == 2
    assert not any(thread.is_alive() for thread in workers)


def test_a_gang_on_cores_that_cannot_be_had_is_an_error_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with pytest.raises(ValueError, match=r"cores \(100000, 100001\) cannot all be had; .* may use"):
        Gang((100_000, 100_001))
    assert set(threading.enumerate()) == before


def test_a_network_run_by_a_gang_gives_the_right_answer(gang: Gang, tiny_loaded: LoadedModel) -> None:
    runs = []
    for seed in range(4):
        instance = tiny_loaded.instance()
        sample = np.random.default_rng(seed).standard_normal((1, 3, 16, 16), dtype=np.float32)
        instance.set_inputs([sample])
        run = Run(cores=PAIR[:1])
        run.block.calls = instance.calls
        run.block.grant = Grant(PAIR[:1], (0,) * 6)
        runs.append((run, instance, sample))
        gang.run(run.block)
    for run, instance, sample in runs:
        run.wait()
        assert run.ends == [None]
        assert relative_error(instance.read_outputs()[0], run_onnx(tiny(), sample)[0]) < 1e-4


def test_a_thread_has_its_cores_back_after_it_ran_kernels_on_others() -> None:
    with on_cores(CORES[:1]):
        assert os.sched_getaffinity(0) == {CORES[0]}
    assert tuple(sorted(os.sched_getaffinity(0))) == CORES
