from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import (
    linear_context,
    linear_seconds,
    make_context,
    make_costs,
    make_machine,
    make_model,
    random_context,
)
from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Context
from veltair.serving.loop.query import Query
from veltair.serving.policies.blocks import (
    SCALES,
    UNSCALED,
    BlockFormer,
    BudgetBasis,
    BudgetRule,
    Budgets,
    Threshold,
    coalesce,
    core_needs,
    dynamic_limit,
    form_blocks,
    qos_budgets,
)
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule

COUNTS = tuple(range(1, 9))

# Five layers of 2, 6, 1, 2, 4 core-ms with equal MACs, QoS 10 ms: each has a budget of 2 ms.
WORK_CORE_S = (0.002, 0.006, 0.001, 0.002, 0.004)
# Needs 1, 3, 1, 1, 2, so Avg_C = 1.6; on 8 cores K equal queries have the limit 8 x 1.6 / (1.6 K) = 8 / K,
# rounded down: 8, 4, 2, 2, 1, 1.
#   limit 8, 4: nothing needs more.
#   limit 2: layer 1 needs 3. Slack on 2 cores: layer 0 has 2 - 1 = 1 ms, layer 2 has 2 - 0.5 = 1.5 ms.
#     Layers 1-2: 7 core-ms in 4 ms need 2. Done.
#   limit 1: layers 1-2 as before (slack on 1 core: 0 and 1 ms). They need 2, as layer 4 does: the first of
#     equals is 1-2. Its neighbours 0 and 3 both have 0 ms: the following one. Layers 1-3: 9 core-ms in 6 ms
#     need 2. Neighbours: 0 has 0 ms, 4 has -2 ms. Layers 0-3: 11 core-ms in 8 ms need 2. Then 4:
#     15 core-ms in 10 ms need 2. One block.
SINGLE = ((1, 1), (1, 3), (1, 1), (1, 1), (1, 2))
MERGED = ((1, 1), (2, 2), (1, 1), (1, 2))
WHOLE = ((5, 2),)


def former(
    context: Context,
    reading: VersionRule = VersionRule.SOLO_AT_LEVEL,
    *,
    coalesce_layers: int = 1,
    threshold: Threshold = Threshold.ACTIVE_QUERIES,
) -> BlockFormer:
    budgets = Budgets(context, 1.0, BudgetRule.STATIC)
    return BlockFormer(
        context,
        LatencyTables(context, reading),
        budgets,
        coalesce_layers=coalesce_layers,
        threshold=threshold,
    )


def limits(
    blocks: BlockFormer, models: Iterable[str], active: Sequence[str], level: int = 0
) -> dict[str, int]:
    """Return the dynamic thresholds of models beside the queries in the system."""
    total = blocks.total_average(active, level)
    return {model: blocks.limit(model, total, level) for model in models}


def times_of(work_core_s: Sequence[float]) -> list[list[float]]:
    """Return the times by core count of layers that speed up linearly."""
    return linear_seconds(work_core_s, COUNTS)[:, 0, :, 0].tolist()


def blocks_of(blocks: BlockFormer, model: str, layers: int, limit: int, level: int = 0):
    """Return the blocks that a query runs when the load does not change: (layers, need) each."""
    found, first = [], 0
    while first < layers:
        proposal = blocks.next_block(model, first, limit, level)
        found.append((len(proposal.block), proposal.cores))
        first = proposal.block.stop
    return tuple(found)


@pytest.mark.parametrize(
    ("active", "limit", "expected"),
    [(1, 8, SINGLE), (2, 4, SINGLE), (3, 2, MERGED), (4, 2, MERGED), (5, 1, WHOLE), (6, 1, WHOLE)],
)
def test_more_active_queries_give_larger_blocks(active, limit, expected):
    context = linear_context(WORK_CORE_S)
    blocks = former(context)
    assert limits(blocks, ["net"], ["net"] * active) == {"net": limit}
    assert tuple(form_blocks(times_of(WORK_CORE_S), [0.002] * 5, COUNTS, limit)) == expected


