from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.support.onnx_builders import make_onnx, node
from tests.support.service.hostile_models import plain
from veltair.compiler.frontend.model_error import ModelError
from veltair.service.keys.builder_keys import BoundsKeys, BuilderKeys
from veltair.service.models.build_steps import checked_model


def checked(model: onnx.ModelProto, output: Path, keys: BuilderKeys | None = None) -> list[str]:
    return checked_model(model.SerializeToString(), output, keys or BuilderKeys())


def test_a_model_that_is_fine_is_written_in_its_final_form(tmp_path: Path) -> None:
    assert checked(plain(), tmp_path / "model.onnx") == ["y"]
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"))


def test_a_model_whose_inputs_lead_into_memory_of_others_is_refused(tmp_path: Path) -> None:
    model = make_onnx(
        [node("ScatterND", ["k", "x", "u"], ["y"])],
        {"x": (8, 1)},
        {"y": None},
        {"k": np.zeros(16, np.float32), "u": np.ones(8, np.float32)},
        types={"x": TensorProto.INT64},
    )
    with pytest.raises(ModelError, match="reads or writes wherever the values of its inputs say"):
        checked(model, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_model_of_more_work_than_the_bounds_is_refused_before_it_is_compiled(tmp_path: Path) -> None:
    model = make_onnx(
        [node("MatMul", ["x", "k"], ["y"])],
        {"x": (1, 100)},
        {"y": None},
        {"k": np.zeros((100, 99), np.float32)},
    )
    with pytest.raises(ModelError, match=r"bounds\.gmacs"):
        checked(model, tmp_path / "model.onnx", BuilderKeys(bounds=BoundsKeys(gmacs=1e-6)))
