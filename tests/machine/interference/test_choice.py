from collections.abc import Callable
from pathlib import Path

import pytest

from veltair.machine.interference.choice import choose, sources, start_source
from veltair.machine.interference.source import (
    InterferenceSource,
    InterferenceUnavailableError,
    ObservedSlowdown,
    PressureFit,
)
from veltair.machine.topology.topology import Machine

MACHINE = Machine("made-up", 1, ((0, 1),), 2**20, 2**25, 1e11, 1e10, validated=False)


class Works(ObservedSlowdown):
    """A source that works, and counts its starts."""

    starts = 0

    def start(self) -> None:
        Works.starts += 1


class Refuses(ObservedSlowdown):
    """A source that this machine does not have."""

    def start(self) -> None:
        raise InterferenceUnavailableError("there is\nno counter; buy one")


CANDIDATES: dict[str, Callable[[], InterferenceSource]] = {
    "perf": lambda: Refuses("perf"),
    "probe": lambda: Works("probe"),
    "slowdown": lambda: Works("observed slowdown"),
}


def fit(source: str, r_squared: float) -> PressureFit:
    return PressureFit(source, ("x",), (1.0,), 0.0, r_squared, 0.1)


def test_auto_takes_the_first_that_starts_and_says_why_not_the_others_in_one_line() -> None:
    source, line = start_source("auto", CANDIDATES)
    assert source.name == "probe"
    assert line == (
        "interference: probe (the best that works here, not fitted); not perf: there is no counter; buy one"
    )


def test_a_source_that_is_not_taken_is_not_started() -> None:
    before = Works.starts
    start_source("auto", CANDIDATES)
    assert Works.starts == before + 1


def test_a_named_source_is_taken_though_a_better_one_works() -> None:
    source, line = start_source("slowdown", CANDIDATES)
    assert source.name == "observed slowdown"
    assert line == "interference: observed slowdown (as configured, not fitted)"


def test_a_named_source_that_does_not_work_is_an_error_with_its_reason() -> None:
    with pytest.raises(
        InterferenceUnavailableError, match=r"`engine.interference: perf`\): not perf: there is"
    ):
        start_source("perf", CANDIDATES)


def test_auto_with_nothing_that_works_is_an_error() -> None:
    with pytest.raises(InterferenceUnavailableError, match="no source of interference works"):
        start_source("auto", {"perf": CANDIDATES["perf"]})


def test_an_unknown_source_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'magic'; give auto or \['perf', 'probe', 'slowdown'\]"):
        start_source("magic", CANDIDATES)


@pytest.mark.parametrize(
    ("r_squared", "taken"), [(-0.2, "observed slowdown"), (0.09, "observed slowdown"), (0.1, "probe")]
)
def test_auto_passes_over_a_source_whose_fit_explains_too_little(r_squared: float, taken: str) -> None:
    source, line = start_source("auto", CANDIDATES, {"probe": fit("probe", r_squared)})
    assert source.name == taken
    assert ("its fit explains too little" in line) == (taken != "probe")


def test_a_fit_is_told_with_its_quality() -> None:
    _, line = start_source("probe", CANDIDATES, {"probe": fit("probe", 0.42)})
    assert line == "interference: probe (as configured, fitted, R² 0.42 on held-out co-runs)"


def test_the_sources_are_named_as_in_the_configuration_and_take_their_fits(tmp_path: Path) -> None:
    made = sources(MACHINE, tmp_path, {})
    assert list(made) == ["perf", "probe", "slowdown"]
    assert [make().name for make in made.values()] == ["perf", "probe", "observed slowdown"]
    with pytest.raises(ValueError, match="fit this source"):
        sources(MACHINE, tmp_path, {"probe": fit("perf", 0.5)})["probe"]()


def test_the_slowdown_is_chosen_with_its_fit_wherever_it_runs(tmp_path: Path) -> None:
    features = ObservedSlowdown().features
    fitted = PressureFit("observed slowdown", features, (1.0,), 0.25, 0.5, 0.1)
    source, line = choose("slowdown", MACHINE, tmp_path, {"slowdown": fitted})
    assert source.pressure() == 0.25
    assert "fitted, R² 0.50" in line
