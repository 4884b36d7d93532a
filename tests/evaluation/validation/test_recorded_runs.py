from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from veltair.evaluation.loadgen.logs import LoadGenError
from veltair.evaluation.measurement.core_use import UNKNOWN, CoreUse
from veltair.evaluation.measurement.engine_load import NOT_MEASURED, EngineLoad
from veltair.evaluation.measurement.run_quality import RunQuality
from veltair.evaluation.validation import recorded_runs
from veltair.evaluation.validation.recorded_runs import recorded_run

LATE = RunQuality("LoadGen was late")


@dataclass(frozen=True)
class FakeRun:
    """As much of a run as is looked at; the records are its number."""

    records: tuple[int, ...]
    wrong_answers: int
    use: CoreUse = UNKNOWN
    quality: RunQuality = LATE
    load: EngineLoad = NOT_MEASURED


@dataclass
class FakeEngine:
    """An engine on a machine whose pace is 1 before a run, and 4 after it."""

    paces: list[float]

    def pace(self, _: object) -> float:
        return self.paces.pop()


DISTURBED = CoreUse(0.3, 0.0)


def kept(records: tuple[int, ...], wrong_answers: int, use: CoreUse = UNKNOWN) -> FakeRun:
    """Return a run whose pace was measured."""
    return FakeRun(records, wrong_answers, use, load=EngineLoad(pace=2.0))


def record(monkeypatch: pytest.MonkeyPatch, *outcomes: int | CoreUse | LoadGenError) -> tuple[Any, list[str]]:
    """Record at 50 queries/s; return run and folders.

    Each try has so many wrong answers, or shares its cores, or fails.
    """
    folders: list[str] = []

    def measure(_: object, qps: float, folder: Path, engine: FakeEngine) -> FakeRun:
        engine.paces.append(4.0)
        folders.append(folder.name)
        outcome = outcomes[len(folders) - 1]
        if isinstance(outcome, LoadGenError):
            raise outcome
        if isinstance(outcome, CoreUse):
            return FakeRun((len(folders),), 0, outcome)
        return FakeRun((len(folders),), outcome)

    monkeypatch.setattr(recorded_runs, "measure", measure)
    monkeypatch.setattr(recorded_runs, "open_engine", lambda study: nullcontext(FakeEngine([1.0])))
    study: Any = SimpleNamespace(policy="Ours")
    run = recorded_run(study, 50.0, Path("loadgen"))
    if run is not None:
        assert run.load.pace == 2.0  # the geometric mean
    return run, folders


def test_a_run_with_right_answers_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    assert record(monkeypatch, 0) == (kept((1,), 0), ["50qps-1"])


def test_a_run_with_wrong_answers_or_with_others_on_its_cores_is_repeated_twice_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert record(monkeypatch, 3, 0) == (kept((2,), 0), ["50qps-1", "50qps-2"])
    assert record(monkeypatch, DISTURBED, 3, 0)[0] == kept((3,), 0)


def test_of_runs_that_are_all_wrong_or_disturbed_the_last_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert record(monkeypatch, 3, 4, DISTURBED)[0] == kept((3,), 0, DISTURBED)


def test_a_wrong_run_is_kept_where_the_others_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = LoadGenError("it hangs")
    assert record(monkeypatch, 3, hangs, hangs)[0] == kept((1,), 3)


def test_no_run_is_left_where_all_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert record(monkeypatch, *[LoadGenError("it hangs")] * 3)[0] is None