def test_of_two_neighbours_with_equal_slack_the_following_one_is_merged():
    # Limit 2: layer 1 needs 3 cores; layers 0 and 2 both leave 1.5 of their 2 ms. 7 core-ms in 4 ms need 2.
    assert form_blocks(times_of((0.001, 0.006, 0.001)), [0.002] * 3, COUNTS, 2) == [(1, 1), (2, 2)]


def test_blocks_are_formed_anew_from_the_layers_not_yet_started():
    # From layer 2 on with limit 1: 1, 2 and 4 core-ms need 1, 1 and 2 cores. Layer 4 merges with layer 3
    # (6 core-ms in 4 ms: 2 cores), then with layer 2 (7 core-ms in 6 ms: 2 cores).
    proposal = former(linear_context(WORK_CORE_S)).next_block("net", 2, 1, 0)
    assert (proposal.block, proposal.cores) == (LayerBlock("net", 2, 5), 2)


def test_the_average_need_is_the_plain_mean_over_layers():
    assert former(linear_context(WORK_CORE_S)).average_cores("net", 0) == pytest.approx(1.6)


def test_models_share_the_limit_by_their_average_needs():
    # Avg_C 4 and 1 on 8 cores, one active query each: limits 8 x 4/5 = 6.4 and 8 x 1/5 = 1.6.
    wide, narrow = make_model("wide", (1,), 0.001), make_model("narrow", (1,), 0.001)
    seconds = {"wide": linear_seconds([0.004], COUNTS), "narrow": linear_seconds([0.001], COUNTS)}
    blocks = former(make_context(seconds, [wide, narrow]))
    assert limits(blocks, ["wide", "narrow"], ["wide", "narrow"]) == {"wide": 6, "narrow": 1}


def test_a_limit_is_a_profiled_count_and_at_least_the_smallest():
    counts = (8, 16, 32, 64)
    assert dynamic_limit(64, 10.0, 25.0, counts) == 16  # 25.6
    assert dynamic_limit(64, 10.0, 640.0, counts) == 8  # 1.0
    assert dynamic_limit(64, 10.0, 0.0, counts) == 64


def test_rounding_errors_do_not_cost_a_core():
    # 8 x 1.6 / (1.6 + 1.6 + 1.6 + 1.6) is 2 on paper.
    assert dynamic_limit(8, 1.6, sum([1.6] * 3) + 1.6000000000000003, COUNTS) == 2


@given(st.integers(min_value=0, max_value=9), st.integers(min_value=0, max_value=400), st.integers(0, 5))
def test_a_long_queue_has_the_limits_of_the_whole_sum(small, large, seed):
    context = random_context(seed)
    blocks = former(context)
    averages = {name: blocks.average_cores(name, 1) for name in context.models}
    total = small * averages["small"] + large * averages["large"]
    expected = {name: dynamic_limit(8, average, total, COUNTS) for name, average in averages.items()}
    assert limits(blocks, expected, ["small"] * small + ["large"] * large, 1) == expected


def test_more_cores_are_never_assumed_to_be_faster():
    # On 8 cores slower than on 4, on 2 slower than on 1: the fewest within 3 ms is 1, within 1.5 ms 4.
    seconds, counts = np.array([0.003, 0.004, 0.0015, 0.002]), (1, 2, 4, 8)
    needs = [int(core_needs(seconds, budget, counts)) for budget in (0.005, 0.003, 0.0015, 0.001)]
    assert needs == [1, 1, 4, 4]


def test_a_layer_that_cannot_meet_its_budget_needs_its_fastest_count():
    # No count is within 1 ms; the fastest, 4 cores, is within the limit, so nothing merges.
    times = [[0.003, 0.004, 0.0015, 0.002], [0.001, 0.001, 0.001, 0.001]]
    assert form_blocks(times, [0.001, 0.001], (1, 2, 4, 8), 4) == [(1, 4), (1, 1)]


