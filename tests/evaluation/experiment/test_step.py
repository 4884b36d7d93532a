import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.table_builders import make_config
from veltair.config import Config
from veltair.config.part import part_of
from veltair.config.section import UndeclaredKeyError
from veltair.evaluation.experiment.step import StepError, arguments, given, run_step

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "workflow" / "scripts" / "step.py"
VALUES = make_config().model_dump(mode="json")


class Named(list[Any]):
    """What Snakemake has of files, parameters and so on: a list, with names."""

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__([*values, *named.values()])
        self.__dict__ |= named

    def items(self) -> Any:
        return self.__dict__.items()

    def get(self, name: str, default: Any = None) -> Any:
        return self.__dict__.get(name, default)


class Job:
    """Snakemake's `snakemake` of a script."""

    def __init__(self, **parts: Any) -> None:
        self.rule, self.wildcards = "mine", parts.get("wildcards", {})
        self.log = Named(parts.get("log", "step.log"))
        self.params = parts.get("params", Named())
        self.input, self.output = parts.get("input", Named()), parts.get("output", Named())
        self.resources = parts.get("resources", Named())


@dataclass(frozen=True)
class Files:
    """Two paths."""

    tables: Path
    builds: Mapping[str, Path]
    described: Path | None = None


def some_step(
    config: Config, files: Files, runs: Sequence[Path], index: int, output: Path, notes: Path | None = None
) -> None:
    """Take all kinds of arguments."""


GIVEN = {
    "config": part_of(VALUES, [("qos",)]),
    "tables": "costs",
    "builds": {"net": "build/net"},
    "runs": ["a", "b"],
    "index": "3",
    "output": "out.csv",
}


def test_arguments_come_by_their_names_in_the_types_that_the_step_states() -> None:
    found = arguments(some_step, GIVEN | {"unused": 1}, "rule mine")
    config = found.pop("config")
    assert config.qos.relax == make_config().qos.relax
    assert found == {
        "files": Files(Path("costs"), {"net": Path("build/net")}),
        "runs": [Path("a"), Path("b")],
        "index": 3,
        "output": Path("out.csv"),
    }


def test_a_key_that_the_rule_does_not_declare_is_refused_with_the_rule() -> None:
    config = arguments(some_step, GIVEN, "rule mine")["config"]
    with pytest.raises(UndeclaredKeyError, match=r"^rule mine reads preset of the configuration"):
        config.preset  # noqa: B018


def test_all_that_the_rule_does_not_name_is_told_at_once() -> None:
    with pytest.raises(StepError, match="rule mine names no tables, index, which some_step needs; add it"):
        arguments(
            some_step, {name: GIVEN[name] for name in ("config", "builds", "runs", "output")}, "rule mine"
        )


def test_parameters_go_over_files_and_these_over_wildcards() -> None:
    job = Job(
        wildcards={"model": "net", "policy": "P"},
        input=Named(model="net.onnx", plan="plan.json"),
        output=Named("out.csv"),
        params=Named(plan="folder"),
    )
    assert given(job, Path("notes")) == {
        "notes": Path("notes"),
        "model": "net.onnx",
        "policy": "P",
        "plan": "folder",
        "input": ["net.onnx", "plan.json"],
        "output": "out.csv",
    }


STEPS = """
import os, resource, signal
from pathlib import Path
from veltair.evaluation.experiment.machine_lock import measuring_lock
from veltair.provenance import collect, write_json

def write(output: Path) -> None:
    write_json(output, 1, collect())

def fail() -> None:
    raise ValueError("no such layer")

def crash() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)

def hold(output: Path) -> None:
    output.write_text(str(measuring_lock().exists()))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_steps.py").write_text(STEPS)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path


def job_of(name: str, folder: Path, **resources: int) -> Job:
    params = Named(step=f"own_steps:{name}", config={}, code={"step": "c0de", "named": {}})
    output = Named(str(folder / "out.json"))
    return Job(params=params, output=output, resources=Named(**resources), log=str(folder / "step.log"))


def test_what_a_step_writes_notes_the_code_of_the_step(folder: Path) -> None:
    run_step(job_of("write", folder), folder / "notes")
    assert '"code": "c0de"' in (folder / "out.json.provenance.json").read_text()


@pytest.mark.parametrize("alone", [True, False])
def test_a_step_that_measures_holds_the_lock_of_the_machine(folder: Path, alone: bool) -> None:
    run_step(job_of("hold", folder, **({"cpu_lock": 1} if alone else {})), folder / "notes")
    assert (folder / "out.json").read_text() == str(alone)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fail", "error: no such layer\n(the trace is in "),
        (
            "crash",
            "error: the process crashed with SIGSEGV while no block ran on our workers\n(the trace is in ",
        ),
    ],
)
def test_a_step_that_fails_or_crashes_ends_in_one_clear_line(folder: Path, name: str, message: str) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.evaluation.experiment import test_step as t;"
        "exec(t.SCRIPT.read_text(), {'snakemake': t.job_of(sys.argv[1], Path(sys.argv[2]))})"
    )
    path = {"PYTHONPATH": f"{ROOT}:{folder}", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, name, str(folder)], env=path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(message)
