from dataclasses import replace
from math import inf, prod
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.compiler.footprint.traffic import CACHE_BYTES, Tiling
from veltair.compiler.footprint.version import Candidate
from veltair.compiler.select.select import Selection, locality, pareto_front, ratios, rounds_costs
from veltair.compiler.select.select import select as select_at


def candidate(index: int, parallelism: int, blocking_bytes: int, seconds: float | None) -> Candidate:
    """Return a candidate that took `seconds`, or did not run."""
    times = () if seconds is None else (seconds,)
    return Candidate("conv", index, Tiling(parallelism, blocking_bytes, 10**6), times, None)


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    """Draw candidates of few distinct values, so that ties happen; at least one of them ran."""
    values = st.tuples(
        st.sampled_from([1, 2, 4, 8, 16, 32]),
        st.sampled_from([0, 1, 10, 100, 1000, 10_000]),
        st.sampled_from([None, 1.0, 1.1, 1.3, 1.5, 2.0]),
    )
    drawn = draw(st.lists(values, min_size=1, max_size=30))
    ran = (draw(st.sampled_from([1, 4])), draw(st.sampled_from([1, 100])), draw(st.sampled_from([1.0, 1.2])))
    return [candidate(index, *value) for index, value in enumerate([*drawn, ran])]


ONE_CORE = rounds_costs([1])


def select(found: list[Candidate], selection: Selection) -> tuple[Candidate, ...]:
    """Select by the times on one core, as they are."""
    return select_at(found, selection, ONE_CORE)


SELECTIONS = st.builds(Selection, st.sampled_from([1.0, 1.2, 1.5, 3.0]), st.integers(1, 8))


def dominates(one: Candidate, other: Candidate) -> bool:
    a, b = one.tiling, other.tiling
    at_least = a.parallelism >= b.parallelism and a.blocking_bytes >= b.blocking_bytes
    return at_least and (a.parallelism, a.blocking_bytes) != (b.parallelism, b.blocking_bytes)


@given(candidates(), SELECTIONS)
def test_some_are_chosen_and_never_more_than_asked_for(found: list[Candidate], selection: Selection) -> None:
    chosen = select(found, selection)
    assert 1 <= len(chosen) <= selection.count
    assert len({one.index for one in chosen}) == len(chosen)


@given(candidates(), SELECTIONS)
def test_the_fastest_is_always_chosen(found: list[Candidate], selection: Selection) -> None:
    least = min(one.median_seconds for one in found)
    assert least in [one.median_seconds for one in select(found, selection)]


@given(candidates(), SELECTIONS)
def test_all_chosen_are_within_the_slack(found: list[Candidate], selection: Selection) -> None:
    least = min(one.median_seconds for one in found)
    assert all(one.median_seconds <= selection.slack * least for one in select(found, selection))


@given(candidates(), SELECTIONS)
def test_none_but_the_fastest_is_beaten_in_both_metrics(found: list[Candidate], selection: Selection) -> None:
    least = min(one.median_seconds for one in found)
    kept = [one for one in found if one.median_seconds <= selection.slack * least]
    for one in select(found, selection):
        assert one.median_seconds == least or not any(dominates(other, one) for other in kept)


@given(candidates(), SELECTIONS)
def test_the_most_local_comes_first(found: list[Candidate], selection: Selection) -> None:
    blocking = [one.tiling.blocking_bytes for one in select(found, selection)]
    assert blocking == sorted(blocking, reverse=True)


@given(candidates(), SELECTIONS, st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_does_not_matter(
    found: list[Candidate], selection: Selection, random: Random
) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)
    assert select(shuffled, selection) == select(found, selection)


@given(candidates(), SELECTIONS)
def test_a_front_that_fits_is_chosen_whole(found: list[Candidate], selection: Selection) -> None:
    least = min(one.median_seconds for one in found)
    front = pareto_front([one for one in found if one.median_seconds <= selection.slack * least], ONE_CORE)
    if len(front) < selection.count:
        assert set(map(index_of, front)) <= set(map(index_of, select(found, selection)))


def index_of(one: Candidate) -> int:
    return one.index


