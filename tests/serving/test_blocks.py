import numpy as np
import pytest
from builders import (
    linear_context,
    linear_seconds,
    make_context,
    make_costs,
    make_machine,
    make_model,
    random_context,
)
from hypothesis import given
from hypothesis import strategies as st

from veltair.compiler.model import LayerBlock
from veltair.serving.blocks import (
    BlockFormer,
    Reading,
    Timetables,
    core_needs,
    dynamic_limit,
    form_blocks,
    qos_budgets,
)
from veltair.serving.policy import Context

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


def former(context: Context, reading: Reading = Reading.SOLO_AT_LEVEL, alpha: float = 1.0) -> BlockFormer:
    return BlockFormer(context, Timetables(context, reading), alpha)


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
    assert blocks.limits(["net"] * active, 0) == {"net": limit}
    formed = form_blocks(
        Timetables(context, Reading.SOLO_ALONE).seconds("net", 0), np.full(5, 0.002), COUNTS, limit
    )
    assert formed == expected


def test_of_two_neighbours_with_equal_slack_the_following_one_is_merged():
    # Limit 2: layer 1 needs 3 cores; layers 0 and 2 both leave 1.5 of their 2 ms. 7 core-ms in 4 ms need 2.
    seconds = linear_seconds([0.001, 0.006, 0.001], COUNTS)[:, 0, :, 0]
    assert form_blocks(seconds, np.full(3, 0.002), COUNTS, 2) == ((1, 1), (2, 2))


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
    assert blocks.limits(["wide", "narrow"], 0) == {"wide": 6, "narrow": 1}


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
    assert blocks.limits(["small"] * small + ["large"] * large, 1) == expected


def test_more_cores_are_never_assumed_to_be_faster():
    # On 8 cores slower than on 4, on 2 slower than on 1: the fewest within 3 ms is 1, within 1.5 ms 4.
    seconds, counts = np.array([0.003, 0.004, 0.0015, 0.002]), (1, 2, 4, 8)
    needs = [int(core_needs(seconds, budget, counts)) for budget in (0.005, 0.003, 0.0015, 0.001)]
    assert needs == [1, 1, 4, 4]


def test_a_layer_that_cannot_meet_its_budget_needs_its_fastest_count():
    # No count is within 1 ms; the fastest, 4 cores, is within the limit, so nothing merges.
    seconds = np.array([[0.003, 0.004, 0.0015, 0.002], [0.001, 0.001, 0.001, 0.001]])
    assert form_blocks(seconds, np.array([0.001, 0.001]), (1, 2, 4, 8), 4) == ((1, 4), (1, 1))


def test_a_merged_block_may_need_fewer_cores_on_a_table_that_is_not_monotone():
    # Limit 2. Layer 0 needs 4 cores. With layer 1: 5 ms on 1 core, 6 on 2, 3.5 on 4; budget 5.5 ms.
    seconds = np.array([[0.004, 0.005, 0.0025], [0.001, 0.001, 0.001]])
    assert form_blocks(seconds, np.array([0.003, 0.0025]), (1, 2, 4), 2) == ((2, 1),)


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


@given(st.integers(0, 40), st.sampled_from(COUNTS), st.integers(0, 2), st.sampled_from(Reading))
def test_blocks_cover_all_layers_and_exceed_the_limit_only_as_one(seed, limit, level, reading):
    context = random_context(seed)
    blocks = former(context, reading)
    level = 0 if reading is Reading.SOLO_ALONE else level
    for name, model in context.models.items():
        seconds = Timetables(context, reading).seconds(name, level)
        formed = form_blocks(seconds, qos_budgets(model, context, 1.0), COUNTS, limit)
        assert sum(length for length, _ in formed) == len(model.layers)
        assert len(formed) == 1 or max(need for _, need in formed) <= limit
        assert blocks.next_block(name, 0, limit, level).block.stop == formed[0][0]


