"""Odd numbers and paths for each command of the evaluation: a line that names what is wrong, and status 2."""

import subprocess
import sys
from pathlib import Path

import pytest

from veltair.evaluation.__main__ import main

ROOT = Path(__file__).parents[2]
SMOKE = str(ROOT / "workflow" / "config" / "smoke.yaml")
TIMELINE = ["timeline", "--config", SMOKE, "--policy", "Planaria"]


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the last line that a command prints when it ends with status 2."""
    try:
        status = main(arguments)
    except SystemExit as ended:  # of argparse
        status = ended.code
    assert status == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["estimate", "--config", SMOKE, "--cores", "0"],
            "argument --cores: 0 is not a whole number of 1 or more",
        ),
        (["estimate", "--config", SMOKE, "--cores", "-4"], "argument --cores: -4 is not a whole number"),
        (["estimate", "--config", "/nowhere.yaml"], "error: /nowhere.yaml: cannot be read"),
        ([*TIMELINE, "--qps", "0"], "argument --qps: 0 is not a number above 0"),
        ([*TIMELINE, "--qps", "nan"], "argument --qps: nan is not a number above 0"),
        ([*TIMELINE, "--qps", "1e-9"], "which LoadGen cannot count in ns; give a higher rate"),
        ([*TIMELINE, "--qps", "1e12"], "more than the 20000000 that memory holds; give a lower rate"),
        ([*TIMELINE, "--seed", "-1"], "argument --seed: -1 is not a whole number from 0 to 4294967295"),
        ([*TIMELINE, "--seed", "4294967296"], "argument --seed: 4294967296 is not a whole number from 0"),
        ([*TIMELINE, "--limit", "0"], "argument --limit: 0 is not a whole number of 1 or more"),
        (
            [*TIMELINE, "--window", "2", "1"],
            "error: --window 2 1: give BEGIN and END in seconds, in this order",
        ),
        ([*TIMELINE, "--window", "nan", "1"], "error: --window nan 1: give BEGIN and END in seconds"),
        ([*TIMELINE, "--machine", "../../x"], "error: "),
        ([*TIMELINE, "--workload", "nix"], "error: the configuration has no 'nix'"),
        ([*TIMELINE, "--qps", "20", "--output", "/proc/x"], "error: "),
        (["golden", "--metrics", "/nowhere", "--output", "/tmp/x"], "/nowhere/"),
        (["claims", "--results", "/nowhere"], "/nowhere/"),
        (["compare", "/nowhere", "/nowhere"], "error: /nowhere does not exist"),
    ],
)
def test_what_no_run_can_have_is_refused_by_name(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(arguments, capsys)


def test_a_title_keeps_brackets_of_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "nets[v2]" / "a.yaml"
    config.parent.mkdir()
    config.write_text(Path(SMOKE).read_text())
    assert main(["estimate", "--config", str(config)]) == 0
    assert "[v2]" in "".join(capsys.readouterr().out.split())


def test_a_log_that_is_not_there_cannot_be_replayed() -> None:
    command = [sys.executable, "-m", "veltair.serving", "replay", "/nowhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: /nowhere is no log of a run: ")
