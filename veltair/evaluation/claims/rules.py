"""The paper's claims as data, and the rules by which a number passes, deviates or something between.

The rules were fixed before any result was seen (docs/claims.md); a result is never adjusted to match the
paper.
"""

from collections import Counter
from enum import StrEnum
from math import inf, isclose, isnan
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from veltair.config.yaml_file import YamlError, read_yaml
from veltair.data import shipped
from veltair.evaluation.metrics.intervals import Interval
from veltair.evaluation.metrics.policies_table import number

SHIPPED_CLAIMS = shipped("claims.yaml")
NO_EFFECT = 1.0  # of a ratio


class ClaimsError(ValueError):
    """A file of claims that cannot be used; the message names the claim and what to change."""


class Verdict(StrEnum):
    """What is said of a claim."""

    PASS = "PASS"
    WITHIN = "WITHIN"
    DEVIATES = "DEVIATES"
    NOT_COMPUTED = "NOT COMPUTED"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True)


class Source(_Strict):
    """Where the numbers of a claim come from."""

    backend: str
    machine: str


class CapacityRatio(_Strict):
    """Pooled QPS at 95 % QoS of a policy over that of another; that over `beside` is printed, not judged."""

    kind: Literal["capacity_ratio"]
    policy: str
    to: str
    workload: str
    beside: str | None = None


class LatencyRatio(_Strict):
    """Mean latency of a policy over that of another, both offered `load` times the other's own QPS."""

    kind: Literal["latency_ratio"]
    policy: str
    to: str
    workload: str
    load: Annotated[float, Field(gt=0)]
    beside: str | None = None


class GainQuotient(_Strict):
    """A capacity ratio on one workload over the same on another (`than`)."""

    kind: Literal["gain_quotient"]
    policy: str
    to: str
    workload: str
    than: str


class Benchmark(_Strict):
    """A figure of `benchmarks/FILE.json`; `modelled` if it is about the described machine, not this one."""

    kind: Literal["benchmark"]
    file: str
    figure: str
    modelled: bool = False
    beside: str | None = None


Metric = Annotated[CapacityRatio | LatencyRatio | GainQuotient | Benchmark, Field(discriminator="kind")]


class Claim(_Strict):
    """One statement of the paper and what would confirm it.

    `rule` says how: a `gain` is a ratio that leaves 1, upwards or downwards; a `trend` a ratio that is not
    below 1; an `anchor` a number that is met to `precision`, the half of its last printed digit or what
    "about" leaves open. `accepted` is the range of WITHIN, ends included. `minutes` is the limit that is set
    for `command` on 2 cores, None where there is none.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9.-]+$")]
    statement: Annotated[str, Field(min_length=1)]
    metric: Metric
    rule: Literal["gain", "trend", "anchor"]
    value: float
    accepted: tuple[float, float]
    precision: Annotated[float, Field(gt=0)] | None = None
    unit: str = ""
    command: Annotated[str, Field(min_length=1)]
    minutes: Annotated[float, Field(gt=0)] | None = None
    output: Annotated[str, Field(min_length=1)]

    @field_validator("accepted")
    @classmethod
    def _in_order(cls, accepted: tuple[float, float]) -> tuple[float, float]:
        if not accepted[0] < accepted[1]:
            raise ValueError(
                f"the range [{accepted[0]}, {accepted[1]}] is reversed or empty; give [low, high]"
            )
        return accepted

    @model_validator(mode="after")
    def _rule_fits(self) -> "Claim":
        if self.rule == "gain" and self.value == NO_EFFECT:
            raise ValueError("a gain of 1 is none; give `rule: trend`")
        wanted = _accepted(self.rule, self.value)
        if wanted is not None and not all(map(isclose, self.accepted, wanted)):
            raise ValueError(
                f"a {self.rule} of {self.value} accepts {list(wanted)} (at least half of the effect), not "
                f"{list(self.accepted)}; the rule is fixed, change the range"
            )
        if (self.rule == "anchor") != (self.precision is not None):
            raise ValueError("`precision` belongs to anchors, and each needs one")
        if not self.accepted[0] <= self.value <= self.accepted[1]:
            raise ValueError(f"the range {list(self.accepted)} does not hold the paper's value {self.value}")
        return self


class ClaimsFile(_Strict):
    """All claims, and where the numbers come from."""

    source: Source
    claims: tuple[Claim, ...]

    @field_validator("claims")
    @classmethod
    def _ids_differ(cls, claims: tuple[Claim, ...]) -> tuple[Claim, ...]:
        if not claims:
            raise ValueError("there is no claim; give one or more")
        twice = [name for name, count in Counter(claim.id for claim in claims).items() if count > 1]
        if twice:
            raise ValueError(f"id {twice[0]!r} stands twice; give each claim its own")
        return claims


def load_claims(path: Path = SHIPPED_CLAIMS) -> ClaimsFile:
    """Return the claims of a YAML file. Raises ClaimsError, with every mistake in it."""
    try:
        values = read_yaml(path)
        return ClaimsFile.model_validate(values)
    except (OSError, YamlError) as error:
        raise ClaimsError(f"{path} cannot be read: {error}") from None
    except ValidationError as error:
        mistakes = "\n".join(
            f"  {_place(values, mistake)}: {_mistake(mistake)}" for mistake in error.errors()
        )
        raise ClaimsError(f"{path} is not a file of claims:\n{mistakes}") from None


def published_gains(policy: str, to: str, path: Path = SHIPPED_CLAIMS) -> dict[str, float]:
    """Return the ratio of two policies' QPS at 95 % QoS that the source prints, by workload."""
    return {
        claim.metric.workload: claim.value
        for claim in load_claims(path).claims
        if isinstance(claim.metric, CapacityRatio)
        and claim.rule == "gain"
        and (claim.metric.policy, claim.metric.to) == (policy, to)
    }


