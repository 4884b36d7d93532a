"""From a source's readings to pressure: a linear fit on co-runs of known pressure, judged on others."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from veltair.machine.interference.source import InterferenceSource, PressureFit, Reading
from veltair.machine.profile.corunner import AchievedPressure, CoRunner, CoRunnerLoad, load_at
from veltair.machine.topology.topology import Machine

# A co-run is held out whole, so at least two must be left to draw a line through.
LEAST_CORUNS = 3
COLUMNS = ("source", "corun", "load", "known", "predicted")


class Pressing(Protocol):
    """What can be read of a co-runner once it has stopped."""

    @property
    def achieved(self) -> AchievedPressure:
        """The pressure it put on the machine."""


@dataclass(frozen=True, slots=True)
class SourceReadings:
    """The readings of a source beside one co-runner, and the pressure that this put on the machine.

    `load` names what the co-runner did. Readings have one number a feature of the source.
    """

    load: str
    pressure: float
    readings: tuple[Reading, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.pressure <= 1:
            raise ValueError(f"CoRun {self.load}: pressure is {self.pressure}; it lies in [0, 1]")
        if not self.readings or len({len(reading) for reading in self.readings}) != 1:
            raise ValueError(f"CoRun {self.load}: give one or more readings, all of the same features")


@dataclass(frozen=True, slots=True, eq=False)
class FitReport:
    """A fit on all co-runs, and what it predicts of each reading when the reading's co-run is held out.

    `table` has a row a reading: `source`, `corun` (a number), `load`, `known` and `predicted` pressure.
    """

    fit: PressureFit
    table: pd.DataFrame


def fit_loads(machine: Machine, levels: Sequence[float]) -> dict[str, CoRunnerLoad | None]:
    """Return the loads to fit on, by name: nothing, and at each level L3 and DRAM together, and each alone.

    A fit on both together could not tell which of the two a reading stands for.
    """
    loads: dict[str, CoRunnerLoad | None] = {"alone": None}
    for level in levels:
        both = load_at(level, machine)
        loads[f"both {level:g}"] = both
        loads[f"cache {level:g}"] = CoRunnerLoad(both.footprint_bytes, 0.0, level)
        loads[f"reads {level:g}"] = CoRunnerLoad(0, both.stream_bytes_per_s)
    return loads


def measure_coruns(
    source: InterferenceSource,
    loads: Mapping[str, CoRunnerLoad | None],
    press: Callable[[CoRunnerLoad | None], AbstractContextManager[Pressing]],
    rounds: int,
    readings: int,
    pause_s: float,
    exercise: Callable[[], None] | None = None,
) -> list[SourceReadings]:
    """Return a co-run for each load in each round, the loads of a round one after the other.

    The source has been started. Before each reading `pause_s` pass, the first twice, so that what was read
    before the co-runner is forgotten: give at least the window of the source. `exercise` is for a source that
    learns from blocks: before each reading it runs one and lets the source observe it.
    """
    coruns = []
    for _ in range(rounds):
        for name, load in loads.items():
            with press(load) as corunner:
                time.sleep(pause_s)
                taken = []
                for _ in range(readings):
                    time.sleep(pause_s)
                    if exercise is not None:
                        exercise()
                    taken.append(source.reading())
            coruns.append(SourceReadings(name, corunner.achieved.pressure, tuple(taken)))
    return coruns


def presser(core: int, machine: Machine, build_dir: Path) -> Callable[[CoRunnerLoad | None], CoRunner]:
    """Return what makes a co-runner on a core from a load; None makes one that does nothing."""

    def press(load: CoRunnerLoad | None) -> CoRunner:
        return CoRunner(0.0 if load is None else 1.0, core, machine, build_dir, load)

    return press


def fit_pressure(source: str, features: tuple[str, ...], coruns: Sequence[SourceReadings]) -> FitReport:
    """Return the fit of a source, with R² and mean absolute error over the readings of held-out co-runs.

    Least squares with coefficients of at least 0, by reading. Each co-run is predicted, all its readings, by
    the fit on all other co-runs. Raises ValueError for fewer than three co-runs or a single known pressure.
    """
    known = [np.full(len(corun.readings), corun.pressure) for corun in coruns]
    pressures = {corun.pressure for corun in coruns}
    if len(coruns) < LEAST_CORUNS or len(pressures) < 2:
        raise ValueError(
            f"the fit of {source} has {len(coruns)} co-runs at {len(pressures)} pressures; measure at least "
            f"{LEAST_CORUNS} at two or more pressures"
        )
    rows = [np.array(corun.readings, dtype=float) for corun in coruns]
    predicted = [
        _predict(_solve(rows[:index] + rows[index + 1 :], known[:index] + known[index + 1 :]), rows[index])
        for index in range(len(coruns))
    ]
    table = pd.DataFrame(
        [
            (source, number, corun.load, corun.pressure, float(guess))
            for number, (corun, guesses) in enumerate(zip(coruns, predicted, strict=True))
            for guess in guesses
        ],
        columns=list(COLUMNS),
    )
    r_squared, error = quality(table["known"].to_numpy(), table["predicted"].to_numpy())
    intercept, *coefficients = (float(value) for value in _solve(rows, known))
    return FitReport(PressureFit(source, features, tuple(coefficients), intercept, r_squared, error), table)


def quality(known: NDArray[np.float64], predicted: NDArray[np.float64]) -> tuple[float, float]:
    """Return R² (below 0 where the mean would predict better) and mean absolute error of predictions."""
    residual = float(((known - predicted) ** 2).sum())
    total = float(((known - known.mean()) ** 2).sum())
    return 1.0 - residual / total, float(np.abs(known - predicted).mean())


def _solve(rows: Sequence[NDArray[np.float64]], known: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return intercept and coefficients."""
    design = np.vstack(rows)
    design = np.column_stack([np.ones(len(design)), design])
    lowest = np.zeros(design.shape[1])
    lowest[0] = -np.inf
    found: NDArray[np.float64] = lsq_linear(design, np.concatenate(known), bounds=(lowest, np.inf)).x
    return found


def _predict(solution: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped: NDArray[np.float64] = np.clip(solution[0] + rows @ solution[1:], 0.0, 1.0)
    return clipped
