import math

import pandas as pd
import pytest

from veltair.evaluation.metrics.policies_table import (
    PolicyOrder,
    number,
    source_name,
    sources,
    span,
)

SOURCE = ("simulator", "bench")


def test_policies_come_in_the_order_given_and_others_after_them() -> None:
    order = PolicyOrder(["FcfsMin", "Planaria", "Veltair-FULL"])
    names = ["Mine", "Veltair-FULL", "FcfsMin", "Planaria", "Mine", "Yours"]
    assert order.of(names) == ["FcfsMin", "Planaria", "Veltair-FULL", "Mine", "Yours"]
    assert PolicyOrder().of(names) == ["Mine", "Veltair-FULL", "FcfsMin", "Planaria", "Yours"]


FCFS = {"order": "fcfs", "drop_late": "never"}


def test_options_are_stated_once_for_most_policies_and_apart_for_those_that_differ() -> None:
    edf, dooming = {"order": "edf", "drop_late": "never"}, {"drop_late": "when_doomed"}
    options = {"A": FCFS, "B": FCFS, "C": edf, "D": dooming}
    assert PolicyOrder(options=options).options_note(["A", "B", "C", "D"]) == [
        "Options order, drop_late: fcfs, never; but edf, never of C; \N{EN DASH}, when_doomed of D."
    ]


def test_options_that_all_share_are_one_sentence_and_unknown_ones_none() -> None:
    order = PolicyOrder(options={"A": FCFS, "B": FCFS})
    assert order.options_note(["B", "A", "Other"]) == ["Options order, drop_late: fcfs, never."]
    assert order.options_note(["Other"]) == PolicyOrder().options_note(["A"]) == []


def rows(backend: str = "simulator", validated: bool = True) -> pd.DataFrame:
    return pd.DataFrame({"backend": [backend], "machine": ["bench"], "validated": [validated]})


def test_measured_sources_come_first() -> None:
    frame = pd.DataFrame({"backend": ["simulator", "engine", "simulator"], "machine": ["big", "host", "big"]})
    assert sources(frame) == [("engine", "host"), ("simulator", "big")]


def test_a_source_says_whether_it_is_measured_and_whether_it_is_validated() -> None:
    assert source_name(SOURCE, rows()) == "bench, simulated"
    assert source_name(SOURCE, rows(validated=False)) == "bench, simulated: UNVALIDATED"
    assert source_name(("engine", "bench"), rows("engine")) == "bench, measured here"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1299.4, "1299"),
        (12.345, "12.3"),
        (10.0, "10"),
        (0.05, "0.05"),
        (0.012345, "0.0123"),
        (100, "100"),
    ],
)
def test_numbers_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert number(value) == text


def test_what_is_no_number_is_a_dash() -> None:
    assert number(math.nan) == "\N{EN DASH}"
    assert number(math.inf) == "inf"


def test_a_span_of_equal_numbers_is_one_number() -> None:
    assert (span([1.0, 1.0001]), span([2, math.nan, 1]), span([])) == ("1", "1\N{EN DASH}2", "?")
