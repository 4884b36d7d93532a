from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import random_queries
from tests.support.sim_builders import allocation
from tests.support.timeline_builders import GROUPS, Whimsical, server_context
from veltair.machine.costs.block_costs import BlockCosts
from veltair.machine.models.model_memory import ModelMemory, ModelMemoryError
from veltair.serving.engine.background import Job, OnDone
from veltair.serving.engine.on_demand import OnDemand
from veltair.serving.loop.backend import Backend, BlockEnd, Closed, Command, Event, Loaded, Resized, Woken
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import Allocation, Evict, Load, Resize, Wake, Yield
from veltair.serving.loop.query import QueryRecord
from veltair.serving.simulator.noise import noise_batches
from veltair.serving.simulator.simulator import Simulator


@dataclass
class Weights:
    """Weights of so many bytes."""

    bytes_needed: int
    error: str = ""

    def load(self) -> int:
        if self.error:
            raise OSError(self.error)
        return self.bytes_needed

    def release(self) -> None:
        pass


def memory_of(budget_bytes: int, **sizes: int) -> ModelMemory:
    return ModelMemory(budget_bytes, {name: Weights(size) for name, size in sizes.items()})


class Loads:
    """Background jobs that are done when the test says so, as if another thread had done it."""

    def __init__(self) -> None:
        self.open: deque[tuple[Job, OnDone]] = deque()

    def do(self, job: Job, on_done: OnDone) -> None:
        self.open.append((job, on_done))

    def end(self) -> Event | None:
        """End the oldest load, and return what the loop is to hear of."""
        job, on_done = self.open.popleft()
        job()
        return on_done()


def clock() -> float:
    return 7.0


@dataclass
class Script:
    """A backend that does what it is told and keeps what it was asked."""

    events: deque[Event] = field(default_factory=deque)
    started: list[Allocation] = field(default_factory=list)
    resized: list[Resize] = field(default_factory=list)
    yielded: list[Yield] = field(default_factory=list)

    def do(self, command: Command) -> None:
        match command:
            case Allocation():
                self.started.append(command)
            case Resize():
                self.resized.append(command)
            case Yield():
                self.yielded.append(command)
            case Wake():
                raise AssertionError("nobody asked to be woken")

    def wait(self) -> Event | None:
        return self.events.popleft() if self.events else None

    def pressure(self) -> float:
        return 0.25

    def progress(self) -> Mapping[int, int]:
        return dict.fromkeys((one.query_id for one in self.started), 1)


A, B, C = (allocation(number, name, (0, 2), 1) for number, name in enumerate("abc", start=1))


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def loads() -> Loads:
    return Loads()


@pytest.fixture
def one_at_a_time(script: Script, loads: Loads) -> OnDemand:
    """Two models of which only one fits; the block of the first runs, that of the second waits."""
    backend = OnDemand(script, memory_of(10, a=6, b=6), ("a", "b"), loads.do, clock)
    backend.do(A)
    loads.end()
    backend.do(B)
    return backend


@pytest.fixture
def roomy(script: Script, loads: Loads) -> OnDemand:
    """Three models that fit together; the block of the first runs, its model is in memory."""
    backend = OnDemand(script, memory_of(10, a=3, b=3, c=3), ("a", "b", "c"), loads.do, clock)
    backend.do(A)
    loads.end()
    return backend


def test_a_block_starts_as_soon_as_its_model_is_loaded(roomy: OnDemand, script: Script, loads: Loads) -> None:
    roomy.do(B)
    assert script.started == [A]
    loads.end()
    assert script.started == [A, B]


def test_while_a_model_is_loaded_blocks_of_others_start(
    roomy: OnDemand, script: Script, loads: Loads
) -> None:
    roomy.do(B)
    roomy.do(replace(A, query_id=4))
    assert [one.query_id for one in script.started] == [1, 4]
    assert roomy.progress() == {1: 1, 4: 1, 2: 0}


def test_models_are_loaded_one_at_a_time_in_the_order_of_their_blocks(
    roomy: OnDemand, script: Script, loads: Loads
) -> None:
    roomy.do(C)
    roomy.do(B)
    for expected in ([A], [A, C], [A, C, B]):
        assert script.started == expected
        assert len(loads.open) == (len(expected) < 3)
        if loads.open:
            loads.end()


def test_a_model_is_loaded_once_for_all_blocks_that_wait_for_it(
    roomy: OnDemand, script: Script, loads: Loads
) -> None:
    roomy.do(B)
    roomy.do(replace(B, query_id=4))
    loads.end()
    assert [one.query_id for one in script.started] == [1, 2, 4]
    assert not loads.open


