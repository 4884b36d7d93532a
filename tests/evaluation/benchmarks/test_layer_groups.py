import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.evaluation.benchmarks.layer_groups import (
    BETWEEN,
    LayerGroup,
    NetworkTimes,
    TimedOperator,
    layer_groups,
)
from veltair.evaluation.benchmarks.layer_operators import Convolution, OtherOperator


def pointwise(channels: int, filters: int) -> Convolution:
    return Convolution((1, 1), (14, 14), channels, (14, 14), filters, channels)


def groups_of(ours: NetworkTimes, theirs: NetworkTimes) -> dict[str, LayerGroup]:
    return {group.name: group for group in layer_groups(ours, theirs)}


OURS = NetworkTimes(
    (
        TimedOperator(OtherOperator("layout"), 0.25),
        TimedOperator(pointwise(512, 24), 1.0, macs=500_000_000),
        TimedOperator(pointwise(512, 24), 2.0, macs=500_000_000),
    ),
    latency_s=3.5,
)
THEIRS = NetworkTimes(
    (
        TimedOperator(pointwise(512, 32), 1.5),
        TimedOperator(pointwise(512, 32), 1.0),
        TimedOperator(OtherOperator("Gelu"), 0.5),
    ),
    latency_s=2.75,
)


def test_layers_that_compute_the_same_are_one_group_under_our_name() -> None:
    group = groups_of(OURS, THEIRS)["1x1 14x14x512 → 24"]
    assert (group.layers, group.nodes, group.macs) == (2, 2, 1_000_000_000)
    assert (group.ours_s, group.onnxruntime_s, group.lost_s) == (3.0, 2.5, 0.5)


def test_speeds_count_two_operations_a_multiply_accumulate_and_are_missing_without_any() -> None:
    found = groups_of(OURS, THEIRS)
    group = found["1x1 14x14x512 → 24"]
    # 2e9 operations in 3 and in 2.5 s.
    assert (group.ours_gflops, group.onnxruntime_gflops) == (pytest.approx(2 / 3), pytest.approx(0.8))
    assert math.isnan(found["layout"].ours_gflops)


def test_what_one_side_has_alone_counts_for_nothing_on_the_other() -> None:
    found = groups_of(OURS, THEIRS)
    assert (found["layout"].layers, found["layout"].nodes, found["layout"].onnxruntime_s) == (1, 0, 0)
    assert (found["Gelu"].layers, found["Gelu"].nodes, found["Gelu"].ours_s) == (0, 1, 0)


def test_two_kinds_that_are_padded_to_one_have_its_name() -> None:
    ours = NetworkTimes(
        (TimedOperator(pointwise(512, 24), 1.0, 1), TimedOperator(pointwise(512, 32), 1.0, 1)), 2.0
    )
    found = groups_of(ours, THEIRS)
    assert (found["1x1 14x14x512 → 32"].layers, found["1x1 14x14x512 → 32"].nodes) == (2, 2)


def test_most_lost_time_comes_first() -> None:
    lost = [group.lost_s for group in layer_groups(OURS, THEIRS)]
    assert lost == sorted(lost, reverse=True)


def test_what_a_network_takes_beyond_its_kernels_is_a_row_of_its_own() -> None:
    between = groups_of(OURS, THEIRS)[BETWEEN]
    assert (between.layers, between.nodes) == (0, 0)
    assert (between.ours_s, between.onnxruntime_s) == (0.25, -0.25)


operators = st.lists(
    st.builds(
        TimedOperator,
        st.one_of(
            st.builds(pointwise, st.integers(1, 64), st.integers(1, 64)),
            st.builds(OtherOperator, st.sampled_from(["layout", "softmax", "Gelu"])),
        ),
        st.floats(1e-6, 1.0),
        st.integers(0, 10**9),
    ),
    min_size=1,
    max_size=12,
)
networks = st.builds(NetworkTimes, operators.map(tuple), st.floats(1e-3, 20.0))


@given(networks, networks)
def test_the_groups_sum_to_the_whole_of_both_networks(ours: NetworkTimes, theirs: NetworkTimes) -> None:
    found = layer_groups(ours, theirs)
    assert sum(group.ours_s for group in found) == pytest.approx(ours.latency_s)
    assert sum(group.onnxruntime_s for group in found) == pytest.approx(theirs.latency_s)
    assert sum(group.layers for group in found) == len(ours.operators)
    assert sum(group.nodes for group in found) == len(theirs.operators)
    assert sum(group.macs for group in found) == sum(one.macs for one in ours.operators)


def test_a_network_without_a_time_is_refused() -> None:
    with pytest.raises(ValueError, match=r"network of 3 operators in 0\.0 s"):
        NetworkTimes(OURS.operators, 0.0)
