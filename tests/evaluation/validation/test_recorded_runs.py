from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from veltair.evaluation.loadgen.logs import LoadGenError
from veltair.evaluation.measurement.core_use import UNKNOWN, CoreUse
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


DISTURBED = CoreUse(0.3, 0.0)


def record(monkeypatch: pytest.MonkeyPatch, *outcomes: int | CoreUse | LoadGenError) -> tuple[Any, list[str]]:
    """Record at 50 queries/s; return run and folders.

    Each try has so many wrong answers, or shares its cores, or fails.
    """
    folders: list[str] = []

    def measure(_: object, qps: float, folder: Path) -> FakeRun:
        folders.append(folder.name)
        outcome = outcomes[len(folders) - 1]
        if isinstance(outcome, LoadGenError):
            raise outcome
        if isinstance(outcome, CoreUse):
            return FakeRun((len(folders),), 0, outcome)
        return FakeRun((len(folders),), outcome)

    monkeypatch.setattr(recorded_runs, "measure", measure)
    study: Any = SimpleNamespace(policy="Ours")
    return recorded_run(study, 50.0, Path("loadgen")), folders


def test_a_run_with_right_answers_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    assert record(monkeypatch, 0) == (FakeRun((1,), 0), ["50qps-1"])


def test_a_run_with_wrong_answers_or_with_others_on_its_cores_is_repeated_twice_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert record(monkeypatch, 3, 0) == (FakeRun((2,), 0), ["50qps-1", "50qps-2"])
    assert record(monkeypatch, DISTURBED, 3, 0)[0] == FakeRun((3,), 0)


def test_of_runs_that_are_all_wrong_or_disturbed_the_last_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert record(monkeypatch, 3, 4, DISTURBED)[0] == FakeRun((3,), 0, DISTURBED)


def test_a_wrong_run_is_kept_where_the_others_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = LoadGenError("it hangs")
    assert record(monkeypatch, 3, hangs, hangs)[0] == FakeRun((1,), 3)


def test_no_run_is_left_where_all_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert record(monkeypatch, *[LoadGenError("it hangs")] * 3)[0] is None
