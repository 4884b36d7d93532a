"""docs/add-a-model.md: its commands lead from a file to a figure."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper

from tests.support.onnx_builders import make_onnx, node
from veltair.compiler.__main__ import main as compiler
from veltair.config.__main__ import main as config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "add-a-model.md").read_text()
CONSOLE = re.findall(r"^\$ (.*)$", PAGE, re.MULTILINE)
(CONFIGURATION,) = re.findall(r"^```yaml\n(models:.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
CHECK, FIXED, CONFIGURED, RUN = CONSOLE
# What a run on a busy test machine can do with less of.
SHORT = {
    "measured": {"minutes": 0.2, "seconds": 0.3, "queries": 10, "shares": [0.3, 0.6]},
    "simulated": {"queries": 100, "resolution": 0.2},
    "profile": {"repeats": 3, "levels": [0, 1.0]},
    "figures": {"formats": ["svg"]},
}


def downloaded() -> onnx.ModelProto:
    """Return a network as exporters write them: open sizes, and an input that decides what it is."""
    value = helper.make_tensor_value_info("made", TensorProto.FLOAT, None)
    branches = {
        f"{name}_branch": helper.make_graph([node(operator, ["c"], ["made"])], name, [], [value])
        for name, operator in {"then": "Relu", "else": "Sigmoid"}.items()
    }
    nodes = [
        node("Conv", ["input", "kernel"], ["c"], strides=[2, 2]),
        node("Equal", ["sr", "rate"], ["is"]),
        node("If", ["is"], ["chosen"], **branches),
        node("GlobalAveragePool", ["chosen"], ["mean"]),
        node("Flatten", ["mean"], ["y"]),
    ]
    kernel = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    return make_onnx(
        nodes,
        {"input": ("batch", 3, "height", "width"), "sr": ()},
        {"y": ("batch", 8)},
        {"kernel": kernel, "rate": np.array(16000)},
        types={"sr": TensorProto.INT64},
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    onnx.save(downloaded(), tmp_path / "mynet.onnx")
    (tmp_path / "mine.yaml").write_text(CONFIGURATION)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(command: str, module: str) -> list[str]:
    python, flag, named, *rest = shlex.split(command)
    assert (python, flag, named) == ("python", "-m", module)
    return rest


def test_the_first_command_names_the_option_that_the_second_one_gives(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compiler(arguments(CHECK, "veltair.compiler")) == 1
    assert "--shape input=1,3,HEIGHT,WIDTH" in capsys.readouterr().err


def test_the_second_command_reports_layers_and_minutes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compiler(arguments(FIXED, "veltair.compiler")) == 0
    printed = capsys.readouterr().out
    assert "note: input sr is the constant 16000" in printed
    assert "right: within" in printed and "minutes with `search.missing: own`" in printed


def test_the_configuration_of_the_page_is_one_and_says_what_the_second_command_was_told(
    folder: Path,
) -> None:
    assert config(arguments(CONFIGURED, "veltair.config")) == 0
    model = yaml.safe_load(CONFIGURATION)["models"]["mynet"]
    (shape,) = model["shapes"].items()
    (constant,) = model["constants"].items()
    told = arguments(FIXED, "veltair.compiler")
    assert f"{shape[0]}={','.join(map(str, shape[1]))}" in told
    assert f"{constant[0]}={constant[1]}" in told


@pytest.mark.long
def test_the_run_of_the_page_ends_with_a_summary_and_figures(folder: Path) -> None:
    assert RUN == "make CONFIG=mine.yaml"
    for name in ("Snakefile", "workflow", "veltair", "baselines", "models", "tests", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    (folder / "short.yaml").write_text(yaml.safe_dump(SHORT))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "all", "--configfile", "mine.yaml", "short.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "mynet" in (folder / "results" / "mine" / "summary.md").read_text()
    assert list((folder / "figures" / "mine").glob("*.svg"))
