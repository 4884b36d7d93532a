import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veltair.evaluation.measurement.interference_fit import (
    COLUMNS,
    Pressing,
    SourceReadings,
    fit_loads,
    fit_pressure,
    measure_coruns,
    presser,
    quality,
)
from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.profile.corunner import AchievedPressure, CoRunnerLoad
from veltair.machine.topology.topology import Machine

CORE = max(os.sched_getaffinity(0))
MACHINE = Machine("made-up", 1, ((CORE,),), 2**20, 2**22, 1e11, 1e9, validated=False)
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


def test_an_exact_line_is_found_and_predicts_what_it_has_not_seen() -> None:
    # pressure = 0.1 + 0.5 a + 0.25 b
    readings = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.2)]
    coruns = [SourceReadings(f"both {a}", 0.1 + 0.5 * a + 0.25 * b, ((a, b),)) for a, b in readings]
    report = fit_pressure("probe", ("a", "b"), coruns)
    assert report.fit.intercept == pytest.approx(0.1)
    assert report.fit.coefficients == pytest.approx((0.5, 0.25))
    assert report.fit.r_squared == pytest.approx(1.0)
    assert report.fit.mean_absolute_error == pytest.approx(0.0, abs=1e-9)


def test_a_corun_is_predicted_without_any_of_its_own_readings() -> None:
    # Two co-runs on the line p = x, one far off with two readings. Without it the line is exact: both of
    # its readings are predicted on that line, at 0.5.
    coruns = [
        SourceReadings("alone", 0.0, ((0.0,),)),
        SourceReadings("both 1", 1.0, ((1.0,),)),
        SourceReadings("cache 1", 0.9, ((0.5,),) * 2),
    ]
    report = fit_pressure("probe", ("x",), coruns)
    off = report.table[report.table["load"] == "cache 1"]
    assert list(off["predicted"]) == pytest.approx([0.5, 0.5])
    assert list(report.table.columns) == list(COLUMNS)
    assert list(report.table["corun"]) == [0, 1, 2, 2]


def test_r_squared_and_error_are_those_of_the_held_out_predictions() -> None:
    coruns = [
        SourceReadings("alone", 0.0, ((0.0,),)),
        SourceReadings("both 1", 1.0, ((1.0,),)),
        SourceReadings("cache 1", 0.9, ((0.5,),)),
    ]
    report = fit_pressure("probe", ("x",), coruns)
    expected = quality(report.table["known"].to_numpy(), report.table["predicted"].to_numpy())
    assert (report.fit.r_squared, report.fit.mean_absolute_error) == expected
    assert report.fit.r_squared < 1.0


def test_quality_by_hand() -> None:
    # Mean 0.5: total 0.5; residuals 0.1 and 0.2: 0.05; R² 0.9, error 0.15.
    r_squared, error = quality(np.array([0.0, 1.0]), np.array([0.1, 0.8]))
    assert r_squared == pytest.approx(0.9)
    assert error == pytest.approx(0.15)


def test_readings_that_tell_nothing_explain_nothing() -> None:
    coruns = [SourceReadings(f"both {level:g}", level, ((0.3,),)) for level in LEVELS]
    assert fit_pressure("probe", ("x",), coruns).fit.r_squared <= 0.0


def test_a_reading_that_falls_with_pressure_gets_no_weight() -> None:
    coruns = [SourceReadings(f"both {level:g}", level, ((1.0 - level,),)) for level in LEVELS]
    assert fit_pressure("probe", ("x",), coruns).fit.coefficients == pytest.approx((0.0,), abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=12))
def test_predictions_are_pressures_whatever_was_read(rows: list[tuple[float, float, float]]) -> None:
    pressures = [0.0, 1.0, *(row[0] for row in rows[2:])]
    coruns = [SourceReadings("both", p, (row[1:],)) for p, row in zip(pressures, rows, strict=True)]
    table = fit_pressure("probe", ("a", "b"), coruns).table
    assert table["predicted"].between(0.0, 1.0).all()


@pytest.mark.parametrize("pressures", [(0.0, 1.0), (0.5, 0.5, 0.5)])
def test_too_few_coruns_or_one_pressure_are_refused(pressures: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="at least 3 at two or more pressures"):
        fit_pressure("probe", ("x",), [SourceReadings("both", pressure, ((0.1,),)) for pressure in pressures])


@pytest.mark.parametrize(
    ("pressure", "readings"),
    [(1.1, ((0.1,),)), (float("nan"), ((0.1,),)), (0.5, ()), (0.5, ((0.1,), (0.1, 0.2)))],
)
def test_a_corun_that_cannot_be_is_refused(pressure: float, readings: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(ValueError, match="CoRun both"):
        SourceReadings("both", pressure, readings)


def test_loads_press_on_cache_and_memory_together_and_each_alone() -> None:
    loads = fit_loads(MACHINE, [0.5])
    assert loads == {
        "alone": None,
        "both 0.5": CoRunnerLoad(2**21, 5e8, 0.5),
        "cache 0.5": CoRunnerLoad(2**21, 0.0, 0.5),
        "reads 0.5": CoRunnerLoad(0, 5e8),
    }


def test_each_load_is_read_in_each_round_with_what_it_achieved() -> None:
    source = ObservedSlowdown()

    @contextmanager
    def pressing(load: CoRunnerLoad | None) -> Iterator[Pressing]:
        share = 0.0 if load is None else load.footprint_bytes / MACHINE.l3_bytes
        slow_s.append(1.0 + share)
        yield SimpleNamespace(achieved=AchievedPressure(0.0, share))  # type: ignore[misc]
        slow_s.pop()

    def press(load: CoRunnerLoad | None) -> AbstractContextManager[Pressing]:
        return pressing(load)

    slow_s: list[float] = []
    loads = {"alone": None, "cache 1": CoRunnerLoad(MACHINE.l3_bytes, 0.0)}
    coruns = measure_coruns(
        source, loads, press, rounds=2, readings=3, pause_s=0.0,
        exercise=lambda: source.observe(slow_s[-1], 1.0, 2.0),
    )  # fmt: skip
    assert [(corun.load, corun.pressure) for corun in coruns] == [("alone", 0.0), ("cache 1", 1.0)] * 2
    assert coruns[0].readings == ((0.0,),) * 3
    # The average moves a quarter of the way to 1 with each block.
    assert coruns[1].readings == ((0.25,), (0.4375,), (0.578125,))


def test_a_real_corunner_gives_a_known_pressure(tmp_path: Path) -> None:
    press = presser(CORE, MACHINE, tmp_path)
    loads = {"alone": None, "cache 0.5": CoRunnerLoad(2**21, 0.0, 0.5)}
    coruns = measure_coruns(ObservedSlowdown(), loads, press, rounds=1, readings=1, pause_s=0.05)
    assert coruns[0].pressure == 0.0
    assert 0.0 < coruns[1].pressure <= 0.5
