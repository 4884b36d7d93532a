import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from tests.support.builders import make_machine
from veltair.compiler.frontend.model import Layer, Model
from veltair.evaluation.metrics.targets import (
    TARGET_COLUMNS,
    fluid_bound,
    fluid_capacity,
    targets,
    work_optimal_core_s,
)
from veltair.machine.costs.table import COLUMNS, CostTable

CORES = (1, 2, 4)
times = st.floats(1e-3, 1.0)


def table(seconds: np.ndarray) -> CostTable:
    """Cost table of model "net": `seconds` is (layers, versions, core counts), level 1 is twice as slow."""
    rows = [
        ("net", layer, version, CORES[index], level, 0, value * (1 + level), 0.0, 0.0)
        for (layer, version, index), value in np.ndenumerate(seconds)
        for level in (0.0, 1.0)
        if np.isfinite(value)
    ]
    return CostTable(pd.DataFrame(rows, columns=list(COLUMNS)), "bench")


def net(qos_s: float, layers: int = 1) -> Model:
    return Model("net", tuple(Layer(f"l{i}", f"s{i}", 1) for i in range(layers)), qos_s)


@st.composite
def cost_arrays(draw: st.DrawFn) -> np.ndarray:
    layers, versions = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    size = layers * versions * len(CORES)
    values = draw(st.lists(times, min_size=size, max_size=size))
    return np.array(values).reshape(layers, versions, len(CORES))


def least_work(seconds: np.ndarray, qos_s: float) -> float:
    """Brute force: every core count and version of every layer."""
    options = [
        [(value, value * CORES[index]) for (_, index), value in np.ndenumerate(layer)] for layer in seconds
    ]
    plans = (tuple(map(sum, zip(*plan, strict=True))) for plan in itertools.product(*options))
    return min((work for time, work in plans if time <= qos_s), default=math.inf)


def dual_at(seconds: np.ndarray, qos_s: float, price: float) -> float:
    priced = (np.asarray(CORES) + price) * seconds
    return float(priced.min(axis=(1, 2)).sum() - price * qos_s)


def test_the_targets_table_has_one_row_a_model_with_the_documented_columns() -> None:
    frame = targets([net(0.5)], table(np.array([[[0.4, 0.2, 0.1]]])))
    assert tuple(frame.columns) == TARGET_COLUMNS
    assert frame["model"].tolist() == ["net"]


def test_a_fast_machine_keeps_the_models_own_qos() -> None:
    row = targets([net(0.5)], table(np.array([[[0.4, 0.2, 0.1]]]))).iloc[0]
    assert (row["qos_s"], row["relaxed"], row["isolated_latency_s"]) == (0.5, False, 0.1)


def test_a_slow_machine_relaxes_the_qos_to_a_multiple_of_the_isolated_latency() -> None:
    row = targets([net(0.15)], table(np.array([[[0.4, 0.2, 0.1]]]))).iloc[0]
    assert row["relaxed"] and row["qos_s"] == pytest.approx(0.23)
    assert row["qos_table_s"] == 0.15


def test_a_negative_relaxation_is_refused() -> None:
    with pytest.raises(ValueError, match="relax is -1"):
        targets([net(0.5)], table(np.array([[[0.4, 0.2, 0.1]]])), relax=-1)


def test_a_loose_target_costs_the_least_work_of_every_layer() -> None:
    seconds = np.array([[[0.4, 0.25, 0.2]], [[0.2, 0.08, 0.05]]])  # work 0.4 0.5 0.8 and 0.2 0.16 0.2
    assert work_optimal_core_s(table(seconds), "net", 10.0) == pytest.approx(0.4 + 0.16)


def test_a_target_between_two_core_counts_costs_their_mixture() -> None:
    # One layer: 0.4 s on 1 core (0.4 core-s), 0.2 s on 4 (0.8 core-s), 2 cores above their line (0.35 s:
    # 0.7). The dual mixes the ends: half the way from 0.4 s to 0.2 s at 0.3 s, so 0.6 core-s.
    seconds = np.array([[[0.4, 0.35, 0.2]]])
    assert work_optimal_core_s(table(seconds), "net", 0.3) == pytest.approx(0.6)


def test_the_versions_of_a_model_may_be_mixed_by_layer() -> None:
    # Layer 0 is cheap in version 0, layer 1 in version 1; no single version of the model costs 0.2 core-s.
    seconds = np.array([[[0.1, 9, 9], [0.9, 9, 9]], [[0.9, 9, 9], [0.1, 9, 9]]])
    assert work_optimal_core_s(table(seconds), "net", 1.0) == pytest.approx(0.2)


def test_a_version_that_a_layer_lacks_is_not_used() -> None:
    seconds = np.array([[[0.4, 0.2, 0.1], [0.3, 0.2, 0.1]], [[0.1, 0.1, 0.1], [np.inf, np.inf, np.inf]]])
    assert work_optimal_core_s(table(seconds), "net", 10.0) == pytest.approx(0.3 + 0.1)


def test_work_may_be_counted_by_other_times_than_those_that_pass() -> None:
    # Time passes by 0.4 and 0.2 s on 1 and 2 cores; counted are 0.5 and 0.3 s, so 0.5 and 0.6 core-s.
    passing, counted = (table(np.array([[[one, two, 9.0]]])) for one, two in ((0.4, 0.2), (0.5, 0.3)))
    assert work_optimal_core_s(passing, "net", 0.4, counted) == pytest.approx(0.5)
    assert work_optimal_core_s(passing, "net", 0.2, counted) == pytest.approx(0.6)
    assert work_optimal_core_s(passing, "net", 0.3, counted) == pytest.approx(0.55)


