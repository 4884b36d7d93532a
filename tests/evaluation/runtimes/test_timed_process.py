import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.support.tiny import tiny
from veltair.compiler.frontend.samples import random_samples, relative_error
from veltair.evaluation.runtimes.timed_process import (
    ONNX_RUNTIME,
    OPENVINO,
    OURS,
    PROFILED,
    TimedProcess,
    TimedProcessError,
    read_samples,
    write_samples,
)

CORES = tuple(sorted(os.sched_getaffinity(0)))


@pytest.fixture(scope="module")
def samples(tiny_loaded: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("samples") / "samples.npz"
    write_samples(path, random_samples(tiny_loaded.plan.inputs, seed=3))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    onnx.save(tiny(), path)
    return path


@pytest.fixture(scope="module")
def ours(tiny_folder: Path, samples: Path) -> Iterator[TimedProcess]:
    with TimedProcess(OURS, tiny_folder, samples, CORES) as process:
        yield process


@pytest.fixture(scope="module")
def theirs(model: Path, samples: Path) -> Iterator[TimedProcess]:
    with TimedProcess(ONNX_RUNTIME, model, samples, CORES) as process:
        yield process


@pytest.fixture
def theirs_on_one(model: Path, samples: Path) -> Iterator[TimedProcess]:
    with TimedProcess(ONNX_RUNTIME, model, samples, CORES[:1]) as process:
        yield process


@pytest.fixture(scope="module")
def openvino(model: Path, samples: Path) -> Iterator[TimedProcess]:
    # find_spec and not importorskip: importing it in the ordinary way would report that over the network.
    if find_spec("openvino") is None:
        pytest.skip("the optional openvino is missing")
    with TimedProcess(OPENVINO, model, samples, CORES) as process:
        yield process


def test_both_answer_alike_to_the_same_samples(ours: TimedProcess, theirs: TimedProcess) -> None:
    (mine,), (right,) = ours.outputs(), theirs.outputs()
    assert relative_error(mine, right) < 1e-5


def test_openvino_answers_alike_too(openvino: TimedProcess, theirs: TimedProcess) -> None:
    assert relative_error(openvino.outputs()[0], theirs.outputs()[0]) < 1e-5
    assert min(openvino.time(3)) > 0


def test_openvino_keeps_to_the_cores_that_it_is_given(
    model: Path, samples: Path, openvino: TimedProcess
) -> None:
    assert os.sched_getaffinity(openvino.pid) == set(CORES)
    with TimedProcess(OPENVINO, model, samples, CORES[-1:]) as process:
        process.time(3)
        assert os.sched_getaffinity(process.pid) == set(CORES[-1:])


def test_each_run_is_timed(ours: TimedProcess, theirs: TimedProcess) -> None:
    for process in (ours, theirs):
        seconds = process.time(3)
        assert len(seconds) == 3
        assert min(seconds) > 0


def test_ours_chooses_a_version_that_each_layer_has(ours: TimedProcess, tiny_loaded: Any) -> None:
    versions = ours.choose(0.05)
    assert len(versions) == len(tiny_loaded.plan.layers)
    for layer, version in enumerate(versions):
        assert 0 <= version < len(tiny_loaded.plan.of(layer))


def test_the_answer_is_right_with_the_versions_it_chose(ours: TimedProcess, theirs: TimedProcess) -> None:
    ours.choose(0.0)
    assert relative_error(ours.outputs()[0], theirs.outputs()[0]) < 1e-5


def test_ours_times_each_layer_of_each_run(ours: TimedProcess, tiny_loaded: Any) -> None:
    runs = ours.layers(3)
    assert [len(run) for run in runs] == [len(tiny_loaded.plan.layers)] * 3
    assert min(min(run) for run in runs) > 0


def test_a_profile_has_every_run_since_the_start_and_lies_beside_the_samples(
    model: Path, samples: Path
) -> None:
    with TimedProcess(PROFILED, model, samples, CORES[:1]) as process:
        process.time(2)
        events = process.profile()
    # The first one made the outputs.
    assert [event["name"] for event in events].count("model_run") == 1 + 2
    assert list(samples.parent.glob("profile*"))


def test_onnx_runtime_has_no_profile_unless_it_is_asked_from_the_start(theirs_on_one: TimedProcess) -> None:
    with pytest.raises(TimedProcessError, match="onnxruntime cannot do profile"):
        theirs_on_one.profile()


def test_onnx_runtime_keeps_to_its_cores_one_thread_each(theirs: TimedProcess) -> None:
    tasks = Path(f"/proc/{theirs.pid}/task").iterdir()
    pinned = {
        next(iter(allowed))
        for task in tasks
        if len(allowed := os.sched_getaffinity(int(task.name))) == 1 < len(CORES)
    }
    assert pinned == (set(CORES) if len(CORES) > 1 else set())


def test_it_ends_with_the_context(model: Path, samples: Path) -> None:
    with TimedProcess(ONNX_RUNTIME, model, samples, CORES[:1]) as process:
        pid = process.pid
    assert not Path(f"/proc/{pid}").exists()


def test_a_process_that_fails_says_why(tmp_path: Path, samples: Path) -> None:
    with (
        pytest.raises(TimedProcessError, match=r"ended with exit status 1: .*none\.onnx"),
        TimedProcess(ONNX_RUNTIME, tmp_path / "none.onnx", samples, CORES),
    ):
        pass


def test_onnx_runtime_has_no_versions_to_choose_from(theirs_on_one: TimedProcess) -> None:
    with pytest.raises(TimedProcessError, match="onnxruntime cannot do choose"):
        theirs_on_one.choose(0.1)


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="timed process of torch on cores"):
        TimedProcess("torch", tmp_path, tmp_path, [0])


def test_samples_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = (np.arange(3, dtype=np.int64), np.ones((2, 2), np.float32))
    write_samples(tmp_path / "s.npz", written)
    for before, after in zip(written, read_samples(tmp_path / "s.npz"), strict=True):
        assert before.dtype == after.dtype
        assert np.array_equal(before, after)
