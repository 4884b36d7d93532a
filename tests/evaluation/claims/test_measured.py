import pandas as pd
import pytest

from tests.support.evaluation.claim_tables import capacity_ratio, claim
from tests.support.evaluation.measured_tables import metric_tables
from veltair.evaluation.claims.measured import MeasuredClaimTables
from veltair.evaluation.claims.rules import Source, Verdict
from veltair.evaluation.claims.values import ClaimTables, JudgedClaim, judge_from_tables

SOURCE = Source(backend="engine", machine="host")
POLICIES = {"Planaria": 20.0, "Veltair-FULL": 31.0, "Bad": 2.0, "Good": 400.0}


def latencies(**means_s: float) -> pd.DataFrame:
    """Return rates.csv of two rounds at 20 queries/s; the second is twice as slow for all."""
    rows = [
        ("mix", policy.replace("_", "-"), 20.0, seed, seed * mean_s)
        for policy, mean_s in means_s.items()
        for seed in (1, 2)
    ]
    columns = ["workload", "policy", "qps", "seed", "latency_mean_s"]
    return pd.DataFrame(rows, columns=columns).assign(machine="host", backend="engine")


def judged(source: Source = SOURCE, rates: pd.DataFrame | None = None, **changes: object) -> JudgedClaim:
    made = metric_tables(POLICIES)
    known = latencies(Planaria=0.04, Veltair_FULL=0.03) if rates is None else rates
    measured = MeasuredClaimTables(made["measured_ratios"], made["measured_capacity"], known)
    return judge_from_tables(claim(**changes), source, ClaimTables(measured=measured))


def test_a_gain_of_measured_policies_is_judged_with_its_interval_over_rounds() -> None:
    found = judged()
    assert found.verdict is Verdict.PASS
    assert found.validated
    assert found.found.low < 1.55 < found.found.high
    assert found.found.count == 5


def test_a_gain_that_is_only_a_lower_bound_is_within() -> None:
    found = judged(metric=capacity_ratio(policy="Good"))
    assert found.verdict is Verdict.WITHIN
    assert "a lower bound" in found.reason


@pytest.mark.parametrize(
    ("policy", "to", "said"),
    [
        ("Bad", "Planaria", "Bad over Planaria on mix: only known to be below 0."),
        ("Planaria", "LayerWise", "the tables have no ratio to LayerWise of Planaria on mix"),
        ("Absent", "Planaria", "the tables have no ratio to Planaria of Absent on mix"),
    ],
)
def test_what_the_rates_do_not_tell_is_not_computed(policy: str, to: str, said: str) -> None:
    found = judged(metric=capacity_ratio(policy=policy, to=to))
    assert found.verdict is Verdict.NOT_COMPUTED
    assert said in found.reason


def latency(load: float, **changes: object) -> dict[str, object]:
    return {**capacity_ratio(**changes), "kind": "latency_ratio", "load": load}


def test_latencies_are_compared_at_the_nearest_rate_round_by_round() -> None:
    # 0.95 of Planaria's 20 queries/s.
    found = judged(metric=latency(0.95), value=0.5, accepted=[0.0, 0.75])
    assert found.found.mean == pytest.approx(0.75)
    assert found.found.low == pytest.approx(0.75)
    assert found.found.count == 2


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (latency(0.3), "no rate of mix is near"),
        (latency(0.95, to="Bad"), "Bad on mix serves < 10 queries/s"),
        (latency(0.95, policy="Good"), "Good and Planaria on mix share no round"),
    ],
)
def test_latencies_that_no_rate_tells_are_not_computed(metric: dict[str, object], said: str) -> None:
    found = judged(metric=metric, value=0.5, accepted=[0.0, 0.75])
    assert found.verdict is Verdict.NOT_COMPUTED
    assert said in found.reason


def test_gains_on_two_workloads_are_no_pairs() -> None:
    metric = {**capacity_ratio(), "kind": "gain_quotient", "than": "light"}
    assert "no pairs" in judged(metric=metric, rule="trend", value=1.0, accepted=[1.0, float("inf")]).reason


def test_another_machine_and_no_tables_have_no_number() -> None:
    other = judged(Source(backend="engine", machine="server"))
    assert "measured_capacity.csv has nothing of server" in other.reason
    assert "no tables of measured runs" in judge_from_tables(claim(), SOURCE, ClaimTables()).reason
