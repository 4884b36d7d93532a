import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.support.onnx_builders import run_onnx
from tests.support.tiny import tiny
from veltair.compiler.frontend.samples import random_samples, read_inputs
from veltair.evaluation.runtimes import process as runtime_process
from veltair.evaluation.runtimes.process import (
    Field,
    ServedRuntimeError,
    check_answers,
    measure_runtime,
    write_field_samples,
)
from veltair.evaluation.runtimes.registry import Runtime

CORES = tuple(sorted(os.sched_getaffinity(0)))
DEFAULT = Runtime("onnxruntime default", "served_vs_ort_default", "onnxruntime")
SHARED = Runtime("onnxruntime shared pool", "served_vs_ort_pinned", "onnxruntime", {"shared_pool": True})


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    """Two samples of the tiny network, to be served for a quarter of a second on all cores."""
    folder, model = tmp_path_factory.mktemp("field"), tiny()
    onnx.save(model, folder / "tiny.onnx")
    values = [random_samples(read_inputs(model, "tiny"), [1, number]) for number in range(2)]
    write_field_samples(folder / "samples", [(v, (run_onnx(model, *v)[0],)) for v in values])
    return Field(
        {"tiny": folder / "tiny.onnx"},
        folder / "samples",
        ("tiny", "tiny"),
        {"tiny": 10.0},
        CORES,
        seconds=0.25,
        drain_s=10.0,
        tolerance=1e-4,
    )


@pytest.mark.parametrize("runtime", [DEFAULT, SHARED], ids=lambda runtime: runtime.name)
def test_a_runtime_serves_loadgen_in_a_process_of_its_own(
    field: Field, runtime: Runtime, tmp_path: Path
) -> None:
    outcome = measure_runtime(field, runtime, 100.0, 1, tmp_path)
    assert outcome.pooled == 1.0
    assert outcome.queries > 10


def test_a_runtime_that_fails_is_named_with_what_it_said(field: Field, tmp_path: Path) -> None:
    lost = replace(field, models={"tiny": tmp_path / "none.onnx"})
    with pytest.raises(
        ServedRuntimeError, match=r"onnxruntime default at 100 QPS ended with exit status 1: .*none"
    ):
        measure_runtime(lost, DEFAULT, 100.0, 1, tmp_path)


def test_a_runtime_that_hangs_is_ended(field: Field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: Any, timeout: float, **options: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(runtime_process.subprocess, "run", hang)
    with pytest.raises(ServedRuntimeError, match="did not end in 670 s"):
        measure_runtime(field, DEFAULT, 100.0, 1, tmp_path)


def test_a_runtime_ends_with_whoever_started_it(field: Field, tmp_path: Path) -> None:
    measure_runtime(field, DEFAULT, 100.0, 1, tmp_path)
    (tmp_path / runtime_process.OUTCOME_FILE).unlink()
    alive, held = os.pipe()
    order = str(tmp_path / runtime_process.ORDER_FILE)
    command = [sys.executable, "-m", runtime_process.MODULE, order, str(alive)]
    with subprocess.Popen(command, pass_fds=[alive]) as process:
        os.close(alive)
        os.close(held)
        assert process.wait(60) == 1
    assert not (tmp_path / runtime_process.OUTCOME_FILE).exists()


class Answering:
    """Gives two sessions' answers, the second off by a share."""

    def __init__(self, error: float) -> None:
        self.error = error

    def answers(self, sample: int) -> list[list[Any]]:
        right = np.array([1.0, 2.0])
        return [[right], [right * (1 + self.error)]]

    def submit(self, query: int, sample: int) -> None:
        raise AssertionError("not asked")

    def stop(self) -> None:
        raise AssertionError("not asked")


def test_the_answer_of_each_session_is_checked() -> None:
    right = [(np.array([1.0, 2.0]),)]
    check_answers(Answering(1e-6), right, 1e-4)
    with pytest.raises(ValueError, match=r"sample 0 is off by 0\.01 relative \(allowed: 0\.0001\)"):
        check_answers(Answering(0.01), right, 1e-4)


def test_an_answer_that_is_no_number_is_wrong() -> None:
    with pytest.raises(ValueError, match="off by inf"):
        check_answers(Answering(float("nan")), [(np.array([1.0, 2.0]),)], 1e-4)
