"""Loads, evictions and refusals with made-up models, under any order of calls."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from veltair.machine.models.memory_budget import CannotLoad
from veltair.machine.models.model_memory import Counts, Loading, ModelMemory, ModelMemoryError


@dataclass
class Fake:
    """Weights that remember whether they are loaded; `spare_bytes` are asked for and not needed."""

    nbytes: int
    spare_bytes: int = 0
    error: str = ""
    loaded: bool = field(default=False, init=False)

    @property
    def bytes_needed(self) -> int:
        return self.nbytes + self.spare_bytes

    def load(self) -> int:
        assert not self.loaded
        if self.error:
            raise OSError(self.error)
        self.loaded = True
        return self.nbytes

    def release(self) -> None:
        assert self.loaded
        self.loaded = False


class Ticks:
    """A clock that is one second later at each look."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def memory_of(budget_bytes: int, **models: Fake) -> ModelMemory:
    return ModelMemory(budget_bytes, models, clock=Ticks())


def test_a_model_is_loaded_at_its_first_use_and_found_at_its_second() -> None:
    model = Fake(5)
    memory = memory_of(10, a=model)
    assert not model.loaded
    for _ in range(2):
        with memory.using("a"):
            assert model.loaded
    assert memory.counts == Counts(hits=1, loads=1)
    assert memory.load_seconds == {"a": [1.0]}


def test_memory_is_freed_before_the_newcomer_is_loaded() -> None:
    order: list[str] = []

    class Told(Fake):
        def load(self) -> int:
            order.append(f"load {self.nbytes}")
            return super().load()

        def release(self) -> None:
            order.append(f"release {self.nbytes}")
            super().release()

    memory = memory_of(10, a=Told(6), b=Told(7))
    for name in ("a", "b"):
        with memory.using(name):
            pass
    assert order == ["load 6", "release 6", "load 7"]
    assert memory.counts == Counts(loads=2, evictions=1)


def test_a_load_ahead_makes_the_first_use_a_hit() -> None:
    memory = memory_of(10, a=Fake(5))
    loading = memory.begin("a")
    assert isinstance(loading, Loading)
    assert (memory.loading, memory.resident, memory.held_bytes) == ("a", (), 5)
    loading.run()
    memory.end(loading)
    assert (memory.loading, memory.resident) == ("", ("a",))
    memory.acquire("a")
    assert memory.counts == Counts(hits=1, loads=1)


def test_a_load_ahead_that_cannot_fit_is_refused_and_changes_nothing() -> None:
    idle, busy = Fake(4), Fake(6)
    memory = memory_of(10, idle=idle, busy=busy, new=Fake(5))
    memory.acquire("busy")
    with memory.using("idle"):
        pass
    assert memory.begin("new") == memory.refusal("new") == CannotLoad("new", 5, 10, {"busy": 6})
    assert idle.loaded
    assert memory.counts == Counts(loads=2, refusals=1)


def test_a_use_that_cannot_fit_is_an_error_with_both_sizes() -> None:
    memory = memory_of(10_000_000, a=Fake(12_000_000))
    with pytest.raises(ModelMemoryError, match=r"a needs up to 12\.0 MB, more than the budget of 10\.0 MB"):
        memory.acquire("a")


def test_the_true_size_of_a_model_counts_once_it_is_known() -> None:
    memory = memory_of(10, a=Fake(5, spare_bytes=5), b=Fake(5))
    assert memory.bytes_needed("a") == 10
    memory.acquire("a")
    assert (memory.bytes_needed("a"), memory.held_bytes) == (5, 5)
    memory.acquire("b")
    assert memory.resident == ("a", "b")


def test_a_load_that_fails_is_told_where_it_ends_and_its_room_is_free() -> None:
    memory = memory_of(10, a=Fake(10, error="the disk is gone"), b=Fake(10))
    with pytest.raises(ModelMemoryError, match="loading a failed: the disk is gone"):
        memory.acquire("a")
    memory.acquire("b")
    assert (memory.resident, memory.counts) == (("b",), Counts(loads=1))


def test_a_model_larger_than_it_had_said_is_given_up() -> None:
    model = Fake(11, spare_bytes=-5)
    memory = memory_of(20, a=model)
    with pytest.raises(ModelMemoryError, match="it holds 11 bytes but had asked for 6"):
        memory.acquire("a")
    assert (model.loaded, memory.held_bytes) == (False, 0)


def test_a_load_must_run_before_it_ends() -> None:
    memory = memory_of(10, a=Fake(5))
    loading = memory.begin("a")
    assert isinstance(loading, Loading)
    with pytest.raises(ValueError, match="the load of a has not run"):
        memory.end(loading)


def test_a_load_that_is_given_up_leaves_nothing_though_it_has_run() -> None:
    model, other = Fake(5), Fake(6)
    memory = memory_of(10, a=model, b=other)
    memory.acquire("b")
    memory.release("b")
    loading = memory.begin("a")
    assert isinstance(loading, Loading)
    loading.run()
    memory.settle()
    assert (model.loaded, other.loaded, memory.held_bytes, memory.loading) == (False, False, 0, "")
    memory.acquire("a")
    assert memory.resident == ("a",)


