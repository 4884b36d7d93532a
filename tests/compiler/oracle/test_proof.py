from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.support.imports import chain, normal, one, proof_of, with_opset
from tests.support.tiny import tiny
from veltair.compiler.frontend.fix import FixedModel, fix
from veltair.compiler.frontend.importer import import_model
from veltair.compiler.frontend.model_error import ModelError
from veltair.compiler.oracle import proof, unscheduled
from veltair.compiler.oracle.proof import TOLERANCE, prove
from veltair.compiler.oracle.unscheduled import run_unscheduled
from veltair.compiler.search.target import cpu_target

TARGET = cpu_target(1)


def wrong(model: onnx.ModelProto, reference: onnx.ModelProto) -> str:
    """Return what is said of a model whose right answers are those of another."""
    fixed = FixedModel(fix(model, "net").model, fix(reference, "net").model)
    with pytest.raises(ModelError) as caught:
        prove(import_model("net", fixed.model, 1.0), fixed, TARGET)
    return str(caught.value)


def test_a_network_is_right_within_the_tolerance_before_anything_is_searched() -> None:
    found = proof_of(tiny())
    assert found.error < 1e-5 and found.allowed == TOLERANCE and found.half_error is None


def test_a_network_that_is_wrong_is_refused() -> None:
    text = wrong(one("Sigmoid", (1, 3), (1, 3)), one("Relu", (1, 3), (1, 3)))
    assert text.startswith("net: the imported network is off by ")
    assert "(allowed: 0.0001), but no node alone" in text


def test_the_node_that_is_wrong_alone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(imported: Any, samples: Any, *rest: Any) -> list[NDArray[Any]]:
        kinds = "".join(layer.structure for layer in imported.model.layers)
        return [found + 1 if "exp" in kinds else found for found in run_unscheduled(imported, samples, *rest)]

    monkeypatch.setattr(proof, "run_unscheduled", off)
    model = chain(("Relu", "x", "h"), ("Exp", "h", "y", {"name": "grow"}), shape=(1, 3), made=(1, 3))
    with pytest.raises(ModelError, match=r": node grow \(Exp; inputs 1x3\) is off by .* alone; replace it"):
        proof_of(model)


@pytest.mark.parametrize(
    ("noise", "allowed"), [(0.0, 1e-4), (4e-5, 1e-4), (6e-5, 1.2e-4), (4e-4, 8e-4), (6e-4, 1e-3), (0.2, 1e-3)]
)
def test_the_tolerance_starts_from_onnx_runtimes_own_noise(
    noise: float, allowed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noisy(model: Any, name: Any, inputs: Any, samples: Any, level: str) -> list[NDArray[Any]]:
        return [np.array([1.0, 1.0 + noise if level == "ALL" else 1.0])]

    monkeypatch.setattr("veltair.compiler.oracle.oracle.answers", noisy)
    for off, passes in ((0.95 * allowed, True), (1.1 * allowed, False)):
        monkeypatch.setattr(proof, "run_unscheduled", lambda *given, off=off: [np.array([1.0, 1.0 + off])])
        if passes:
            found = proof_of(one("Relu", (1, 2), (1, 2)))
            assert found.noise == pytest.approx(noise)
            assert found.allowed == pytest.approx(allowed)
        else:
            with pytest.raises(ModelError, match="the imported network is off by"):
                proof_of(one("Relu", (1, 2), (1, 2)))


def test_equal_infinities_are_equal() -> None:
    model = chain(
        ("Where", "c x low", "y"),
        shape=(1, 3),
        made=(1, 3),
        constants={"c": np.array([[True, False, True]]), "low": np.float32(-np.inf)},
    )
    assert proof_of(model).error == 0.0


def test_values_that_onnx_runtime_cannot_take_are_told_with_what_to_say() -> None:
    # An index of 0 or 1 into a table of one row.
    model = chain(
        ("Gather", "t x", "y", {"axis": 0}),
        shape=(1, 4),
        made=(1, 4, 3),
        constants={"t": normal(1, 3)},
        types={"x": 7},
    )
    with pytest.raises(
        ModelError, match=r"net: ONNX Runtime cannot run the model on random inputs: .*range\.INPUT"
    ):
        proof_of(model)


def test_a_conversion_that_changes_the_answers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
        return with_opset(one("Softmax", (2, 3, 4), (2, 3, 4), opset=13, axis=1), version)

    monkeypatch.setattr("veltair.compiler.frontend.fix.version_converter.convert_version", convert)
    with pytest.raises(ModelError, match="the imported network is off by"):
        proof_of(one("Softmax", (2, 3, 4), (2, 3, 4), opset=11, axis=1))


def test_a_large_sum_is_computed_alike_with_loops_that_vectorise(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chain(
        ("Conv", "x k b", "c", {"pads": [1, 1, 1, 1]}),
        ("Relu", "c", "r"),
        ("Conv", "r d", "e", {"group": 32}),
        ("Flatten", "e", "f"),
        ("MatMul", "f m", "y"),
        shape=(1, 16, 9, 9),
        made=(1, 20),
        constants={
            "k": normal(32, 16, 3, 3),
            "b": normal(32),
            "d": normal(32, 1, 3, 3),
            "m": normal(32 * 49, 20),
        },
    )
    made: list[str] = []
    compile_plain = unscheduled._compile

    def watched(function: Any, macs: int, target: Any) -> Any:
        made.append("vectorised" if macs > unscheduled.MANY_MACS else "plain")
        return compile_plain(function, macs, target)

    monkeypatch.setattr(unscheduled, "_compile", watched)
    assert proof_of(model).error < 1e-5
    assert set(made) == {"plain"}
    monkeypatch.setattr(unscheduled, "MANY_MACS", 0)
    assert proof_of(model).error < 1e-5
    assert "vectorised" in made


def test_what_takes_long_is_told_and_what_is_short_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    imported = import_model("net", tiny(), 1.0)
    samples = tuple(np.zeros(one.shape, one.dtype) for one in imported.inputs)
    monkeypatch.setattr(unscheduled.time, "perf_counter", lambda: 0.0)
    run_unscheduled(imported, samples, TARGET, told.append)
    assert told == []
    clock: Sequence[float] = iter(range(0, 1000, 4))  # type: ignore[assignment]
    monkeypatch.setattr(unscheduled.time, "perf_counter", lambda: next(clock))  # type: ignore[call-overload]
    run_unscheduled(imported, samples, TARGET, told.append)
    assert told[0] == "compiling layer structure 1 of 6" and told[-1] == "running layer 6 of 6"
