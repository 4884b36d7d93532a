from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.support.evaluation.claim_tables import capacity_ratio, claim
from veltair.evaluation.claims.rules import (
    ClaimsError,
    Verdict,
    judge_claim,
    load_claims,
    point_verdict,
    published_gains,
)
from veltair.evaluation.metrics.intervals import Interval

LATENCY = {"value": 0.5, "accepted": [0, 0.75]}
TREND = {"rule": "trend", "value": 1, "accepted": [1, inf]}
ANCHOR = {"rule": "anchor", "value": 1.8, "accepted": [1.4, 2.2], "precision": 0.05}


def interval(mean: float, low: float, high: float) -> Interval:
    return Interval(mean, low, high, 5)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ((1.6, 1.5, 1.7), Verdict.PASS),
        ((1.4, 1.3, 1.5), Verdict.PASS),  # its end is the paper's value
        ((1.4, 1.3, 1.4999), Verdict.WITHIN),
        ((1.25, 1.2, 1.3), Verdict.WITHIN),  # half of the effect
        ((1.2499, 1.2, 1.3), Verdict.DEVIATES),
        ((1.2, 1.01, 1.5), Verdict.PASS),  # the interval decides, not the mean
        ((1.0, 0.9, 1.1), Verdict.DEVIATES),
        ((0.8, 0.7, 0.9), Verdict.DEVIATES),  # the other sign
    ],
)
def test_a_gain_passes_by_its_interval_and_is_within_by_its_mean(
    found: tuple[float, float, float], verdict: Verdict
) -> None:
    assert judge_claim(claim(), interval(*found))[0] is verdict


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ((0.4, 0.3, 0.5), Verdict.PASS),
        ((0.55, 0.5, 0.6), Verdict.PASS),
        ((0.55, 0.501, 0.6), Verdict.WITHIN),
        ((0.75, 0.7, 0.8), Verdict.WITHIN),
        ((0.7501, 0.7, 0.8), Verdict.DEVIATES),
        ((1.2, 1.1, 1.3), Verdict.DEVIATES),
    ],
)
def test_a_gain_may_be_a_ratio_below_1(found: tuple[float, float, float], verdict: Verdict) -> None:
    assert judge_claim(claim(**LATENCY), interval(*found))[0] is verdict


def test_an_interval_so_wide_that_it_holds_no_effect_too_does_not_pass() -> None:
    verdict, reason = judge_claim(claim(), interval(1.3, 0.2, 2.4))
    assert verdict is Verdict.WITHIN
    assert "the interval holds 1, no effect" in reason


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ((1.1, 1.0, 1.2), Verdict.PASS),
        ((1.0, 1.0, 1.0), Verdict.PASS),
        ((1.05, 0.9, 1.2), Verdict.PASS),
        ((0.98, 0.95, 1.01), Verdict.WITHIN),
        ((0.98, 0.96, 1.0), Verdict.WITHIN),
        ((0.9, 0.85, 0.95), Verdict.DEVIATES),
    ],
)
def test_a_trend_asks_only_for_no_less_than_1(found: tuple[float, float, float], verdict: Verdict) -> None:
    assert judge_claim(claim(**TREND), interval(*found))[0] is verdict


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (1.8, Verdict.PASS),
        (1.85, Verdict.PASS),
        (1.75, Verdict.PASS),
        (1.86, Verdict.WITHIN),
        (1.4, Verdict.WITHIN),
        (2.2, Verdict.WITHIN),
        (2.21, Verdict.DEVIATES),
        (1.39, Verdict.DEVIATES),
    ],
)
def test_an_anchor_passes_where_it_is_met_as_near_as_it_is_printed(value: float, verdict: Verdict) -> None:
    assert judge_claim(claim(**ANCHOR), Interval(value, nan, nan, 1))[0] is verdict


@pytest.mark.parametrize("values", [{}, LATENCY, TREND])
@pytest.mark.parametrize("mean", [0.01, 0.5, 1.0, 1.5, 100.0])
def test_one_seed_never_passes_and_says_so(values: dict[str, Any], mean: float) -> None:
    verdict, reason = judge_claim(claim(**values), Interval(mean, nan, nan, 1))
    assert verdict is not Verdict.PASS
    assert reason.startswith("one seed")


