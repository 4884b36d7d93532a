"""What every figure says of itself, asserted once over the registry of figures, and over those beside it."""

import re
from collections.abc import Callable
from functools import cache

import pytest
from matplotlib.figure import Figure

from tests.support.evaluation.figure_cases import (
    MANY,
    MEASURED,
    OF_CAPACITIES,
    OF_LOADS,
    OF_RUNS,
    changed,
    draw,
    nothing_served,
    tables,
)
from tests.support.evaluation.figure_texts import overlaps, texts
from tests.support.evaluation.plot_tables import SIX, pressure_fits
from tests.support.evaluation.traffic_tables import SIZES_TABLE
from tests.support.serving.timeline_builders import recorded_run
from veltair.evaluation.figures.timeline_plots import gantt_figure
from veltair.evaluation.measurement.interference_plots import fit_figure
from veltair.evaluation.metrics.policies_table import PolicyOrder
from veltair.evaluation.metrics.records import Run
from veltair.evaluation.reports.paper_figures import PAPER_FIGURES
from veltair.evaluation.validation.traffic_plots import validation_traffic_figure

ALL = tuple(PAPER_FIGURES)
WITH_TARGETS = [name for name in ALL if "targets" in PAPER_FIGURES[name].tables]
TINT = (0.95, 0.95, 0.95)
UNITS = re.compile(
    r"\((queries/s|ms|µs|s|cores|index|times|share.*|%.*|MiB|0 to 1|dotted|first .*|logarithmic"
    r"|\N{MULTIPLICATION SIGN}).*\)"
)
# Quotients, counts and names have no unit.
WITHOUT_UNIT = re.compile(
    r"ratio of|^QPS at 95 % QoS\nover|^over |^cores$|^placement$|^waiting\nqueries$|^workload$"
)


def timeline() -> Figure:
    recorded = recorded_run(1, cores=8, placement="pinned")[0]
    run = Run("simulator", "server", False, "mix", "Planaria", 123.456, 7)
    return gantt_figure(recorded, run, 0.0, recorded.end_s)


# Drawn by the steps that make their tables, with what is to be read in each.
BESIDE: dict[str, tuple[Callable[[], Figure], str]] = {
    "timeline": (
        timeline,
        r"Planaria, mix at 123.5 queries/s, seed 7; simulator, server, UNVALIDATED\..*placement `pinned`",
    ),
    "interference": (lambda: fit_figure(*pressure_fits("perf", "probe")), "n = 28 readings of 10 co-runs"),
    "traffic": (lambda: validation_traffic_figure(SIZES_TABLE), "n = 3"),
    "no traffic": (lambda: validation_traffic_figure(SIZES_TABLE[:0]), "nothing was simulated:"),
}


@cache
def drawn(name: str) -> Figure:
    """Return a figure of some policies, seeds and workloads, to look at and not to change."""
    return BESIDE[name][0]() if name in BESIDE else draw(name, tables())


def one_line(name: str, **given: object) -> str:
    figure = draw(name, tables(**given)) if given else drawn(name)
    return " ".join(texts(figure).split())


@pytest.mark.parametrize("name", [*ALL, *BESIDE])
def test_no_text_covers_another_or_leaves_the_figure(name: str) -> None:
    assert overlaps(drawn(name)) == []


@pytest.mark.parametrize("name", [*OF_LOADS, *OF_RUNS, *OF_CAPACITIES[:3], "measured"])
def test_nor_with_more_policies_of_which_one_has_a_long_name(name: str) -> None:
    assert overlaps(draw(name, tables(MANY))) == []


@pytest.mark.parametrize("name", ALL)
def test_every_number_is_finite(name: str) -> None:
    shown = texts(draw(name, tables(seeds=[1])))
    assert not re.search(r"\b(nan|inf)\b", shown)


@pytest.mark.parametrize("name", [*ALL, *BESIDE][:-1])
def test_axes_have_units(name: str) -> None:
    axes = [axis for axis in drawn(name).axes if axis.get_visible()]
    labels = {axis.get_xlabel() for axis in axes} | {axis.get_ylabel() for axis in axes}
    named = [label for label in labels if label and label.replace("\n", "") not in MANY]
    assert named
    assert [one for one in named if not UNITS.search(one) and not WITHOUT_UNIT.search(one)] == []


