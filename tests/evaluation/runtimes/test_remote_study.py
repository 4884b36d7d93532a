"""The study of servers over HTTP. A network that answers zeros makes the null server a right one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pandas as pd
import pytest
from onnx.numpy_helper import from_array

from tests.support.tiny import tiny
from veltair.config import Config, load
from veltair.config.keys import ServedModel
from veltair.config.remote_keys import Remote, RemoteServer
from veltair.evaluation.measurement.rounds import Attempt, Rounds, Server
from veltair.evaluation.measurement.slots import Slot
from veltair.evaluation.remote.server_facts import RemoteError
from veltair.evaluation.runtimes import remote_study
from veltair.evaluation.runtimes.started_server import free_port, null_server
from veltair.wire.messages import ModelMetadata, TensorMetadata

ROOT = Path(__file__).parents[3]
TINY = ModelMetadata(
    "tiny",
    ["1"],
    "",
    [TensorMetadata("input", "FP32", [1, 3, 16, 16])],
    [TensorMetadata("logits", "FP32", [1, 10])],
)


def kept_always(rounds: Rounds, slot: Slot, servers: dict[str, Server], end_s: float) -> list[Attempt]:
    """Serve a slot once, and keep it."""
    tried = [rounds._attempt(name, server, slot, 0) for name, server in servers.items()]
    return [replace(one, kept=True) for one in tried]


def zeros() -> onnx.ModelProto:
    """Return the tiny network with a last layer of zeros."""
    model = tiny()
    for weight in model.graph.initializer:
        if weight.name.startswith("logits"):
            weight.CopyFrom(from_array(np.zeros(tuple(weight.dims), np.float32), weight.name))
    return model


@pytest.fixture
def config(tmp_path: Path) -> Config:
    onnx.save(zeros(), tmp_path / "tiny.onnx")
    default = load([ROOT / "workflow" / "config" / "config.yaml"])
    measured = {"shares": (0.01,), "minutes": 0.001, "seconds": 0.2, "queries": 20}
    changes = {
        "models": {"tiny": ServedModel(qos_ms=10_000, onnx="tiny.onnx")},
        "workloads": {"mix": {"tiny": 1}},
        "measured": default.measured.model_copy(update=measured),
    }
    return default.model_copy(update=changes)


def asked(config: Config, url: str, **keys: Any) -> Config:
    server = RemoteServer.model_validate({"url": url, **keys})
    return config.model_copy(update={"remote": Remote(servers={"theirs": server}, connections=2)})


@contextmanager
def served(model: ModelMetadata, folder: Path) -> Iterator[str]:
    with null_server([model], folder) as server:
        yield server.url


def measure(config: Config, tmp_path: Path) -> str:
    page = tmp_path / "page.md"
    models = {"tiny": str(tmp_path / "tiny.onnx")}
    remote_study.measure_remote(config, models, tmp_path / "slots.csv", tmp_path / "records.parquet", page)
    return page.read_text()


def test_loadgen_asks_a_server_and_the_null_server_the_same(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether the machine is quiet is not the question here.
    monkeypatch.setattr(Rounds, "_serve", kept_always)
    with served(TINY, tmp_path / "theirs") as url:
        page = measure(asked(config, url), tmp_path)

    records, slots = pd.read_parquet(tmp_path / "records.parquet"), pd.read_csv(tmp_path / "slots.csv")
    assert set(records["policy"]) == {"theirs", "null"}
    assert records["on_time"].all()
    assert records.groupby("policy").size().nunique() == 1
    assert (slots["client_cpu_s"] > 0).all() and (slots["misses"] == 0).all()
    assert "over loopback, not the Network division" in page
    assert "client's floor" in page


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"name": "other"}, "404: no such path or model; load the model, or give its name there"),
        ({"inputs": [TensorMetadata("input", "FP32", [1, 3, 8, 8])]}, "other inputs than tiny here"),
        ({"inputs": [TensorMetadata("input", "FP16", [1, 3, 16, 16])]}, "FP32 of shape"),
        ({"inputs": [TensorMetadata("x", "FP32", [1, 3, 16, 16])]}, "no tensor is called 'input'"),
        ({"outputs": [TensorMetadata("logits", "FP32", [1, 11])]}, "other outputs than tiny here"),
    ],
)
def test_another_model_is_refused_before_any_run(
    config: Config, tmp_path: Path, changed: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_study, "_opened", None)
    model = msgspec.structs.replace(TINY, **changed)
    with served(model, tmp_path / "theirs") as url, pytest.raises(RemoteError, match=told):
        measure(asked(config, url), tmp_path)


def test_a_server_that_is_not_there_is_refused_before_any_work(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_study, "_asked", None)
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RemoteError, match=f"no server answers at {url}/v2/health/ready"):
        measure(asked(config, url), tmp_path)


def test_a_token_that_is_not_there_is_told(config: Config, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="NO_SUCH_TOKEN holds no token"):
        measure(asked(config, "http://127.0.0.1:1", token_variable="NO_SUCH_TOKEN"), tmp_path)


def test_a_model_has_another_name_there(config: Config, tmp_path: Path) -> None:
    with served(msgspec.structs.replace(TINY, name="small"), tmp_path / "theirs") as url:
        models = {"tiny": str(tmp_path / "tiny.onnx")}
        assert remote_study._checked(asked(config, url, names={"tiny": "small"}), models).workload == "mix"