def test_a_number_that_is_not_there_is_not_computed() -> None:
    assert judge_claim(claim(), Interval(nan, nan, nan, 0))[0] is Verdict.NOT_COMPUTED


@given(st.floats(0.0, 4.0), st.floats(0.0, 4.0))
def test_more_of_a_gain_is_never_judged_worse(one: float, other: float) -> None:
    order = [Verdict.DEVIATES, Verdict.WITHIN, Verdict.PASS]
    low, high = (order.index(point_verdict(claim(), value)) for value in sorted((one, other)))
    assert low <= high


def book(tmp_path: Path, *claims: dict[str, Any]) -> Path:
    path = tmp_path / "claims.yaml"
    source = {"backend": "simulator", "machine": "box"}
    path.write_text(yaml.safe_dump({"source": source, "claims": list(claims)}))
    return path


def values(**changes: Any) -> dict[str, Any]:
    made = claim().model_dump(mode="json", exclude_none=True)
    return {**made, "accepted": [1.25, inf], **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accepted": [3.0, 1.25]}, r"claim qps-mix.accepted: the range \[3.0, 1.25\] is reversed"),
        ({"accepted": [1.1, inf]}, r"a gain of 1.5 accepts \[1.25, inf\]"),
        ({"value": 1, "accepted": [1, inf]}, "a gain of 1 is none"),
        ({"metric": {"kind": "goodput"}}, "claim qps-mix.metric: unknown metric 'goodput'; known are"),
        ({"metric": capacity_ratio(load=0.5)}, "metric.*load: Extra inputs are not permitted"),
        ({"metric": {"kind": "capacity_ratio"}}, "policy: Field required"),
        ({"rule": "anchor"}, "`precision` belongs to anchors"),
        ({"minutes": 0}, "minutes: Input should be greater than 0"),
        ({"id": "Qps Light"}, "id: String should match pattern"),
        (ANCHOR | {"value": 9.0}, r"the range \[1.4, 2.2\] does not hold the paper's value 9.0"),
    ],
)
def test_a_mistake_is_told_with_the_claim_and_what_to_change(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ClaimsError, match=message):
        load_claims(book(tmp_path, values(**changes)))


def test_an_id_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClaimsError, match="id 'qps-mix' stands twice"):
        load_claims(book(tmp_path, values(), values()))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ClaimsError) as caught:
        load_claims(book(tmp_path, values(minutes=0), values(id="other", metric={"kind": "x"})))
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("text", ["", "claims: [", "[]"])
def test_a_file_that_is_no_file_of_claims_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(ClaimsError, match=r"claims\.yaml"):
        load_claims(path)


def test_the_source_s_gains_by_workload_come_from_the_file_of_claims(tmp_path: Path) -> None:
    metric = {"kind": "capacity_ratio", "policy": "A", "to": "B"}
    path = book(
        tmp_path,
        values(id="one", metric={**metric, "workload": "light"}),
        values(id="two", metric={**metric, "workload": "heavy", "policy": "C"}),
    )
    assert published_gains("A", "B", path) == {"light": 1.5}
    assert set(published_gains("Veltair-FULL", "Planaria")) == {"light", "medium", "heavy"}


def test_the_shipped_claims_are_those_that_were_fixed_before_any_result() -> None:
    claims = {one.id: one for one in load_claims().claims}
    gains = [
        (claims[f"qps-{name}"].value, claims[f"qps-{name}"].accepted[0])
        for name in ("light", "medium", "heavy")
    ]
    assert gains == [(1.71, 1.355), (1.62, 1.31), (1.45, 1.225)]
    latencies = [one for name, one in claims.items() if name.startswith("latency-")]
    assert {(one.value, one.accepted) for one in latencies} == {(0.5, (0.0, 0.75))}
    assert len(latencies) == 9
    assert {name for name, one in claims.items() if one.rule == "trend"} == {
        *(f"full-as-{name}" for name in ("light", "medium", "heavy")),
        *(f"ac-planaria-{name}" for name in ("light", "medium", "heavy")),
        "shrinking-light-medium",
        "shrinking-medium-heavy",
    }
    assert {name for name, one in claims.items() if one.rule == "anchor"} == {
        "anchor-resnet50",
        "anchor-googlenet",
        "anchor-layer-wise",
    }