@pytest.mark.parametrize(
    ("factors", "capacity"),
    [
        (((1, 1.0),), 8.0),
        (((2, 1.5), (8, 1.0)), 8.0),
        # 4 cores at 2.5 x the clock do more than all 8; a clock below that of all adds nothing.
        (((4, 2.5), (5, 1.0)), 10.0),
        (((7, 0.5), (8, 1.0)), 8.0),
    ],
)
def test_a_machine_does_as_much_as_the_best_number_of_busy_cores(factors, capacity) -> None:
    assert fluid_capacity(replace(make_machine(8), clock_factors=factors)) == pytest.approx(capacity)


def test_a_target_below_the_fastest_plan_costs_infinite_work() -> None:
    assert work_optimal_core_s(table(np.array([[[0.4, 0.2, 0.1]]])), "net", 0.09) == math.inf


def test_a_target_equal_to_the_fastest_plan_costs_that_plans_work() -> None:
    seconds = np.array([[[0.4, 0.2, 0.1]]] * 3)
    assert work_optimal_core_s(table(seconds), "net", 0.1 + 0.1 + 0.1) == pytest.approx(1.2)


@settings(max_examples=60, deadline=None)
@given(cost_arrays(), st.floats(0.05, 3.0))
def test_the_work_bound_never_exceeds_the_best_of_all_plans(seconds: np.ndarray, qos_s: float) -> None:
    best = least_work(seconds, qos_s)
    assert work_optimal_core_s(table(seconds), "net", qos_s) <= best * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(cost_arrays(), st.floats(1.0, 1.5))
def test_the_work_bound_is_the_highest_value_of_the_dual(seconds: np.ndarray, slack: float) -> None:
    qos_s = slack * float(seconds.min(axis=(1, 2)).sum())
    bound = work_optimal_core_s(table(seconds), "net", qos_s)
    prices = np.concatenate([[0.0], np.geomspace(1e-3, 1e5, 400)])
    best = max(dual_at(seconds, qos_s, price) for price in prices)
    assert best <= bound * (1 + 1e-9) + 1e-12
    assert bound <= max(best, dual_optimum(seconds, qos_s)) * (1 + 1e-7)


def dual_optimum(seconds: np.ndarray, qos_s: float) -> float:
    """The same by a linear programme over shares of each layer's options."""
    layers = len(seconds)
    flat = seconds.reshape(layers, -1)
    work = (seconds * np.asarray(CORES)).reshape(layers, -1)
    one_each = np.kron(np.eye(layers), np.ones(flat.shape[1]))
    solved = linprog(
        work.ravel(), A_ub=[flat.ravel()], b_ub=[qos_s * (1 + 1e-9)], A_eq=one_each, b_eq=np.ones(layers)
    )
    assert solved.success
    return float(solved.fun)


def test_the_pooled_bound_sheds_the_costliest_queries_first() -> None:
    # Half light (1 core-s), half heavy (3): shed 0.05 heavy, so 0.5 * 1 + 0.45 * 3 = 1.85 core-s a query of
    # 8 cores.
    bound = fluid_bound({"light": 1.0, "heavy": 3.0}, {"light": 0.5, "heavy": 0.5}, 8)
    assert bound == pytest.approx(8 / 1.85)


def test_an_unservable_model_is_shed_if_it_is_rare_and_forbids_any_rate_if_not() -> None:
    work = {"net": 1.0, "never": math.inf}
    assert fluid_bound(work, {"net": 0.96, "never": 0.04}, 4) == pytest.approx(4 / 0.95)
    assert fluid_bound(work, {"net": 0.9, "never": 0.1}, 4) == 0


def test_a_model_that_gets_no_queries_does_not_count() -> None:
    bound = fluid_bound({"net": 1.0, "never": math.inf}, {"net": 1.0, "never": 0.0}, 4)
    assert bound == pytest.approx(4 / 0.95)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(times, times), min_size=1, max_size=4), st.floats(0.5, 1.0))
def test_the_pooled_bound_equals_the_linear_programme(pairs: list[tuple[float, float]], share: float) -> None:
    total = sum(weight for _, weight in pairs)
    work = {f"m{index}": cost for index, (cost, _) in enumerate(pairs)}
    shares = {f"m{index}": weight / total for index, (_, weight) in enumerate(pairs)}
    solved = linprog(
        list(work.values()), A_ub=[[-1] * len(work)], b_ub=[-share], bounds=[(0, w) for w in shares.values()]
    )
    bound = fluid_bound(work, shares, 8, satisfaction=share)
    assert bound == pytest.approx(8 / solved.fun, rel=1e-6)


@pytest.mark.parametrize("shares", [{}, {"net": 0.5}, {"net": 1.5, "other": -0.5}])
def test_shares_that_are_no_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        fluid_bound({"net": 1.0, "other": 1.0}, shares, 4)


def test_a_share_without_work_is_refused_by_name() -> None:
    with pytest.raises(LookupError, match="other"):
        fluid_bound({"net": 1.0}, {"net": 0.5, "other": 0.5}, 4)


@pytest.mark.parametrize(("cores", "share"), [(0, 0.95), (4, 0.0), (4, 1.1)])
def test_a_bound_without_cores_or_with_no_share_on_time_is_refused(cores: int, share: float) -> None:
    with pytest.raises(ValueError, match=f"{cores} cores and satisfaction {share}"):
        fluid_bound({"net": 1.0}, {"net": 1.0}, cores, satisfaction=share)