def test_a_merged_block_may_need_fewer_cores_on_a_table_that_is_not_monotone():
    # Limit 2. Layer 0 needs 4 cores. With layer 1: 5 ms on 1 core, 6 on 2, 3.5 on 4; budget 5.5 ms.
    times = [[0.004, 0.005, 0.0025], [0.001, 0.001, 0.001]]
    assert form_blocks(times, [0.003, 0.0025], (1, 2, 4), 2) == [(2, 1)]


def test_budgets_follow_macs_and_add_up_to_alpha_of_the_target():
    context = linear_context([0.001] * 3, macs=[1, 1, 2], qos_s=0.008)
    np.testing.assert_allclose(qos_budgets(context.models["net"], context, 0.5), [0.001, 0.001, 0.002])


def test_layers_without_macs_get_their_part_of_the_isolated_time():
    # Isolated times 1, 2, 1 of 4 ms: the middle layer gets 2/4 of 8 ms; the other 4 ms go 1 : 3 by MACs.
    context = linear_context([0.001, 0.002, 0.001], macs=[1, 0, 3], qos_s=0.008)
    np.testing.assert_allclose(qos_budgets(context.models["net"], context, 1.0), [0.001, 0.004, 0.003])


def test_a_model_without_macs_is_split_by_isolated_time():
    context = linear_context([0.001, 0.003], macs=[0, 0], qos_s=0.008)
    np.testing.assert_allclose(qos_budgets(context.models["net"], context, 1.0), [0.002, 0.006])


def test_budgets_by_time_follow_the_isolated_time_whatever_the_macs():
    context = linear_context([0.001, 0.002, 0.001], macs=[1, 0, 3], qos_s=0.008)
    budgets = qos_budgets(context.models["net"], context, 1.0, BudgetBasis.TIME)
    np.testing.assert_allclose(budgets, [0.002, 0.004, 0.002])


@pytest.mark.parametrize("alpha", [0.0, -1.0, 1.01])
def test_alpha_is_a_share(alpha):
    context = linear_context([0.001])
    with pytest.raises(ValueError, match=r"give the share of the QoS target .* in \(0, 1\]"):
        qos_budgets(context.models["net"], context, alpha)


def test_a_table_with_other_layers_than_the_model_is_refused():
    costs = make_costs({"net": linear_seconds([0.001] * 2, COUNTS)}, COUNTS)
    context = Context({"net": make_model(macs=(1, 1, 1))}, costs, make_machine(8))
    with pytest.raises(ValueError, match="net has 3 layers, its cost table on toy has 2"):
        former(context)


@given(st.integers(0, 40), st.sampled_from(COUNTS), st.integers(0, 2), st.sampled_from(VersionRule))
def test_blocks_cover_all_layers_and_exceed_the_limit_only_as_one(seed, limit, level, reading):
    context = random_context(seed)
    blocks = former(context, reading)
    level = min(level, LatencyTables(context, reading).levels()[-1])
    for name, model in context.models.items():
        seconds = LatencyTables(context, reading).seconds(name, level)
        budgets_s = qos_budgets(model, context, 1.0).tolist()
        formed = form_blocks(seconds.tolist(), budgets_s, COUNTS, limit)
        assert sum(length for length, _ in formed) == len(model.layers)
        assert len(formed) == 1 or max(need for _, need in formed) <= limit
        assert blocks.next_block(name, 0, limit, level).block.stop == formed[0][0]


@given(st.integers(0, 40), st.integers(0, 2))
def test_a_core_need_is_the_fewest_within_the_budget_else_the_fastest(seed, level):
    context = random_context(seed)
    seconds = LatencyTables(context, VersionRule.FASTEST_AT_LEVEL).seconds("large", level)
    budgets = qos_budgets(context.models["large"], context, 1.0)
    for times, budget, need in zip(seconds, budgets, core_needs(seconds, budgets, COUNTS), strict=True):
        within = [count for count, time in zip(COUNTS, times, strict=True) if time <= budget]
        assert need == (min(within) if within else COUNTS[times.argmin()])


