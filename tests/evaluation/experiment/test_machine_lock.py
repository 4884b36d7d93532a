import os
import tempfile
from pathlib import Path

import pytest

from veltair.evaluation.experiment import machine_lock
from veltair.evaluation.experiment.machine_lock import machine_to_itself, measuring_lock


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_lock_is_in_the_user_s_own_folder(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert measuring_lock() == tmp_path / f"veltair-{os.getuid()}.lock"


@pytest.mark.parametrize("named", ["missing", "", "relative", "/dev/null"])
def test_a_folder_that_is_not_there_is_not_taken(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relative").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing") if named == "missing" else named)
    assert measuring_lock().parent == temporary
    with machine_to_itself(measuring_lock()):
        assert measuring_lock().exists()


def test_a_folder_of_another_user_is_not_taken(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(machine_lock.os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    assert measuring_lock().parent == temporary
