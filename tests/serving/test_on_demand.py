from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from builders import random_queries
from hypothesis import given
from hypothesis import strategies as st
from sim_builders import allocation
from timeline_builders import GROUPS, Whimsical, server_context

from veltair.machine.model_memory import ModelMemory, ModelMemoryError
from veltair.serving.dispatcher import Backend, BlockEnd, Closed, Dispatcher, Event, Resized, Woken, serve
from veltair.serving.on_demand import OnDemand
from veltair.serving.policy import Allocation, Resize
from veltair.serving.query import QueryRecord
from veltair.serving.simulator import Simulator


@dataclass
class Weights:
    """Weights of so many bytes."""

    bytes_needed: int

    def load(self) -> int:
        return self.bytes_needed

    def release(self) -> None:
        pass


def memory_of(budget_bytes: int, **sizes: int) -> ModelMemory:
    return ModelMemory(budget_bytes, {name: Weights(size) for name, size in sizes.items()})


@dataclass
class Script:
    """A backend that does what it is told and keeps what it was asked."""

    events: deque[Event] = field(default_factory=deque)
    started: list[Allocation] = field(default_factory=list)
    resized: list[Resize] = field(default_factory=list)

    def start(self, allocation: Allocation) -> None:
        self.started.append(allocation)

    def resize(self, resize: Resize) -> None:
        self.resized.append(resize)

    def wake_at(self, time_s: float) -> None:
        raise AssertionError("nobody asked to be woken")

    def wait(self) -> Event | None:
        return self.events.popleft() if self.events else None

    def pressure(self) -> float:
        return 0.25

    def progress(self) -> Mapping[int, int]:
        return dict.fromkeys((one.query_id for one in self.started), 1)


A, B = allocation(1, "a", (0, 2), 1), allocation(2, "b", (0, 2), 1)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def one_at_a_time(script: Script) -> OnDemand:
    """Two models of which only one fits; the block of the first runs, that of the second waits."""
    backend = OnDemand(script, memory_of(10, a=6, b=6), ("a", "b"))
    backend.start(A)
    backend.start(B)
    return backend


def test_a_block_waits_for_the_end_of_one_whose_model_leaves_no_room(
    one_at_a_time: OnDemand, script: Script
) -> None:
    assert script.started == [A]
    assert one_at_a_time.progress() == {1: 1, 2: 0}
    script.events.append(BlockEnd(3.0, 1))
    assert one_at_a_time.wait() == BlockEnd(3.0, 1)
    assert script.started == [A, B]


def test_blocks_of_one_model_share_it(one_at_a_time: OnDemand, script: Script) -> None:
    backend = OnDemand(script, memory_of(10, a=6, b=6), ("a", "b"))
    script.started.clear()
    backend.start(A)
    backend.start(replace(A, query_id=3))
    assert [one.query_id for one in script.started] == [1, 3]


def test_no_later_block_passes_one_that_waits(one_at_a_time: OnDemand, script: Script) -> None:
    # Else a model in constant use would keep another one out for ever.
    one_at_a_time.start(replace(A, query_id=3))
    script.events.append(BlockEnd(3.0, 1))
    one_at_a_time.wait()
    assert [one.query_id for one in script.started] == [1, 2]


def test_a_block_that_waits_adopts_its_last_change_at_the_next_event(
    one_at_a_time: OnDemand, script: Script
) -> None:
    one_at_a_time.resize(Resize(2, 2))
    one_at_a_time.resize(Resize(2, 3, (1, 1)))
    script.events.append(BlockEnd(3.0, 1))
    assert [one_at_a_time.wait() for _ in range(3)] == [BlockEnd(3.0, 1), Resized(3.0, 2, 3), None]
    assert script.started[-1] == replace(B, cores=3, versions=(1, 1))
    assert script.resized == []


def test_a_change_that_another_one_followed_is_not_told(one_at_a_time: OnDemand, script: Script) -> None:
    one_at_a_time.resize(Resize(2, 2))
    script.events.extend([Woken(1.0), Woken(2.0)])
    assert one_at_a_time.wait() == Woken(1.0)
    one_at_a_time.resize(Resize(2, 3))
    assert [one_at_a_time.wait() for _ in range(2)] == [Woken(2.0), Resized(2.0, 2, 3)]


def test_no_change_is_told_once_the_run_is_over(one_at_a_time: OnDemand, script: Script) -> None:
    one_at_a_time.resize(Resize(2, 2))
    script.events.append(Closed(3.0))
    assert [one_at_a_time.wait() for _ in range(2)] == [Closed(3.0), None]


def test_a_block_that_runs_is_changed_by_the_backend(one_at_a_time: OnDemand, script: Script) -> None:
    one_at_a_time.resize(Resize(1, 2))
    assert script.resized == [Resize(1, 2)]


def test_pressure_is_the_backends(one_at_a_time: OnDemand) -> None:
    assert one_at_a_time.pressure() == 0.25


def test_a_model_larger_than_the_budget_is_refused_before_the_run(script: Script) -> None:
    with pytest.raises(ModelMemoryError, match=r"b needs up to .* raise it.*engine\.memory_mb"):
        OnDemand(script, memory_of(10, a=6, b=11), ("a", "b"))


class Guarded(Simulator):
    """A simulator that starts no block of a model that is not in memory."""

    memory: ModelMemory

    def start(self, allocation: Allocation) -> None:
        assert allocation.block.model in self.memory.resident
        assert self.memory.held_bytes <= 10
        super().start(allocation)


def run(seed: int, cores: int, budgeted: bool, small: int = 6, drain_s: float = 1.0) -> list[QueryRecord]:
    """Return the records of a whimsical policy's run, in the order in which queries ended."""
    context = server_context(cores)
    rng = np.random.default_rng(seed)
    simulator = Guarded(
        random_queries(context, 30, seed),
        context,
        rng,
        start_cost_s=1e-5,
        resize_cost_s=1e-6,
        drain_s=drain_s,
    )
    simulator.memory = memory_of(10, small=small, large=6)
    backend: Backend = OnDemand(simulator, simulator.memory, ("small", "large"))
    if not budgeted:
        backend = Simulator(
            random_queries(context, 30, seed),
            context,
            rng,
            start_cost_s=1e-5,
            resize_cost_s=1e-6,
            drain_s=1.0,
        )
    return list(serve(Dispatcher(Whimsical(context, rng), context), backend))


@given(
    seed=st.integers(0, 10_000), cores=st.sampled_from(sorted(GROUPS)), drain_s=st.sampled_from([0.0, 1.0])
)
def test_every_query_ends_once_whatever_waits_for_memory(seed: int, cores: int, drain_s: float) -> None:
    records = run(seed, cores, budgeted=True, drain_s=drain_s)
    assert sorted(record.query.id for record in records) == list(range(30))


def test_where_all_models_fit_nothing_changes() -> None:
    assert run(7, 8, budgeted=True, small=4) == run(7, 8, budgeted=False)