@pytest.mark.parametrize("name", BESIDE)
def test_a_figure_beside_the_registry_says_what_it_is_of(name: str) -> None:
    shown = " ".join(texts(drawn(name)).split())
    assert re.search(BESIDE[name][1], shown) and not re.search(r"\b(nan|inf)\b", shown)


@pytest.mark.parametrize("name", ALL)
def test_what_no_measurement_stands_behind_is_labelled_and_tinted(name: str) -> None:
    figure = draw(name, changed(tables(), lambda table: table.assign(validated=False)))
    assert "UNVALIDATED" in texts(figure)
    assert {axis.get_facecolor()[:3] for axis in figure.axes if axis.get_visible()} == {TINT}


@pytest.mark.parametrize("name", ALL)
def test_what_is_validated_is_not(name: str) -> None:
    figure = draw(name, changed(tables(), lambda table: table.assign(validated=True)))
    assert "UNVALIDATED" not in texts(figure)
    assert TINT not in {axis.get_facecolor()[:3] for axis in figure.axes if axis.get_visible()}


@pytest.mark.parametrize("name", [*OF_CAPACITIES, *OF_LOADS])
@pytest.mark.filterwarnings("error")
def test_one_seed_has_no_interval_and_the_caption_says_so(name: str) -> None:
    assert "(one seed: no interval)" in one_line(name, seeds=[1])
    assert "(one seed" not in one_line(name, seeds=[1, 2])


@pytest.mark.parametrize("name", [*OF_CAPACITIES, *OF_LOADS, *OF_RUNS, "paper_fidelity"])
def test_the_caption_tells_how_many_queries_and_which_seeds_stand_behind_the_numbers(name: str) -> None:
    assert re.search(r"n = \S+ (counted )?queries a run, seeds? \d", one_line(name))


OF_POLICIES = [name for name in ALL if PAPER_FIGURES[name].of_policies]


@pytest.mark.parametrize("name", OF_POLICIES)
def test_the_caption_states_the_options_of_the_policies_that_are_shown(name: str) -> None:
    figure, made = PAPER_FIGURES[name], tables()
    order = PolicyOrder(options={key: {"order": "edf", "conflict": "wait"} for key in SIX})
    shown = " ".join(texts(figure.draw(*(made[table] for table in figure.tables), order=order)).split())
    # Where all have one rule for late queries, that is stated too.
    assert re.search(r"Options order, conflict(: edf, wait|, drop_late: edf, wait, when_doomed)\.", shown)


@pytest.mark.parametrize("name", WITH_TARGETS)
def test_the_caption_tells_which_targets_were_relaxed_and_to_what(name: str) -> None:
    assert "ssd_resnet34 100 to 184 ms" in one_line(name)


@pytest.mark.parametrize("name", [*OF_CAPACITIES[:3], *OF_LOADS, *OF_RUNS[:1], "paper_conflicts"])
def test_only_workloads_with_a_relaxed_target_have_a_star(name: str) -> None:
    shown = texts(drawn(name)).split("\n")
    assert "heavy (* relaxed QoS)" in shown and "medium" in shown


@pytest.mark.parametrize("name", OF_CAPACITIES)
@pytest.mark.filterwarnings("error")
def test_what_nobody_can_serve_is_said(name: str) -> None:
    assert "unservable" in texts(draw(name, nothing_served(tables())))


@pytest.mark.parametrize("name", [*OF_CAPACITIES[:3], *OF_LOADS, "latency", "measured"])
@pytest.mark.filterwarnings("error")
def test_one_policy_on_one_workload_is_a_figure(name: str) -> None:
    assert "Planaria" in texts(draw(name, tables(["Planaria"], [1, 2], ["mix"])))


@pytest.mark.parametrize("name", MEASURED)
def test_a_figure_of_errors_says_them(name: str) -> None:
    assert re.search(r"error [\d.]+ %, null [\d.]+", texts(drawn(name)))
