from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veltair.evaluation.loadgen.logs import LoadGenError
from veltair.evaluation.runtimes import process as runtime_process
from veltair.evaluation.runtimes.process import (
    Field,
    Order,
    ServedRuntime,
    check_answers,
    write_field_samples,
)


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


def test_a_loadgen_that_fails_is_the_outcome_of_its_slot_once_all_queries_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = (np.array([1.0, 2.0]),)
    write_field_samples(tmp_path, [(right, right)])
    field = Field({}, tmp_path, ("net",), {"net": 1.0}, (0,), 0.1, 1, 1.0, 1e-4, "toy", True, "mix")
    monkeypatch.setattr(runtime_process.os, "sched_setaffinity", lambda *_: None)
    monkeypatch.setattr(runtime_process, "open_backend", lambda *_: Answering(0.0))
    runtime, settled = ServedRuntime(field, "x", "onnxruntime", {}), list[float]()

    def fail(*_: Any) -> None:
        raise LoadGenError("LoadGen hangs")

    monkeypatch.setattr(runtime_process, "serve_run", fail)
    monkeypatch.setattr(runtime._relay, "settle", settled.append)
    assert runtime.serve(Order(10.0, 1, str(tmp_path / "out"))) == {"failure": "LoadGen hangs"}
    assert settled == [runtime_process.SETTLE_S]
