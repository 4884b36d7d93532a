import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support.onnx_builders import relative_error, run_onnx
from tests.support.tiny import tiny, tiny_words
from veltair.compiler.frontend.samples import random_samples, read_inputs
from veltair.compiler.oracle.onnx_session import OnnxSession, ProfiledSession

CORES = tuple(sorted(os.sched_getaffinity(0)))


@pytest.fixture(autouse=True)
def all_cores() -> Iterator[None]:
    """Give this thread its cores back: a session pins it."""
    yield
    os.sched_setaffinity(0, CORES)


@pytest.mark.parametrize("make", [tiny, tiny_words])
@pytest.mark.parametrize("cores", [CORES[:1], CORES[:2]], ids=len)
def test_a_session_answers_each_run_as_onnx_runtime_does(make, cores, tmp_path: Path) -> None:
    model = make()
    onnx.save(model, tmp_path / "model.onnx")
    samples = random_samples(read_inputs(model, "model"), [1])
    session = OnnxSession(tmp_path / "model.onnx", samples, cores)
    (wanted,) = run_onnx(model, *samples)
    for _ in range(2):
        assert session.run() > 0
        (found,) = session.outputs()
        assert relative_error(found, wanted) < 1e-5
        found[...] = np.nan


def test_the_calling_thread_is_pinned_to_the_first_core(tmp_path: Path) -> None:
    model = tiny()
    onnx.save(model, tmp_path / "model.onnx")
    OnnxSession(tmp_path / "model.onnx", random_samples(read_inputs(model, "model"), [1]), CORES[-1:])
    assert os.sched_getaffinity(0) == {CORES[-1]}


def test_a_profiled_session_notes_the_kernels_of_every_run(tmp_path: Path) -> None:
    model = tiny()
    onnx.save(model, tmp_path / "model.onnx")
    samples = random_samples(read_inputs(model, "model"), [1])
    session = ProfiledSession(tmp_path / "model.onnx", samples, CORES[:1], tmp_path / "profile")
    session.run()
    events = json.loads(session.end_profile().read_text())
    kernels = [event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")]
    assert kernels.count("Gemm") == 2  # in the run that made the outputs, and in this one