def judge_claim(claim: Claim, found: Interval) -> tuple[Verdict, str]:
    """Return the verdict on a number that was found, and the reason.

    A gain or trend without an interval, from one seed, never passes: luck looks the same.
    """
    if isnan(found.mean):
        return Verdict.NOT_COMPUTED, "there is no such number"
    if claim.rule == "anchor":
        return _judge_anchor(claim, found.mean)
    verdict, reason = (_judge_gain if claim.rule == "gain" else _judge_trend)(claim, found)
    if isnan(found.low):
        reason = f"one seed, so no interval and no PASS; {reason}"
    return verdict, reason


def point_verdict(claim: Claim, value: float) -> Verdict:
    """Return the verdict as if a number were known exactly: to see where it changes, not to give one."""
    return judge_claim(claim, Interval(value, value, value, 2))[0]


def _judge_gain(claim: Claim, found: Interval) -> tuple[Verdict, str]:
    up = claim.value > NO_EFFECT
    reach, other = (found.high, found.low) if up else (found.low, found.high)
    reaches = reach >= claim.value if up else reach <= claim.value
    real = other > NO_EFFECT if up else other < NO_EFFECT
    if reaches and real:
        return Verdict.PASS, f"the interval reaches {number(claim.value)}"
    note = (
        f"; the interval holds {number(NO_EFFECT)}, no effect" if found.low <= NO_EFFECT <= found.high else ""
    )
    share = (found.mean - NO_EFFECT) / (claim.value - NO_EFFECT)
    if claim.accepted[0] <= found.mean <= claim.accepted[1]:
        return Verdict.WITHIN, f"{share:.0%} of the paper's effect{note}"
    if share > 0:
        return Verdict.DEVIATES, f"only {share:.0%} of the paper's effect, less than half{note}"
    return Verdict.DEVIATES, f"no effect, or the other way{note}"


def _judge_trend(claim: Claim, found: Interval) -> tuple[Verdict, str]:
    if found.mean >= claim.value:
        if isnan(found.low):
            return Verdict.WITHIN, f"not below {number(claim.value)}"
        doubt = "" if found.low >= claim.value else ", though the interval also holds less"
        return Verdict.PASS, f"not below {number(claim.value)}{doubt}"
    if found.high >= claim.value:
        return Verdict.WITHIN, f"below {number(claim.value)}, but the interval reaches it"
    return Verdict.DEVIATES, f"below {number(claim.value)}"


def _judge_anchor(claim: Claim, value: float) -> tuple[Verdict, str]:
    off = f"{value / claim.value - 1:+.0%} of {number(claim.value)} {claim.unit}".rstrip()
    # Exact up to rounding: 1.85 is within 0.05 of 1.8.
    distance = abs(value - claim.value)
    precision = claim.precision or 0.0
    if distance <= precision or isclose(distance, precision):
        return Verdict.PASS, f"{off}, as near as the paper prints it"
    within = claim.accepted[0] <= value <= claim.accepted[1]
    return (Verdict.WITHIN if within else Verdict.DEVIATES), off


def _accepted(rule: str, value: float) -> tuple[float, float] | None:
    """Return the range that a rule fixes: half of a gain's effect or more, all from a trend's value up."""
    if rule == "anchor":
        return None
    if rule == "trend":
        return value, inf
    half = NO_EFFECT + (value - NO_EFFECT) / 2
    return (half, inf) if value > NO_EFFECT else (0.0, half)


def _place(values: Any, mistake: Any) -> str:
    """Return where a mistake is, the claim by its id rather than its number."""
    path = list(mistake["loc"])
    if path[:1] == ["claims"] and len(path) > 1:
        claim = values["claims"][path[1]]
        name = (
            claim.get("id", f"number {path[1] + 1}") if isinstance(claim, dict) else f"number {path[1] + 1}"
        )
        path = [f"claim {name}", *path[2:]]
    return ".".join(map(str, path)) or "the file"


def _mistake(mistake: Any) -> str:
    if mistake["type"] == "union_tag_invalid":
        context = mistake["ctx"]
        return f"unknown metric {context['tag']!r}; known are {context['expected_tags']}"
    return str(mistake["msg"]).removeprefix("Value error, ")
