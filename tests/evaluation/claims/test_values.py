from math import inf, isnan

import pandas as pd
import pytest

from tests.support.evaluation.claim_tables import (
    SOURCE,
    capacities,
    capacity_ratio,
    claim,
    rates,
    sensitivity,
)
from veltair.evaluation.claims.rules import Source, Verdict
from veltair.evaluation.claims.values import ClaimTables, JudgedClaim, judge_from_tables

FULL, PLANARIA, LAYERS = ("mix", "Veltair-FULL"), ("mix", "Planaria"), ("mix", "LayerWise")
LATENCY = {
    "metric": {**capacity_ratio(beside="LayerWise"), "kind": "latency_ratio", "load": 0.5},
    "value": 0.5,
    "accepted": [0, 0.75],
}
QUOTIENT = {
    "metric": {**capacity_ratio(), "kind": "gain_quotient", "workload": "light", "than": "heavy"},
    "rule": "trend",
    "value": 1,
    "accepted": [1, inf],
}
SINGLE_PASS = {
    "metric": {"kind": "benchmark", "file": "compiler", "figure": "ratio", "beside": "loss"},
    "value": 0.2,
    "accepted": [0, 0.6],
}


def judged(tables: ClaimTables, **changes: object) -> JudgedClaim:
    return judge_from_tables(claim(**changes), SOURCE, tables)


def of_capacities(values: dict[tuple[str, str], list[float]], **changes: object) -> JudgedClaim:
    return judged(ClaimTables(capacities(values)), **changes)


def test_capacities_are_compared_seed_by_seed() -> None:
    # The mean of 1.6, 1.6 and 1.6, not the ratio of means, and no spread.
    found = of_capacities({FULL: [160, 320, 480], PLANARIA: [100, 200, 300]})
    assert (found.found.mean, found.found.low, found.found.high) == pytest.approx((1.6, 1.6, 1.6))
    assert (found.found.count, found.verdict) == (3, Verdict.PASS)


def test_the_interval_is_student_s_t() -> None:
    # Ratios 1.5, 1.6, 1.7: mean 1.6, deviation 0.1, t(0.975; 2) = 4.302653, so 1.6 +- 0.248414.
    found = of_capacities({FULL: [150, 160, 170], PLANARIA: [100, 100, 100]}).found
    assert (found.low, found.high) == pytest.approx((1.351586, 1.848414), abs=1e-6)


def test_a_policy_that_serves_nothing_has_a_ratio_of_0() -> None:
    found = of_capacities({FULL: [0, 0], PLANARIA: [100, 100]})
    assert (found.found.mean, found.verdict) == (0.0, Verdict.DEVIATES)


@pytest.mark.parametrize(
    "table",
    [
        capacities({FULL: [160, 160]}),
        capacities({FULL: [160, 160], PLANARIA: [0, 0]}),
        pd.concat([capacities({FULL: [160]}), capacities({PLANARIA: [100]}, high_qps=inf)]),
        pd.concat([capacities({FULL: [160]}), capacities({PLANARIA: [100]}, cut=True)]),
        pd.concat([capacities({FULL: [160]}), capacities({PLANARIA: [100]}, invalid="late")]),
        capacities({FULL: [160], PLANARIA: [100]}, machine="another"),
        None,
    ],
    ids=[
        "not run",
        "unservable",
        "only a lower bound",
        "cut short",
        "invalid",
        "another machine",
        "no table",
    ],
)
def test_a_ratio_without_a_denominator_is_not_computed_and_says_why(table: pd.DataFrame | None) -> None:
    found = judged(ClaimTables(table))
    assert found.verdict is Verdict.NOT_COMPUTED
    assert isnan(found.found.mean)
    assert found.reason


def test_the_second_denominator_and_the_minimum_are_printed_beside_and_not_judged() -> None:
    table = {FULL: [160.0, 160.0], PLANARIA: [100.0, 100.0], LAYERS: [20.0, 20.0]}
    found = of_capacities(table, metric=capacity_ratio(beside="LayerWise"))
    assert {name: one.mean for name, one in found.beside.items()} == pytest.approx(
        {"to LayerWise": 8.0, "minimum over models": 1.6}
    )
    assert found.found.mean == pytest.approx(1.6)


def test_latencies_are_compared_at_a_share_of_planaria_s_capacity_of_the_same_seed() -> None:
    capacity = capacities({PLANARIA: [100, 200]})
    rows = rates({("Veltair-FULL", 50): [0.01, 9], ("Planaria", 50): [0.02, 9], ("LayerWise", 50): [0.04, 9]})
    other = rates(
        {("Veltair-FULL", 100): [9, 0.03], ("Planaria", 100): [9, 0.06], ("LayerWise", 100): [9, 0.12]}
    )
    found = judged(ClaimTables(capacity, pd.concat([rows, other])), **LATENCY)
    assert (found.found.mean, found.found.count) == (pytest.approx(0.5), 2)
    assert found.beside["to LayerWise"].mean == pytest.approx(0.25)
    assert found.verdict is Verdict.PASS


def test_a_run_at_another_rate_does_not_stand_for_the_load() -> None:
    rows = rates({("Veltair-FULL", 52): [0.01], ("Planaria", 50): [0.02]})
    assert judged(ClaimTables(capacities({PLANARIA: [100]}), rows), **LATENCY).verdict is Verdict.NOT_COMPUTED