@given(st.integers(0, 40), st.integers(0, 2))
def test_a_core_need_is_the_fewest_within_the_budget_else_the_fastest(seed, level):
    context = random_context(seed)
    seconds = Timetables(context, Reading.FASTEST_AT_LEVEL).seconds("large", level)
    budgets = qos_budgets(context.models["large"], context, 1.0)
    for times, budget, need in zip(seconds, budgets, core_needs(seconds, budgets, COUNTS), strict=True):
        within = [count for count, time in zip(COUNTS, times, strict=True) if time <= budget]
        assert need == (min(within) if within else COUNTS[times.argmin()])


def two_versions() -> Context:
    """Return one layer on 2 and 4 cores: version 0 is fastest alone, version 1 under pressure."""
    seconds = np.array([[[[1.0, 4.0], [0.6, 3.0]], [[2.0, 2.5], [1.0, 1.5]]]])
    return make_context(
        {"net": seconds},
        [make_model(macs=(1,))],
        cores=(2, 4),
        levels=(0.0, 1.0),
        machine=make_machine(4, 2),
    )


def test_a_blind_reading_knows_the_solo_version_alone():
    tables = Timetables(two_versions(), Reading.SOLO_ALONE)
    assert tables.level(1.0) == 0
    assert tables.seconds("net", 0).tolist() == [[1.0, 0.6]]


def test_an_aware_reading_of_the_solo_version_knows_what_pressure_does_to_it():
    tables = Timetables(two_versions(), Reading.SOLO_AT_LEVEL)
    assert tables.seconds("net", tables.level(1.0)).tolist() == [[4.0, 3.0]]
    assert tables.versions(LayerBlock("net", 0, 1), tables.level(1.0), 4) == (0,)


def test_the_fastest_reading_picks_another_version_at_high_pressure():
    tables = Timetables(two_versions(), Reading.FASTEST_AT_LEVEL)
    block = LayerBlock("net", 0, 1)
    assert tables.seconds("net", tables.level(0.9)).tolist() == [[2.5, 1.5]]
    assert [tables.versions(block, tables.level(pressure), 2) for pressure in (0.2, 0.9)] == [(0,), (1,)]


def test_remaining_times_are_sums_over_the_layers_to_the_end():
    tables = Timetables(linear_context(WORK_CORE_S), Reading.SOLO_ALONE)
    np.testing.assert_allclose(tables.remaining_s("net", 0)[:, 0], [0.015, 0.013, 0.007, 0.006, 0.004, 0.0])
    assert tables.least_remaining_s("net", 3, 0) == pytest.approx(0.006 / 8)


def test_the_best_count_is_not_always_the_largest():
    seconds = np.array([0.004, 0.002, 0.003]).reshape(1, 1, 3, 1)
    context = make_context(
        {"net": seconds}, [make_model(macs=(1,))], cores=(1, 2, 4), machine=make_machine(4)
    )
    assert Timetables(context, Reading.SOLO_ALONE).best_cores("net", 0) == 2


def test_only_counts_that_are_multiples_of_the_unit_and_profiled_for_all_layers_are_granted():
    seconds = linear_seconds([0.001, 0.002], (1, 4, 8, 12))
    seconds[1, 0, 2] = np.nan  # layer 1 was not profiled on 8 cores
    context = make_context(
        {"net": seconds}, [make_model(macs=(1, 1))], cores=(1, 4, 8, 12), machine=make_machine(12, 4)
    )
    assert Timetables(context, Reading.SOLO_ALONE).counts == (4, 12)


def test_a_table_without_a_count_that_can_be_granted_is_refused():
    context = make_context(
        {"net": linear_seconds([0.001], (1, 2))},
        [make_model(macs=(1,))],
        cores=(1, 2),
        machine=make_machine(8, 4),
    )
    with pytest.raises(ValueError, match=r"none is a multiple of the core unit 4.*set `profile.cores`"):
        Timetables(context, Reading.SOLO_ALONE)
