from typing import Any

import pytest
from tvm import s_tir, te
from tvm.s_tir import meta_schedule as ms

from veltair.compiler.search.evolution import Evolution, measurable, module_of, replayed
from veltair.compiler.search.target import cpu_target
from veltair.compiler.search.traces import plain


def product(size: int = 16) -> Any:
    """Return C = A B."""
    a, b = te.placeholder((size, size), name="A"), te.placeholder((size, size), name="B")
    k = te.reduce_axis((0, size), name="k")
    c = te.compute((size, size), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")
    return te.create_prim_func([a, b, c])


def evolution(seed: int = 1) -> Evolution:
    return Evolution(product(), cpu_target(4), population=8, generations=1, batch=4, seed=seed)


def traces(candidates: list[Any]) -> list[Any]:
    return [plain(one.sch.trace.as_json()) for one in candidates]


@pytest.fixture(scope="module")
def searched() -> list[list[Any]]:
    """Batches of one evolution, each learned before the next."""
    started, batches = evolution(), []
    started.start(12)
    while proposed := started.propose():
        batches.append(proposed)
        started.learn(proposed, [[1e-6 * (1 + index)] for index in range(len(proposed))], proposed=True)
    return batches


def test_it_proposes_as_many_candidates_as_it_was_asked_for(searched: list[list[Any]]) -> None:
    assert [len(batch) for batch in searched] == [4, 4, 4]


def test_no_candidate_is_proposed_twice(searched: list[list[Any]]) -> None:
    found = [str(one) for batch in searched for one in traces(batch)]
    assert len(set(found)) == len(found)


def test_a_proposed_trace_replays_to_what_is_measured(searched: list[list[Any]]) -> None:
    (first, *_) = searched[0]
    again = replayed(product(), plain(first.sch.trace.as_json()))
    assert str(again.mod) == str(first.sch.mod)


def test_what_was_learned_from_a_record_is_not_proposed_again(searched: list[list[Any]]) -> None:
    known = [one for batch in searched for one in traces(batch)]
    resumed = evolution()  # of the same seed, so that it would propose the same again
    resumed.learn(
        [measurable(replayed(product(), trace)) for trace in known], [[1e-6]] * len(known), proposed=False
    )
    resumed.start(4)
    assert not [one for one in traces(resumed.propose()) if one in known]


def test_a_schedule_whose_weights_have_their_layout_already_does_not_stop_the_search() -> None:
    # TVM gives up the whole search if its change of layout does not apply to what it starts from.
    function = product().with_attr("layout_free_buffers", [1])
    schedule = s_tir.Schedule(module_of(function), debug_mask="none")
    block = schedule.get_sblock("C")
    row, column, inner = schedule.get_loops(block)
    outer, lane = schedule.split(column, [None, 8])
    schedule.reorder(row, outer, inner, lane)
    assert ms.postproc.RewriteLayout().apply(schedule)
    started = Evolution(function, cpu_target(4), population=8, generations=1, batch=4, seed=1)
    started.learn([measurable(schedule)], [[1e-6]], proposed=False)
    started.start(4)
    assert len(started.propose()) == 4


def test_candidates_that_failed_are_learned_too() -> None:
    started = evolution()
    started.start(8)
    started.learn(proposed := started.propose(), [()] * len(proposed), proposed=True)
    assert len(started.propose()) == 4