def test_blocks_of_equal_need_coalesce_up_to_a_number_of_layers():
    # Single layers that need 1, 3, 1, 1, 2: only layers 2 and 3 are neighbours of equal need; 3 core-ms in
    # 4 ms need 1.
    blocks = former(linear_context(WORK_CORE_S), coalesce_layers=8)
    assert blocks_of(blocks, "net", 5, limit=8) == ((1, 1), (1, 3), (2, 1), (1, 2))


@pytest.mark.parametrize(
    ("most_layers", "expected"),
    [(1, (1, 2)), (2, (2, 2)), (3, (3, 2)), (8, (4, 2))],
)
def test_no_more_layers_coalesce_than_the_option_says(most_layers, expected):
    # Four layers of 3 core-ms in 2 ms need 2 each; the fifth needs 1 and stays apart.
    times, budgets_s = times_of((0.003, 0.003, 0.003, 0.003, 0.001)), [0.002] * 5
    formed = form_blocks(times, budgets_s, COUNTS, 8)
    assert coalesce(formed, times, budgets_s, COUNTS, most_layers) == expected


def test_nothing_coalesces_where_the_need_would_grow():
    # Layer 1 exceeds its 1 ms on every count and is fastest on 2 cores, where layer 0 is just within its
    # budget. Together they have 4 ms: 5 ms on 2 cores, 3.5 ms on 4.
    times = [[0.006, 0.003, 0.001], [0.004, 0.002, 0.0025]]
    budgets_s = [0.003, 0.001]
    assert form_blocks(times, budgets_s, (1, 2, 4), 4) == [(1, 2), (1, 2)]
    assert coalesce([(1, 2), (1, 2)], times, budgets_s, (1, 2, 4), 8) == (1, 2)


def test_a_merged_block_longer_than_that_stays_as_it_is():
    times, budgets_s = times_of((0.001,) * 5), [0.002] * 5
    assert coalesce([(4, 1), (1, 1)], times, budgets_s, COUNTS, 3) == (4, 1)


def test_at_least_one_layer_makes_a_block():
    with pytest.raises(ValueError, match="coalesce_layers is 0; give 1"):
        former(linear_context(WORK_CORE_S), coalesce_layers=0)


@given(st.integers(0, 40), st.sampled_from(COUNTS), st.integers(2, 8))
def test_coalescing_never_raises_a_need_or_breaks_the_limit_of_layers(seed, limit, most_layers):
    context = random_context(seed)
    plain, merged = former(context), former(context, coalesce_layers=most_layers)
    for name, model in context.models.items():
        for first in range(len(model.layers)):
            before = plain.next_block(name, first, limit, 0)
            after = merged.next_block(name, first, limit, 0)
            assert after.cores <= before.cores
            assert len(before.block) <= len(after.block) <= max(most_layers, len(before.block))


def test_a_threshold_over_loaded_models_does_not_follow_the_load():
    # Avg_C 4 and 1, each once: limits 8 x 4/5 and 8 x 1/5 however many queries there are.
    wide, narrow = make_model("wide", (1,), 0.001), make_model("narrow", (1,), 0.001)
    seconds = {"wide": linear_seconds([0.004], COUNTS), "narrow": linear_seconds([0.001], COUNTS)}
    blocks = former(make_context(seconds, [wide, narrow]), threshold=Threshold.LOADED_MODELS)
    for active in ([], ["wide"], ["wide"] * 9 + ["narrow"]):
        assert limits(blocks, ["wide", "narrow"], active) == {"wide": 6, "narrow": 1}


# Five layers of 2 ms budget each, due 10 ms after the arrival at 100 ms.
QUERY = Query(1, "net", 0.100, 0.010)


def scale_of(next_layer: int, time_s: float, alpha: float = 1.0, rule=BudgetRule.SLACK_FEEDBACK) -> float:
    return SCALES[Budgets(linear_context(WORK_CORE_S), alpha, rule).step(QUERY, next_layer, time_s)]


