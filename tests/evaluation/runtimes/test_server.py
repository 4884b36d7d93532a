"""Runtimes in processes of their own, which stay up from slot to slot."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from tests.support.onnx_builders import run_onnx
from tests.support.tiny import tiny
from veltair.compiler.frontend.samples import random_samples, read_inputs
from veltair.evaluation.loadgen.logs import LoadGenError
from veltair.evaluation.measurement.slots import Slot
from veltair.evaluation.measurement.write_run import QUERIES
from veltair.evaluation.metrics.records import read_records
from veltair.evaluation.runtimes import server as runtime_server
from veltair.evaluation.runtimes.process import Field, field_text, write_field_samples
from veltair.evaluation.runtimes.registry import Runtime
from veltair.evaluation.runtimes.server import MODULE, RuntimeServer, ServedRuntimeError

CORES = tuple(sorted(os.sched_getaffinity(0)))
DEFAULT = Runtime("onnxruntime default", ("served_vs_ort_default",), "onnxruntime")
SHARED = Runtime("onnxruntime shared pool", ("served_vs_ort_best",), "onnxruntime", {"shared_pool": True})


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
        queries=12,
        drain_s=10.0,
        tolerance=1e-4,
        machine="toy",
        validated=True,
        workload="mix",
    )


@pytest.mark.parametrize("runtime", [DEFAULT, SHARED], ids=lambda runtime: runtime.name)
def test_a_runtime_serves_slot_after_slot_in_one_process_of_its_own(
    field: Field, runtime: Runtime, tmp_path: Path
) -> None:
    slots = [Slot(number, 0.5, 100.0, seed) for number, seed in enumerate((5, 6, 5))]
    with RuntimeServer(field, runtime, tmp_path / "home") as server:
        assert server._process is not None
        served = [server.serve(slot, tmp_path / str(slot.round)) for slot in slots]
        assert server._process.poll() is None
    assert server._process.poll() is not None
    for slot, one in zip(slots, served, strict=True):
        assert set(one.records["ending"]) == {"served"}
        assert set(one.records["policy"]) == {runtime.name}
        assert set(one.records["seed"]) == {slot.seed}
        assert len(one.records) >= 12
        assert one.records.equals(read_records(tmp_path / str(slot.round) / QUERIES))
        assert 0.0 <= one.quality.use.others <= 1.0
    models = [one.records["model"].tolist() for one in served]
    assert models[0] == models[2]


def test_a_runtime_that_fails_is_named_with_what_it_said(field: Field, tmp_path: Path) -> None:
    lost = replace(field, models={"tiny": tmp_path / "none.onnx"})
    with (
        pytest.raises(ServedRuntimeError, match=r"onnxruntime default ended with exit status 1: .*none"),
        RuntimeServer(lost, DEFAULT, tmp_path),
    ):
        pass


def test_a_runtime_that_hangs_is_ended(field: Field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_server, "LOAD_TIMEOUT_S", 0.01)
    server = RuntimeServer(field, DEFAULT, tmp_path)
    with pytest.raises(ServedRuntimeError, match="onnxruntime default did not answer in 0 s"), server:
        pass
    assert server._process is not None
    assert server._process.poll() is not None


def test_a_runtime_whose_answers_are_wrong_serves_nothing(field: Field, tmp_path: Path) -> None:
    strict = replace(field, tolerance=0.0)
    with (
        pytest.raises(ServedRuntimeError, match=r"relative \(allowed: 0\); run rule `oracle`"),
        RuntimeServer(strict, DEFAULT, tmp_path),
    ):
        pass


def test_a_slot_in_which_loadgen_failed_is_a_loadgen_error_and_the_next_is_served(
    field: Field, tmp_path: Path
) -> None:
    with RuntimeServer(field, DEFAULT, tmp_path / "home") as server:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(server, "_outcome", lambda timeout_s: {"failure": "LoadGen hangs"})
            with pytest.raises(LoadGenError, match="LoadGen hangs"):
                server.serve(Slot(0, 0.5, 100.0, 5), tmp_path / "0")
        assert server._outcome(60.0)["quality"]["wrong_answers"] == 0  # of the slot that was served
        assert set(server.serve(Slot(1, 0.5, 100.0, 6), tmp_path / "1").records["seed"]) == {6}


def test_a_runtime_ends_with_whoever_started_it(field: Field, tmp_path: Path) -> None:
    path = tmp_path / "field.json"
    path.write_text(field_text(field, DEFAULT.name, DEFAULT.backend, {}))
    orders, given = os.pipe()
    outcomes, told = os.pipe()
    command = [sys.executable, "-m", MODULE, str(path), str(orders), str(told)]
    with subprocess.Popen(command, pass_fds=[orders, told]) as process:
        os.close(orders)
        os.close(given)
        assert process.wait(60) == 1
    os.close(outcomes)
    os.close(told)
