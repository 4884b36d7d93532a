import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_builders import make_onnx, node
from tiny import tiny

from veltair.compiler.onnx_passes import ModelError
from veltair.compiler.select import Selection
from veltair.compiler.steps import STORE_INFO, build_model, read_model, search_cores, write_model
from veltair.compiler.store import StoreError
from veltair.evaluation.script import logged

STORE = Path(__file__).parents[1] / "data" / "tiny"


def dynamic() -> bytes:
    return make_onnx([node("Relu", ["x"], ["y"])], {"x": ("N", 3)}, {"y": ("N", 3)}).SerializeToString()


def unsupported() -> bytes:
    return make_onnx([node("Det", ["x"], ["y"])], {"x": (1, 3, 3)}, {"y": (1,)}).SerializeToString()


def truncated() -> bytes:
    return tiny().SerializeToString()[:200]


def message_of(step: Callable[[], object], log: Path) -> str:
    """Return what a user sees of a step that fails in a script of the workflow."""
    with pytest.raises(SystemExit) as ended, logged(str(log)):
        step()
    return str(ended.value.code)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    shutil.copytree(STORE, folder)
    (folder / STORE_INFO).write_text(json.dumps({"cores": 64}))
    return folder


def test_a_model_of_a_builder_is_written_the_same_each_time(tmp_path: Path) -> None:
    for name in ("first.onnx", "second.onnx"):
        write_model("tiny", "tiny:tiny", None, tmp_path / name)
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()
    assert onnx.load(tmp_path / "first.onnx").graph.name == "tiny"


def test_a_model_of_a_file_is_written_as_it_is(tmp_path: Path) -> None:
    onnx.save(tiny(), tmp_path / "mine.onnx")
    write_model("mine", None, str(tmp_path / "mine.onnx"), tmp_path / "written.onnx")
    assert onnx.load(tmp_path / "written.onnx") == tiny()


def test_a_model_that_was_written_reads_as_layers_under_the_name_of_its_file(tmp_path: Path) -> None:
    write_model("small", "tiny:tiny", None, tmp_path / "small.onnx")
    model = read_model(tmp_path / "small.onnx").model
    assert (model.name, len(model.layers)) == ("small", 6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (truncated, "user.onnx is not a valid ONNX model (truncated?)"),
        (dynamic, "user.onnx: dimension 0 of x is N; export the model with fixed shapes (batch 1)"),
    ],
)
def test_a_file_that_cannot_be_served_is_one_clear_error(
    tmp_path: Path, content: Callable[[], bytes], message: str
) -> None:
    source, log = tmp_path / "user.onnx", tmp_path / "model.log"
    source.write_bytes(content())
    seen = message_of(lambda: write_model("user", None, str(source), tmp_path / "written.onnx"), log)
    first, trace, *more = seen.splitlines()
    assert first.startswith(f"error: {tmp_path}/{message}")
    assert trace == f"(the trace is in {log})"
    assert more == []
    assert "ModelError" in log.read_text()
    assert not (tmp_path / "written.onnx").exists()


def test_an_operator_without_kernels_is_one_clear_error_of_the_build(tmp_path: Path, store: Path) -> None:
    model, log = tmp_path / "user.onnx", tmp_path / "build.log"
    model.write_bytes(unsupported())
    seen = message_of(lambda: build_model(model, store, Selection(1.5, 5), tmp_path / "build"), log)
    assert seen.startswith("error: ")
    assert "operator Det of node y_node" in seen
    assert len(seen.splitlines()) == 2
    assert "Traceback" in log.read_text()


def test_an_onnx_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.onnx does not exist; check `models"):
        write_model("user", None, str(tmp_path / "nowhere.onnx"), tmp_path / "written.onnx")


def test_a_model_is_built_from_a_store(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model("tiny", "tiny:tiny", None, tmp_path / "tiny.onnx")
    (tmp_path / "build").mkdir()
    plan = build_model(tmp_path / "tiny.onnx", store, Selection(1.5, 5), tmp_path / "build")
    assert sorted(path.name for path in (tmp_path / "build").iterdir()) == [
        "constants.npz",
        "kernels.so",
        "plan.json",
    ]
    assert all(1 <= len(plan.of(layer)) <= 5 for layer in range(6))
    assert "tiny: 6 layers" in capsys.readouterr().out


def test_a_layer_that_was_not_searched_is_named_with_what_to_do(tmp_path: Path, store: Path) -> None:
    weight = np.ones((5, 7), dtype=np.float32)
    model = make_onnx([node("MatMul", ["x", "w"], ["y"])], {"x": (1, 5)}, {"y": (1, 7)}, {"w": weight})
    onnx.save(model, tmp_path / "new.onnx")
    with pytest.raises(StoreError, match=r"no candidates of layer structure matmul-.*`search\.reuse: false`"):
        build_model(tmp_path / "new.onnx", store, Selection(1.5, 5), tmp_path)


def test_a_store_remembers_the_cores_that_it_was_searched_for(store: Path) -> None:
    assert search_cores(store) == 64
