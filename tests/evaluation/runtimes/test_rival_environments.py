import subprocess
from pathlib import Path
from typing import Any

import pytest

from veltair.data import shipped
from veltair.evaluation.__main__ import main
from veltair.evaluation.runtimes import rival_environments
from veltair.evaluation.runtimes.rival_environments import INSTALLABLE, LIST, RIVALS, install_rivals


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would be run; nothing is."""
    found: list[list[str]] = []

    def run(command: list[str], **options: Any) -> None:
        found.append(command)

    def create(environment: Path, **options: Any) -> None:
        environment.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(rival_environments.venv, "create", create)
    monkeypatch.setattr(rival_environments.subprocess, "run", run)
    return found


def test_each_rival_gets_its_pinned_packages_in_an_environment_of_its_own(
    commands: list[list[str]], tmp_path: Path
) -> None:
    assert install_rivals([], tmp_path) == list(RIVALS)
    assert [(Path(one[0]).parts[-3], Path(one[-1]).parent.name) for one in commands] == [
        (n, n) for n in RIVALS
    ]


def test_what_is_installed_is_not_installed_again_until_its_list_changes(
    commands: list[list[str]], tmp_path: Path
) -> None:
    install_rivals(["mlserver"], tmp_path)
    install_rivals(["mlserver"], tmp_path)
    assert len(commands) == 1
    (tmp_path / "mlserver" / LIST).write_text("old")
    install_rivals(["mlserver"], tmp_path)
    assert len(commands) == 2


def test_a_rival_that_cannot_be_installed_is_left_out_with_the_reason(
    commands: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(command: list[str], **options: Any) -> None:
        if "mlserver" in command[0]:
            raise subprocess.CalledProcessError(1, command, stderr="looked\nno such version\n")

    monkeypatch.setattr(rival_environments.subprocess, "run", run)
    assert install_rivals([], tmp_path) == ["ray-serve"]
    assert "mlserver is left out: no such version" in capsys.readouterr().err
    assert not (tmp_path / "mlserver" / LIST).exists()


def test_an_unknown_rival_is_one_error(
    commands: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rivals", "triton", "--folder", str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err
        == "error: triton is no rival; give one of mlserver, ray-serve, tritonclient\n"
    )
    assert commands == []


@pytest.mark.parametrize("name", INSTALLABLE)
def test_every_package_of_a_rival_is_pinned_and_comes_from_no_named_place(name: str) -> None:
    lines = (shipped("rivals") / name / LIST).read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins and all(line.count("==") == 1 and "/" not in line and " " not in line for line in pins)
