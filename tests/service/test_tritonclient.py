"""NVIDIA's client against servers, each in an environment of its own and left out where that is not there."""

import os
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import from_array

from tests.support.tiny import tiny
from veltair.evaluation.runtimes.rival_environments import CLIENT, python_of
from veltair.evaluation.runtimes.started_server import StartedServer, null_server, rival
from veltair.wire.messages import ModelMetadata, TensorMetadata

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = Path(os.environ.get("VELTAIR_RIVALS", ROOT / ".rivals"))
CHECKS = ROOT / "tests" / "support" / "tritonclient_checks.py"
TINY = ModelMetadata(
    "tiny",
    ["1"],
    "",
    [TensorMetadata("input", "FP32", [1, 3, 16, 16])],
    [TensorMetadata("logits", "FP32", [1, 10])],
)


def server(name: str, folder: Path) -> AbstractContextManager[StartedServer]:
    if name == "null":
        return null_server([TINY], folder)
    if not python_of(ENVIRONMENTS / name).exists():
        pytest.skip(f"python -m veltair.evaluation rivals {name} installs it")
    model = tiny()
    for weight in model.graph.initializer:
        if weight.name.startswith("logits"):
            weight.CopyFrom(from_array(np.zeros(tuple(weight.dims), np.float32), weight.name))
    onnx.save(model, folder / "tiny.onnx")
    return rival(name, {"tiny": folder / "tiny.onnx"}, 1, ENVIRONMENTS, folder)


@pytest.mark.parametrize(
    ("name", "form", "clients"),
    [
        ("null", "binary", ["blocking", "asynchronous"]),
        ("null", "json", ["blocking", "asynchronous"]),
        # Its REST knows no binary tensors, and answers 422 to JSON that the asynchronous client sends.
        pytest.param("mlserver", "json", ["blocking"], marks=pytest.mark.long),
    ],
)
def test_the_client_is_served(name: str, form: str, clients: list[str], tmp_path: Path) -> None:
    python = python_of(ENVIRONMENTS / CLIENT)
    if not python.exists():
        pytest.skip("python -m veltair.evaluation rivals tritonclient installs it")
    with server(name, tmp_path) as started:
        command = [str(python), str(CHECKS), started.url.removeprefix("http://"), form, *clients]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout.split()) == (0, clients), done.stderr