def test_a_load_that_fails_is_told_once(script: Script, loads: Loads) -> None:
    memory = ModelMemory(10, {"a": Weights(3, error="the disk is gone")})
    OnDemand(script, memory, ("a",), loads.do, clock).do(A)
    with pytest.raises(ModelMemoryError, match="loading a failed: the disk is gone"):
        loads.end()
    assert (script.started, memory.held_bytes) == ([], 0)


def test_a_load_that_nobodys_end_makes_room_for_is_an_error_not_a_wait(script: Script, loads: Loads) -> None:
    memory = memory_of(10, a=6, b=6)
    memory.acquire("b")  # by somebody else, who never releases it
    backend = OnDemand(script, memory, ("a", "b"), loads.do, clock)
    with pytest.raises(ModelMemoryError, match=r"a needs up to .* in use by queries: b .*wait for their end"):
        backend.do(A)


def test_the_end_of_a_block_frees_its_model_for_a_load_that_was_refused(
    one_at_a_time: OnDemand, script: Script, loads: Loads
) -> None:
    assert not loads.open
    script.events.append(BlockEnd(3.0, 1, 2))
    one_at_a_time.wait()
    assert script.started == [A]
    loads.end()
    assert script.started == [A, B]


def test_a_block_waits_for_the_end_of_one_whose_model_leaves_no_room(
    one_at_a_time: OnDemand, script: Script
) -> None:
    assert script.started == [A]
    assert one_at_a_time.progress() == {1: 1, 2: 0}


def test_blocks_of_one_model_share_it(roomy: OnDemand, script: Script, loads: Loads) -> None:
    roomy.do(replace(A, query_id=3))
    assert [one.query_id for one in script.started] == [1, 3]
    assert not loads.open


def test_no_later_block_passes_one_that_waits_for_room(
    one_at_a_time: OnDemand, script: Script, loads: Loads
) -> None:
    # Else a model in constant use would keep another one out for ever.
    one_at_a_time.do(replace(A, query_id=3))
    script.events.append(BlockEnd(3.0, 1, 2))
    one_at_a_time.wait()
    loads.end()
    assert [one.query_id for one in script.started] == [1, 2]


def test_a_block_that_waits_adopts_its_last_change_at_the_next_event(
    one_at_a_time: OnDemand, script: Script, loads: Loads
) -> None:
    one_at_a_time.do(Resize(2, 2))
    one_at_a_time.do(Resize(2, 3, (1, 1)))
    script.events.append(BlockEnd(3.0, 1, 2))
    assert [one_at_a_time.wait() for _ in range(3)] == [BlockEnd(3.0, 1, 2), Resized(3.0, 2, 3), None]
    loads.end()
    assert script.started[-1] == replace(B, cores=3, versions=(1, 1))
    assert script.resized == []


def test_a_change_that_another_one_followed_is_not_told(one_at_a_time: OnDemand, script: Script) -> None:
    one_at_a_time.do(Resize(2, 2))
    script.events.extend([Woken(1.0), Woken(2.0)])
    assert one_at_a_time.wait() == Woken(1.0)
    one_at_a_time.do(Resize(2, 3))
    assert [one_at_a_time.wait() for _ in range(2)] == [Woken(2.0), Resized(2.0, 2, 3)]


def test_a_block_that_is_to_yield_before_its_model_is_loaded_does_so_after_its_first_layer(
    roomy: OnDemand, script: Script, loads: Loads
) -> None:
    roomy.do(B)
    roomy.do(Yield(2))
    assert script.yielded == []
    loads.end()
    assert (script.started, script.yielded) == ([A, B], [Yield(2)])
    script.events.append(BlockEnd(3.0, 2, 1))
    roomy.wait()
    roomy.do(B)
    assert script.yielded == [Yield(2)]


def test_a_block_that_runs_yields_to_the_backend(roomy: OnDemand, script: Script) -> None:
    roomy.do(Yield(1))
    assert script.yielded == [Yield(1)]


def test_a_change_is_not_told_once_its_block_has_ended(roomy: OnDemand, script: Script, loads: Loads) -> None:
    roomy.do(B)
    roomy.do(Resize(2, 2))
    loads.end()
    script.events.append(BlockEnd(3.0, 2, 2))
    assert [roomy.wait() for _ in range(2)] == [BlockEnd(3.0, 2, 2), None]
    assert script.started[-1].cores == 2


def test_no_change_is_told_once_the_run_is_over(one_at_a_time: OnDemand, script: Script) -> None:
    one_at_a_time.do(Resize(2, 2))
    script.events.append(Closed(3.0))
    assert [one_at_a_time.wait() for _ in range(2)] == [Closed(3.0), None]


