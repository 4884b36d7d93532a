"""The books of a memory budget, by hand."""

import pytest

from veltair.machine.models.memory_budget import CannotLoad, Residency


def with_resident(budget_bytes: int, **sizes: int) -> Residency:
    """Return books in which models were loaded in this order."""
    books = Residency(budget_bytes)
    for name, size in sizes.items():
        books.begin(name, size)
        books.end(name, size)
    return books


def test_the_least_recently_loaded_gives_way_first() -> None:
    books = with_resident(30, a=10, b=10, c=10)
    assert books.begin("d", 10) == ("a",)
    assert books.resident == ("b", "c")


def test_a_use_makes_a_model_the_most_recently_used() -> None:
    books = with_resident(30, a=10, b=10, c=10)
    books.acquire("a")
    books.release("a")
    assert books.begin("d", 15) == ("b", "c")


def test_the_end_of_a_use_counts_as_a_use() -> None:
    books = with_resident(30, a=10, b=10)
    books.acquire("a")
    books.acquire("b")
    books.release("b")
    books.release("a")
    assert books.resident == ("b", "a")


def test_no_more_give_way_than_must() -> None:
    books = with_resident(30, a=10, b=10)
    assert books.begin("c", 10) == ()


def test_a_model_in_use_is_passed_over() -> None:
    books = with_resident(30, a=10, b=10, c=10)
    books.acquire("a")
    assert books.begin("d", 20) == ("b", "c")
    assert books.resident == ("a",)


def test_a_model_used_twice_stays_until_it_is_released_twice() -> None:
    books = with_resident(10, a=10)
    books.acquire("a")
    books.acquire("a")
    books.release("a")
    assert books.refusal("b", 10) is not None
    books.release("a")
    assert books.begin("b", 10) == ("a",)


def test_a_model_larger_than_the_budget_is_refused_with_both_sizes() -> None:
    refused = Residency(10_000_000).refusal("huge", 12_500_000)
    assert refused is not None
    assert refused.is_final
    assert str(refused) == (
        "huge needs up to 12.5 MB, more than the budget of 10.0 MB; raise it, or load fewer versions of its "
        "layers"
    )


def test_a_model_that_those_in_use_leave_no_room_for_is_refused_and_they_are_named() -> None:
    books = with_resident(10_000_000, idle=1_000_000, busy=8_000_000)
    books.acquire("busy")
    refused = books.refusal("new", 3_000_000)
    assert refused == CannotLoad("new", 3_000_000, 10_000_000, {"busy": 8_000_000})
    assert not refused.is_final
    assert str(refused) == (
        "new needs up to 3.0 MB, but of the budget of 10.0 MB are in use by queries: busy (8.0 MB); wait for "
        "their end, or raise it"
    )


def test_one_load_is_under_way_at_a_time() -> None:
    books = Residency(30)
    books.begin("a", 10)
    assert books.loading == "a"
    assert str(books.refusal("b", 10)) == ("b cannot be loaded while a is; wait for the end of that load")
    books.end("a", 10)
    assert (books.loading, books.refusal("b", 10)) == ("", None)


def test_a_load_holds_what_it_reserved_until_its_true_size_is_known() -> None:
    books = Residency(30)
    books.begin("a", 20)
    assert books.held_bytes == 20
    books.end("a", 15)
    assert books.held_bytes == 15


def test_a_failed_load_leaves_its_room() -> None:
    books = Residency(30)
    books.begin("a", 20)
    books.abandon("a")
    assert (books.held_bytes, books.resident, books.loading) == (0, (), "")


def test_a_model_that_is_refused_pushes_nobody_out() -> None:
    books = with_resident(30, a=10, b=10, c=10)
    books.acquire("c")
    with pytest.raises(ValueError, match=r"d needs up to 0\.0 MB"):
        books.begin("d", 25)
    assert books.resident == ("a", "b", "c")


def test_books_refuse_what_cannot_be() -> None:
    books = with_resident(30, a=10)
    with pytest.raises(ValueError, match="a is resident; use it"):
        books.begin("a", 10)
    with pytest.raises(LookupError, match="a is released but nobody uses it"):
        books.release("a")
    with pytest.raises(LookupError, match=r"b is not resident, only \['a'\]; load it first"):
        books.acquire("b")
    with pytest.raises(LookupError, match="no load of b is under way"):
        books.end("b", 1)
    books.begin("b", 10)
    with pytest.raises(ValueError, match="b holds 11 bytes but had asked for 10"):
        books.end("b", 11)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="a memory budget of 0 bytes holds no model"):
        Residency(0)