def test_the_shrinking_of_a_gain_is_a_quotient_of_gains_of_equal_seeds() -> None:
    light, heavy = ("light", "Veltair-FULL"), ("heavy", "Veltair-FULL")
    table = {
        light: [180, 160],
        ("light", "Planaria"): [100, 100],
        heavy: [120, 80],
        ("heavy", "Planaria"): [100, 50],
    }
    found = of_capacities({key: list(map(float, rates)) for key, rates in table.items()}, **QUOTIENT)
    assert found.found.mean == pytest.approx((1.8 / 1.2 + 1.6 / 1.6) / 2)
    assert found.verdict is Verdict.PASS


def test_a_benchmark_is_judged_by_its_samples() -> None:
    figures = {
        "ratio": {"value": 0.2, "samples": [0.19, 0.2, 0.21]},
        "loss": {"value": 0.03, "samples": [0.03]},
    }
    found = judged(ClaimTables(benchmarks={"compiler": figures}), **SINGLE_PASS)
    assert (found.found.count, found.verdict, found.validated) == (3, Verdict.PASS, True)
    assert found.beside["loss"].mean == 0.03


def test_a_benchmark_that_was_not_run_is_not_computed() -> None:
    assert "benchmarks/compiler.json has no ratio" in judged(ClaimTables(), **SINGLE_PASS).reason


@pytest.mark.parametrize("validated", [True, False])
def test_the_label_of_the_machine_is_carried(validated: bool) -> None:
    table = capacities({FULL: [160, 160], PLANARIA: [100, 100]}, validated=validated)
    assert judged(ClaimTables(table)).validated is validated


def test_a_benchmark_about_the_modelled_machine_is_as_unvalidated_as_it() -> None:
    metric = {"kind": "benchmark", "file": "validation", "figure": "anchor", "modelled": True}
    tables = ClaimTables(benchmarks={"validation": {"anchor": {"value": 1.5, "samples": [1.5]}}})
    found = judge_from_tables(
        claim(**SINGLE_PASS | {"metric": metric}), Source(backend="simulator", machine="x"), tables
    )
    assert not found.validated


def with_sensitivity(ratio: float, table: pd.DataFrame) -> JudgedClaim:
    capacity = capacities({FULL: [100 * ratio] * 2, PLANARIA: [100.0, 100.0]})
    return judged(ClaimTables(capacity, sensitivity=table))


def test_a_verdict_that_flips_inside_the_plausible_range_is_fragile_and_tells_where() -> None:
    found = with_sensitivity(1.6, sensitivity({0: 1.7, 50: 1.6, 200: 1.1}, default=50))
    assert found.verdict is Verdict.PASS
    assert found.flips == ("cost of a start 200 µs: DEVIATES at 1.1",)


def test_a_verdict_that_improves_is_fragile_too() -> None:
    found = with_sensitivity(1.1, sensitivity({0: 1.6, 50: 1.1}, default=50))
    assert (found.verdict, found.fragile) == (Verdict.DEVIATES, True)


def test_a_verdict_that_holds_everywhere_is_not_fragile_and_names_what_was_tried() -> None:
    found = with_sensitivity(1.6, sensitivity({0: 1.7, 50: 1.6, 200: 1.55}, default=50))
    assert (found.fragile, found.tested) == (False, ("cost of a start",))


def test_values_outside_the_plausible_range_make_nothing_fragile() -> None:
    table = sensitivity({50: 1.6, 60: 1.6, 900: 0.5}, default=50, implausible=[900])
    assert not with_sensitivity(1.6, table).fragile


def test_what_was_varied_for_another_workload_says_nothing_of_this_one() -> None:
    found = with_sensitivity(1.6, sensitivity({50: 2.0, 200: 0.5}, default=50, workload="heavy"))
    assert (found.fragile, found.tested) == (False, ())
    assert found.unexamined == {"cost of a start": ("heavy",)}


def test_an_assumption_that_was_varied_for_several_workloads_is_tried_by_the_claim_s_own() -> None:
    own, other = (
        sensitivity({50: 1.6, 200: ratio}, default=50, workload=name)
        for name, ratio in (("mix", 1.55), ("heavy", 0.5))
    )
    elsewhere = sensitivity({0: 1.0, 1: 2.0}, default=0, assumption="placement", workload="heavy")
    found = with_sensitivity(1.6, pd.concat([other, own, elsewhere]))
    assert (found.fragile, found.tested) == (False, ("cost of a start",))
    assert found.unexamined == {"placement": ("heavy",)}


def test_where_the_workload_itself_varies_there_is_nothing_to_examine() -> None:
    parts = [
        sensitivity({index: 1.6}, default=0, assumption="workload", workload=name)
        for index, name in enumerate(("mix", "heavy"))
    ]
    found = with_sensitivity(1.6, pd.concat(parts))
    assert (found.tested, dict(found.unexamined)) == ((), {})


def test_without_sensitivity_nothing_was_tried() -> None:
    assert of_capacities({FULL: [160, 160], PLANARIA: [100, 100]}).tested == ()