def test_a_block_that_runs_is_changed_by_the_backend(one_at_a_time: OnDemand, script: Script) -> None:
    one_at_a_time.do(Resize(1, 2))
    assert script.resized == [Resize(1, 2)]


def test_pressure_is_the_backends(one_at_a_time: OnDemand) -> None:
    assert one_at_a_time.pressure() == 0.25


def test_a_model_larger_than_the_budget_is_refused_before_the_run(script: Script) -> None:
    with pytest.raises(ModelMemoryError, match=r"b needs up to .* raise it.*engine\.memory_mb"):
        OnDemand(script, memory_of(10, a=6, b=11), ("a", "b"), Loads().do, clock)


class Guarded(Simulator):
    """A simulator that starts no block of a model that is not in memory; loads end after some events."""

    memory: ModelMemory
    loads: Loads
    chance: np.random.Generator

    def do(self, command: Command) -> None:
        if isinstance(command, Allocation):
            assert command.block.model in self.memory.resident
            assert self.memory.held_bytes <= 10
        super().do(command)

    def wait(self) -> Event | None:
        assert len(self.loads.open) <= 1
        while self.loads.open and (not self._running or self.chance.random() < 0.5):
            self.loads.end()
        event = super().wait()
        if isinstance(event, Closed):
            self.loads.open.clear()
        return event


COSTS = BlockCosts(start_s=1e-5, resize_s=1e-6)


def run(
    seed: int,
    cores: int,
    *,
    budgeted: bool = True,
    memory: ModelMemory | None = None,
    drain_s: float = 1.0,
) -> list[QueryRecord]:
    """Return the records of a whimsical policy's run, in the order in which queries ended.

    Unless a memory is given, one of the two models fits in.
    """
    context = server_context(cores)
    rng = np.random.default_rng(seed)
    queries = random_queries(context, 30, seed)
    simulator = Guarded(
        queries,
        context,
        noise_batches(queries, context, rng),
        drain_s=drain_s,
        costs=COSTS,
    )
    simulator.memory, simulator.loads = memory or memory_of(10, small=6, large=6), Loads()
    simulator.chance = np.random.default_rng(seed)
    backend: Backend = OnDemand(simulator, simulator.memory, ("small", "large"), simulator.loads.do, clock)
    if not budgeted:
        backend = Simulator(
            queries,
            context,
            noise_batches(queries, context, rng),
            drain_s=1.0,
            costs=COSTS,
        )
    records = list(serve(Dispatcher(Whimsical(context, rng), context), backend))
    simulator.memory.settle()
    assert memory or simulator.memory.held_bytes == 6 * len(simulator.memory.resident)
    return records


@given(
    seed=st.integers(0, 10_000), cores=st.sampled_from(sorted(GROUPS)), drain_s=st.sampled_from([0.0, 1.0])
)
def test_every_query_ends_once_whatever_waits_for_memory(seed: int, cores: int, drain_s: float) -> None:
    records = run(seed, cores, drain_s=drain_s)
    assert sorted(record.query.id for record in records) == list(range(30))


def test_where_all_models_are_in_memory_nothing_changes() -> None:
    memory = memory_of(10, small=4, large=6)
    for name in ("small", "large"):
        with memory.using(name):
            pass
    assert run(7, 8, memory=memory) == run(7, 8, budgeted=False)


def test_a_load_that_the_policy_asks_for_ends_with_an_event(script: Script, loads: Loads) -> None:
    backend = OnDemand(script, memory_of(10, a=6, b=6), ("a", "b"), loads.do, clock)
    backend.do(Load("a"))
    assert loads.end() == Loaded(7.0, "a")
    backend.do(A)
    assert script.started == [A]


def test_a_model_that_the_policy_evicts_makes_room_for_another(script: Script, loads: Loads) -> None:
    memory = memory_of(10, a=6, b=6)
    backend = OnDemand(script, memory, ("a", "b"), loads.do, clock)
    backend.do(Load("a"))
    loads.end()
    backend.do(Evict("a"))
    backend.do(Load("b"))
    assert loads.end() == Loaded(7.0, "b")
    assert memory.resident == ("b",)
    assert memory.counts.evictions == 1


def test_a_load_that_finds_no_room_says_why(script: Script, loads: Loads) -> None:
    backend = OnDemand(script, memory_of(10, a=6, b=6), ("a", "b"), loads.do, clock)
    backend.do(Load("a"))
    loads.end()
    backend.do(A)
    with pytest.raises(ModelMemoryError, match=r"b needs up to 0\.0 MB, but of the budget"):
        backend.do(Load("b"))
