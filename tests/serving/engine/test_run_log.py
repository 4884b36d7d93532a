import json
import zipfile
from pathlib import Path

import pytest

from tests.support.builders import linear_context, make_machine
from veltair.serving.engine import run_log
from veltair.serving.engine.run_log import read_run_log, replay_run_log, write_run_log
from veltair.serving.policies.presets import PolicySource

SOURCE = PolicySource("baselines.layer_wise:LayerWise", "paper", {"order": "edf"})
CONTEXT = linear_context([0.001, 0.002], cores=(1, 2), machine=make_machine(2))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "run.log"
    write_run_log(path, SOURCE, CONTEXT, b"entries")
    return path


def test_a_log_reads_back_with_what_it_takes_to_decide_again(log: Path) -> None:
    source, context, entries = read_run_log(log)
    assert (source, entries, context.models) == (SOURCE, b"entries", CONTEXT.models)
    assert context.machine == CONTEXT.machine
    assert (context.costs.repeats == CONTEXT.costs.repeats).all(axis=None)


def test_a_replay_makes_the_same_policy_and_gives_it_the_log(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def first_difference(entries: bytes, policy: object, context: object, library: object) -> str:
        asked.append((entries, type(policy).__name__))
        return "another start"

    monkeypatch.setattr(run_log, "first_difference", first_difference)
    monkeypatch.setattr(run_log, "load", lambda folder: None)
    assert replay_run_log(log) == "another start"
    assert asked == [(b"entries", "LayerWise")]


@pytest.mark.parametrize("name", ["run.json", "costs.parquet", "machine.yaml", "log"])
def test_a_log_that_lacks_a_part_is_refused(log: Path, name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(log) as whole, zipfile.ZipFile(tmp_path / "less", "w") as less:
        for part in set(whole.namelist()) - {name}:
            less.writestr(part, whole.read(part))
    with pytest.raises(LookupError, match=r"less is no log of a run: .*; name a file that a live run wrote"):
        read_run_log(tmp_path / "less")


@pytest.mark.parametrize(
    "run",
    [
        [],
        {"models": {}},
        {"policy": "a:B", "preset": "paper", "options": {}, "models": {"net": {"layers": [], "qos_s": 1}}},
        {"policy": "a:B", "preset": "paper", "options": {}, "models": {"net": {"layers": [{}], "qos_s": 1}}},
    ],
)
def test_a_log_of_another_program_is_refused(log: Path, run: object, tmp_path: Path) -> None:
    with zipfile.ZipFile(log) as whole, zipfile.ZipFile(tmp_path / "other", "w") as other:
        for part in whole.namelist():
            other.writestr(part, json.dumps(run) if part == "run.json" else whole.read(part))
    with pytest.raises(LookupError, match=r"other is no log of a run"):
        read_run_log(tmp_path / "other")


def test_a_file_that_was_cut_off_is_refused(log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-30])
    with pytest.raises(LookupError, match="is no log of a run"):
        read_run_log(log)