def test_static_budgets_stay_however_late_a_query_is():
    assert [scale_of(3, 0.1 + late_s, rule=BudgetRule.STATIC) for late_s in (0.0, 0.009, 0.5)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("next_layer", "time_s", "scale"),
    [
        (0, 0.100, 1.0),  # at once: 10 of 10 ms
        (3, 0.106, 1.0),  # on time: 4 ms left for 4 ms of budgets
        (3, 0.102, 2.0),  # early: 8 ms left
        (1, 0.1043, 2 ** (-4 / 8)),  # late: 5.7 of 8 ms are 0.7125, rounded down to 0.707
        (3, 0.1085, 0.5),  # 1.5 of 4 ms: half at least
        (3, 0.900, 0.5),  # past the deadline
        (4, 0.100, 4.0),  # 10 of 2 ms: four times at most
    ],
)
def test_budgets_follow_the_time_that_is_left(next_layer, time_s, scale):
    assert scale_of(next_layer, time_s) == pytest.approx(scale)


@pytest.mark.parametrize(("next_layer", "time_s"), [(0, 0.100), (3, 0.106)])
def test_a_share_alpha_of_the_time_left_is_shared_out(next_layer, time_s):
    # The static budgets have the same share: a query that is neither early nor late keeps them.
    assert scale_of(next_layer, time_s, alpha=0.8) == 1.0


def test_scaled_budgets_are_the_static_ones_times_the_scale():
    budgets = Budgets(linear_context(WORK_CORE_S), 0.5, BudgetRule.SLACK_FEEDBACK)
    np.testing.assert_allclose(budgets.of("net", UNSCALED), [0.001] * 5)
    np.testing.assert_allclose(budgets.of("net", SCALES.index(2.0)), [0.002] * 5)


@pytest.mark.parametrize(("scale", "cores"), [(0.5, 6), (1.0, 3), (2.0, 2), (4.0, 1)])
def test_a_late_query_asks_for_more_cores_and_an_early_one_for_fewer(scale, cores):
    # Layer 1: 6 core-ms in 1, 2, 4 and 8 ms.
    blocks = former(linear_context(WORK_CORE_S))
    assert blocks.next_block("net", 1, 8, 0, SCALES.index(scale)).cores == cores


def oracle(seconds: np.ndarray, budgets_s: np.ndarray, limit: int) -> list[tuple[int, int]]:
    """Form blocks as the definition reads, on arrays."""
    runs = [(1, times, budget) for times, budget in zip(seconds, budgets_s, strict=True)]

    def need(run) -> int:
        return int(core_needs(run[1], run[2], COUNTS))

    while len(runs) > 1 and max(map(need, runs)) > limit:
        index = max(range(len(runs)), key=lambda at: (need(runs[at]), -at))
        beside = [at for at in (index + 1, index - 1) if 0 <= at < len(runs)]
        other = max(beside, key=lambda at: runs[at][2] - runs[at][1][COUNTS.index(limit)])
        left = min(index, other)
        first, second = runs[left : left + 2]
        runs[left : left + 2] = [(first[0] + second[0], first[1] + second[1], first[2] + second[2])]
    return [(run[0], need(run)) for run in runs]


@given(st.integers(0, 40), st.sampled_from(COUNTS), st.integers(0, 2), st.sampled_from(SCALES))
def test_blocks_are_those_of_the_definition(seed, limit, level, scale):
    context = random_context(seed)
    tables = LatencyTables(context, VersionRule.FASTEST_AT_LEVEL)
    for name, model in context.models.items():
        seconds, budgets_s = tables.seconds(name, level), qos_budgets(model, context, 1.0) * scale
        formed = form_blocks(seconds.tolist(), budgets_s.tolist(), COUNTS, limit)
        assert formed == oracle(seconds, budgets_s, limit)
        blocks = former(context, VersionRule.FASTEST_AT_LEVEL)
        proposal = blocks.next_block(name, 0, limit, level, SCALES.index(scale))
        assert (len(proposal.block), proposal.cores) == formed[0]
