"""Numbers that a measurement may only bound: known, or above all or below all that was tried."""

from dataclasses import dataclass
from enum import StrEnum
from math import inf, isinf

from veltair.evaluation.metrics.policies_table import number


class Reach(StrEnum):
    """What a measurement says of a number: the number, or a bound of it, or nothing."""

    KNOWN = "known"
    BELOW = "below"
    ABOVE = "above"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is known of a number of 0 or more: it lies between two bounds, and is known where these are equal.

    `at_least` is 0 where nothing bounds it from below, `at_most` infinite where nothing does from above.
    """

    at_least: float
    at_most: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.at_least <= self.at_most or isinf(self.at_least):
            raise ValueError(
                f"Bounds: [{self.at_least}, {self.at_most}]; give 0 <= at_least <= at_most, at_least finite"
            )

    @property
    def reach(self) -> Reach:
        """Whether it is known, or on which side of what was tried it lies."""
        if self.at_least == self.at_most:
            return Reach.KNOWN
        if self.at_least == 0.0 and isinf(self.at_most):
            return Reach.UNKNOWN
        return Reach.ABOVE if isinf(self.at_most) else Reach.BELOW

    @property
    def value(self) -> float:
        """The number, or the bound that it is not known beyond; NaN where there is none."""
        if self.reach is Reach.UNKNOWN:
            return float("nan")
        return self.at_most if self.reach is Reach.BELOW else self.at_least

    def over(self, other: "Bounds") -> "Bounds":
        """Return what is known of the quotient."""
        least = self.at_least / other.at_most if other.at_most > 0.0 else 0.0
        most = self.at_most / other.at_least if other.at_least > 0.0 else inf
        return Bounds(least, max(least, most))

    def __str__(self) -> str:
        """Return it as tables print it, with three digits."""
        if self.reach is Reach.UNKNOWN:
            return number(self.value)
        sign = {Reach.KNOWN: "", Reach.BELOW: "< ", Reach.ABOVE: "> "}[self.reach]
        return f"{sign}{number(self.value)}"