# A front of 7 whose blocking bytes are 1000 e^-k for k = 0, 1, 2, 2.9, 4, 5, 6, rounded: parallelism grows
# as blocking shrinks. All take 1.0 s but number 3, the fastest.
FRONT = [
    candidate(0, 1, 1000, 1.0),
    candidate(1, 2, 368, 1.0),
    candidate(2, 4, 135, 1.0),
    candidate(3, 8, 55, 0.9),
    candidate(4, 16, 18, 1.0),
    candidate(5, 32, 7, 1.0),
    candidate(6, 64, 2, 1.0),
]


def numbers(selection: Selection, found: list[Candidate] = FRONT) -> list[int]:
    return [one.index for one in select(found, selection)]


def test_five_of_a_front_of_seven_are_evenly_spaced_in_the_logarithm_of_blocking() -> None:
    # ln 1000 = 6.91 and ln 2 = 0.69, so wanted between are 5.35, 3.80 and 2.25. ln of the others: 368: 5.91,
    # 135: 4.91, 55: 4.01, 18: 2.89, 7: 1.95. 5.35 is nearest to 4.91 (0.44; 5.91 is 0.56 away), 3.80 to 4.01,
    # and 2.25 to 1.95 (0.30; 2.89 is 0.64 away).
    assert numbers(Selection(1.5, 5)) == [0, 2, 3, 5, 6]


def test_of_two_both_ends_are_chosen_and_the_fastest_replaces_the_nearer() -> None:
    # ln 55 = 4.01 is 2.90 below ln 1000 and 3.32 above ln 2.
    assert numbers(Selection(1.5, 2)) == [3, 6]


def test_of_three_the_ends_stay() -> None:
    # Wanted is 3.80: the fastest itself, 4.01.
    assert numbers(Selection(1.5, 3)) == [0, 3, 6]


def test_the_fastest_outside_the_front_replaces_the_nearest_between_the_ends() -> None:
    # Number 7 is beaten by 2 in both metrics, but is the fastest. Its ln 130 = 4.87 is nearest to 135.
    found = [*FRONT, candidate(7, 3, 130, 0.8)]
    assert numbers(Selection(1.5, 5), found) == [0, 7, 3, 5, 6]


def test_the_fastest_does_not_replace_an_end_though_it_is_nearest() -> None:
    # ln 990 is nearest to the end of 1000, but of those between to 135.
    found = [*FRONT, candidate(7, 1, 990, 0.8)]
    assert numbers(Selection(1.5, 5), found) == [0, 7, 3, 5, 6]


def test_one_version_is_the_fastest() -> None:
    assert numbers(Selection(1.5, 1)) == [3]


def test_one_version_is_the_fastest_also_outside_the_front() -> None:
    assert numbers(Selection(1.5, 1), [*FRONT, candidate(7, 1, 1, 0.8)]) == [7]


def test_a_slack_of_one_leaves_only_those_as_fast_as_the_fastest() -> None:
    assert numbers(Selection(1.0, 5)) == [3]


def test_a_larger_count_than_there_are_gives_all() -> None:
    assert numbers(Selection(1.5, 8)) == [0, 1, 2, 3, 4, 5, 6]


def test_of_candidates_with_equal_metrics_the_faster_is_on_the_front() -> None:
    two = [candidate(0, 4, 10, 2.0), candidate(1, 4, 10, 1.0)]
    assert [one.index for one in pareto_front(two, ONE_CORE)] == [1]


def test_candidates_that_did_not_run_are_never_chosen() -> None:
    assert numbers(Selection(3.0, 5), [candidate(0, 64, 10**6, None), candidate(1, 1, 1, 1.0)]) == [1]


def test_if_none_ran_the_structure_is_named() -> None:
    with pytest.raises(ValueError, match=r"no candidate of conv ran; .*`search\.trials`"):
        select([candidate(0, 1, 1, None)], Selection(1.5, 5))


def test_no_candidates_at_all_are_an_error_too() -> None:
    with pytest.raises(ValueError, match="no candidate of a layer ran"):
        select([], Selection(1.5, 5))


@pytest.mark.parametrize(("slack", "count"), [(0.9, 5), (float("nan"), 5), (1.5, 0)])
def test_a_selection_out_of_range_is_refused(slack: float, count: int) -> None:
    with pytest.raises(ValueError, match=r"select\.(slack|count) is"):
        Selection(slack, count)


def test_an_infinite_slack_keeps_all() -> None:
    assert len(numbers(Selection(inf, 8))) == 7