def test_a_load_that_is_given_up_before_it_ran_still_frees_what_it_evicted() -> None:
    model, other = Fake(5), Fake(6)
    memory = memory_of(10, a=model, b=other)
    with memory.using("b"):
        pass
    memory.begin("a")
    memory.settle()
    assert (model.loaded, other.loaded, memory.held_bytes) == (False, False, 0)


def test_a_load_that_still_hangs_on_its_thread_is_not_touched() -> None:
    hanging = Fake(5)
    memory = memory_of(10, a=hanging)
    loading = memory.begin("a")
    assert isinstance(loading, Loading)
    loading.has_begun = True
    memory.settle()
    assert (memory.loading, memory.held_bytes) == ("", 0)


def test_nobody_uses_a_model_once_all_is_settled() -> None:
    memory = memory_of(10, a=Fake(6), b=Fake(6))
    memory.acquire("a")
    memory.acquire("a")
    memory.settle()
    memory.acquire("b")
    assert memory.resident == ("b",)


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(LookupError, match=r"b is not one of the models \['a'\]"):
        memory_of(10, a=Fake(5)).acquire("b")


NAMES = st.sampled_from("abcd")


class AnyOrder(RuleBasedStateMachine):
    """A memory beside a plain account of who used what when."""

    @initialize(budget=st.integers(1, 12), sizes=st.lists(st.integers(1, 8), min_size=4, max_size=4))
    def begin(self, budget: int, sizes: list[int]) -> None:
        self.budget = budget
        self.fakes = {name: Fake(size) for name, size in zip("abcd", sizes, strict=True)}
        self.memory = memory_of(budget, **self.fakes)
        self.users: list[str] = []
        self.last_use: list[str] = []
        self.loading: Loading | None = None

    def loaded(self) -> list[str]:
        return [name for name, fake in self.fakes.items() if fake.loaded]

    def fits(self, name: str) -> bool:
        fixed = sum(self.fakes[user].nbytes for user in set(self.users))
        return self.loading is None and fixed + self.fakes[name].nbytes <= self.budget

    def check_who_left(self, before: list[str], newcomer: str) -> None:
        gone = [name for name in before if name not in self.loaded()]
        assert not set(gone) & set(self.users)
        idle = [name for name in self.last_use if name in before and name not in self.users]
        assert sorted(gone) == sorted(idle[: len(gone)])  # the least recently used of the idle
        if gone:  # without the last to go there would have been no room
            kept = sum(self.fakes[name].nbytes for name in before if name not in gone)
            assert kept + self.fakes[idle[len(gone) - 1]].nbytes + self.fakes[newcomer].nbytes > self.budget

    def use(self, name: str) -> None:
        self.last_use = [other for other in self.last_use if other != name] + [name]

    @rule(name=NAMES)
    def acquire(self, name: str) -> None:
        before, fits = self.loaded(), self.fits(name)
        hit = name in self.memory.resident
        try:
            self.memory.acquire(name)
        except ModelMemoryError:
            assert not hit
            assert not fits
            assert self.loaded() == before
            return
        assert hit or fits
        if not hit:
            self.check_who_left(before, name)
        self.use(name)
        self.users.append(name)

    @precondition(lambda self: self.users)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.users))
        self.memory.release(name)
        self.users.remove(name)
        self.use(name)

    @rule(name=NAMES)
    def ask_ahead(self, name: str) -> None:
        if name in self.memory.resident:
            return
        fits = self.fits(name)
        loading = self.memory.begin(name)
        assert isinstance(loading, Loading) == fits
        if isinstance(loading, Loading):
            self.loading = loading

    @precondition(lambda self: self.loading is not None)
    @rule(error=st.sampled_from(["", "", "broken"]))
    def end_load(self, error: str) -> None:
        assert self.loading is not None
        name, fake = self.loading.model, self.fakes[self.loading.model]
        before, fake.error = self.loaded(), error
        self.loading.run()
        fake.error = ""
        self.check_who_left(before, name)
        if error:
            with pytest.raises(ModelMemoryError, match=error):
                self.memory.end(self.loading)
        else:
            self.memory.end(self.loading)
            self.use(name)
        self.loading = None

    @precondition(lambda self: self.users or self.loading)
    @rule(has_run=st.booleans())
    def cut_off(self, has_run: bool) -> None:
        if self.loading is not None and has_run:
            self.loading.run()
        self.memory.settle()
        self.users, self.loading = [], None

    @invariant()
    def books_are_never_above_the_budget(self) -> None:
        assert self.memory.held_bytes <= self.budget

    @invariant()
    def what_is_in_use_is_loaded(self) -> None:
        assert all(self.fakes[name].loaded for name in self.users)
        assert set(self.users) <= set(self.memory.resident)

    @invariant()
    def what_is_resident_is_what_is_loaded_by_last_use(self) -> None:
        resident = self.memory.resident
        assert list(resident) == [name for name in self.last_use if name in resident]
        if self.loading is None:
            assert sorted(resident) == self.loaded()
            assert self.memory.held_bytes == sum(self.fakes[name].nbytes for name in resident)


AnyOrder.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
test_memory_holds_its_promises_in_any_order_of_calls = AnyOrder.TestCase
