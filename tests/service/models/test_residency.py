from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.service.models.residency import Change, ModelUse, next_change, stays_until_s


def use(name: str, tenant: str = "a", nbytes: int = 10, **others: float | None) -> ModelUse:
    return replace(ModelUse(name, tenant, nbytes, core_s=1.0, load_s=1.0), **others)


def absent(name: str, waiting: int = 1, **others: object) -> ModelUse:
    return use(name, waiting=waiting, **others)


def resident(name: str, waiting: int = 0, **others: object) -> ModelUse:
    return use(name, **{"waiting": waiting, "loaded_s": 0.0} | others)


def change(*models: ModelUse, budget: int = 20, time_s: float = 100.0, **guaranteed: int) -> Change | None:
    return next_change(models, budget, guaranteed, time_s)


def test_a_model_that_nobody_asks_for_is_not_loaded() -> None:
    assert change(absent("x", waiting=0)) is None


def test_the_model_in_most_demand_is_loaded_first() -> None:
    assert change(absent("x"), absent("y", waiting=3), absent("z", waiting=2)) == Change("y")
    assert change(absent("x"), replace(absent("y"), core_s=5.0)) == Change("y")
    assert change(absent("x"), absent("y", waiting=0, rate=4.0)) == Change("y")


def test_those_in_least_demand_give_way_and_no_more_of_them_than_needed() -> None:
    held = (resident("busy", waiting=2), resident("idle"))
    assert change(absent("x"), *held) == Change("x", ("idle",))
    assert change(absent("x", nbytes=20, waiting=3), *held) == Change("x", ("idle", "busy"))


def test_one_in_more_demand_does_not_give_way() -> None:
    assert change(absent("x", waiting=2), resident("y", waiting=2), resident("z", waiting=9)) is None


def test_one_in_use_does_not_give_way() -> None:
    assert change(absent("x"), resident("y", in_use=True), resident("z", in_use=True)) is None


def test_one_that_was_just_loaded_does_not_give_way() -> None:
    just = resident("y", loaded_s=98.0)
    assert stays_until_s(just) == 101.0
    assert change(absent("x"), just, nbytes := resident("z", loaded_s=99.0)) is None
    assert change(absent("x"), just, nbytes, time_s=101.0) == Change("x", ("y",))


def test_a_model_without_room_does_not_hold_up_the_next() -> None:
    assert change(absent("huge", waiting=9, nbytes=50), absent("x")) == Change("x")


def test_others_do_not_displace_what_a_tenant_is_guaranteed() -> None:
    held = (resident("b1", tenant="b"), resident("b2", tenant="b"))
    assert change(absent("x", waiting=9), *held, b=20) is None
    assert change(absent("x", waiting=9), *held, b=10) == Change("x", ("b1",))
    # Its own models do.
    assert change(absent("b3", tenant="b"), *held, b=20) == Change("b3", ("b1",))


def test_a_tenant_claims_what_it_is_guaranteed_from_others_in_more_demand() -> None:
    held = (resident("b1", tenant="b", waiting=9), resident("b2", tenant="b", waiting=9))
    assert change(absent("x"), *held) is None
    assert change(absent("x"), *held, a=10) == Change("x", ("b1",))


MODELS = st.lists(
    st.builds(
        ModelUse,
        name=st.uuids().map(str),
        tenant=st.sampled_from("abc"),
        nbytes=st.integers(1, 10),
        core_s=st.floats(0.1, 5),
        load_s=st.floats(0.1, 5),
        rate=st.floats(0, 5),
        waiting=st.integers(0, 3),
        loaded_s=st.one_of(st.none(), st.floats(0, 100)),
        in_use=st.booleans(),
    ),
    max_size=8,
)


@given(MODELS, st.integers(5, 40), st.fixed_dictionaries(dict.fromkeys("abc", st.integers(0, 15))))
def test_whatever_is_asked_the_budget_holds_and_guarantees_are_kept(models, budget, guaranteed) -> None:
    if (found := next_change(models, budget, guaranteed, 100.0)) is None:
        return
    by_name = {one.name: one for one in models}
    wanted = by_name[found.load]
    stay = [one for one in models if one.loaded_s is not None and one.name not in found.evict]
    before = sum(one.nbytes for one in models if one.loaded_s is not None)
    assert sum(one.nbytes for one in stay) + wanted.nbytes <= max(budget, before)
    for one in map(by_name.__getitem__, found.evict):
        assert not one.in_use
        assert stays_until_s(one) <= 100.0
        left = sum(other.nbytes for other in stay if other.tenant == one.tenant)
        assert one.tenant == wanted.tenant or left >= guaranteed[one.tenant]


@pytest.mark.parametrize("size", [12, 20])
def test_a_working_set_above_the_budget_does_not_thrash(size: int) -> None:
    # Three models in equal demand, two of which fit; a load takes 1 s and one is under way at a time.
    loaded: dict[str, float] = {}
    loads = 0
    for second in range(60):
        models = [
            use(name, nbytes=size // 2, rate=1.0, waiting=second % 7 + (name not in loaded),
                loaded_s=loaded.get(name))
            for name in "xyz"
        ]  # fmt: skip
        if found := next_change(models, size, {}, float(second)):
            loads += 1
            for name in found.evict:
                del loaded[name]
            loaded[found.load] = second + 1.0
    assert loads <= 60 / 3 * 2