CORES = st.sampled_from([(1,), (1, 2), (1, 2, 4), (1, 2, 4, 6), (8, 16, 32, 64)])


@given(candidates(), SELECTIONS, CORES)
def test_on_several_core_counts_the_one_of_least_mean_ratio_is_chosen(
    found: list[Candidate], selection: Selection, cores: tuple[int, ...]
) -> None:
    costs = rounds_costs(cores)
    means = {
        one.index: prod(row) ** (1 / len(row))
        for one, row in zip(found, ratios(found, costs), strict=True)
        if row
    }
    least = min(means.values())
    chosen = [means[one.index] for one in select_at(found, selection, costs)]
    assert min(chosen) == pytest.approx(least)


@given(candidates(), SELECTIONS, CORES)
def test_on_several_core_counts_none_but_the_fastest_is_beaten_in_both_metrics(
    found: list[Candidate], selection: Selection, cores: tuple[int, ...]
) -> None:
    costs = rounds_costs(cores)
    table = ratios(found, costs)
    kept = [one for one, row in zip(found, table, strict=True) if row and min(row) <= selection.slack]
    chosen = select_at(found, selection, costs)
    beaten = [one for one in chosen if any(dominates(other, one) for other in kept)]
    assert len(beaten) <= 1
    assert len(chosen) <= selection.count


@given(candidates(), SELECTIONS, CORES, st.randoms(use_true_random=False))
def test_on_several_core_counts_the_order_of_the_candidates_does_not_matter(
    found: list[Candidate], selection: Selection, cores: tuple[int, ...], random: Random
) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)
    costs = rounds_costs(cores)
    assert select_at(shuffled, selection, costs) == select_at(found, selection, costs)


# On one core 0.9 s and 1.0 s. Two iterations take one round on 2 cores and on 4: 0.45 s; four take two
# rounds on 2 cores and one on 4: 0.5 s and 0.25 s.
FEW, MANY = candidate(0, 2, 1000, 0.9), candidate(1, 4, 10, 1.0)


def test_a_ratio_is_to_the_best_at_its_core_count() -> None:
    few, many = ratios([FEW, MANY], rounds_costs([1, 2, 4]))
    assert few == pytest.approx([1, 1, 0.45 / 0.25])
    assert many == pytest.approx([1 / 0.9, 0.5 / 0.45, 1])


def test_the_fastest_has_the_least_geometric_mean_over_the_core_counts() -> None:
    # Few: (1 x 1 x 1.8)^(1/3) = 1.22; many: (1.11 x 1.11 x 1)^(1/3) = 1.07. On one core few is the fastest.
    one = Selection(1.5, 1)
    assert select_at([FEW, MANY], one, rounds_costs([1, 2, 4])) == (MANY,)
    assert select_at([FEW, MANY], one, rounds_costs([1])) == (FEW,)


def test_what_is_within_the_slack_at_one_core_count_is_kept_though_it_is_slow_at_others() -> None:
    # At 64 cores a single iteration takes 64 times as long as 64.
    alone = candidate(0, 1, 1000, 1.0)
    assert select_at([alone, candidate(1, 64, 10, 1.2)], Selection(1.5, 5), rounds_costs([1, 64])) == (
        alone,
        candidate(1, 64, 10, 1.2),
    )


def with_traffic(one: Candidate, traffic_bytes: int) -> Candidate:
    return replace(one, traffic_bytes=(traffic_bytes,) * len(CACHE_BYTES))


def test_by_traffic_the_most_local_fetches_least() -> None:
    found = [with_traffic(FEW, 500), with_traffic(MANY, 100)]
    chosen = select_at(found, Selection(1.5, 5, "traffic"), ONE_CORE)
    # Number 1 has less traffic and more iterations; number 0 is the fastest on one core.
    assert [one.index for one in chosen] == [1, 0]


def test_by_traffic_a_candidate_without_an_estimate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"candidate 0 of conv has no estimate.*select\.metric: blocking"):
        locality(FEW, "traffic")


def test_a_metric_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match=r"select\.metric is 'speed'; give blocking or traffic"):
        Selection(1.5, 5, "speed")  # type: ignore[arg-type]


def test_touching_one_byte_is_more_local_than_touching_none() -> None:
    found = [candidate(0, 1, 0, 1.0), candidate(1, 1, 1, 1.2)]
    assert numbers(Selection(1.5, 5), found) == [1, 0]
