from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.support.imports import normal, proof_of
from tests.support.onnx_builders import make_onnx, node
from veltair.compiler.frontend import recurrent
from veltair.compiler.frontend.fix import fix
from veltair.compiler.frontend.importer import import_model
from veltair.compiler.frontend.model_error import ModelError
from veltair.compiler.frontend.recurrent import GATES, unroll

STEPS, BATCH, INPUTS, HIDDEN = 4, 2, 3, 5


def network(
    operator: str,
    *,
    bias: bool = True,
    states: str = "",
    peepholes: bool = False,
    outputs: tuple[str, ...] = ("y", "h", "c"),
    batch_first: bool = False,
    steps: int = STEPS,
    lengths: list[int] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a model of one recurrent node; `states` says where the first states come from."""
    count = 2 if attributes.get("direction") == "bidirectional" else 1
    wide = GATES[operator] * HIDDEN
    constants = {
        "w": normal(count, wide, INPUTS),
        "r": normal(count, wide, HIDDEN, seed=1) / 2,
        **({"b": normal(count, 2 * wide, seed=2)} if bias else {}),
        **({"p": normal(count, 3 * HIDDEN, seed=3)} if peepholes else {}),
        **({"lengths": np.array(lengths, np.int32)} if lengths else {}),
    }
    order = (BATCH, count, HIDDEN) if batch_first else (count, BATCH, HIDDEN)
    shapes = {"x": (BATCH, steps, INPUTS) if batch_first else (steps, BATCH, INPUTS)}
    names = ["h0", "c0"] if operator == "LSTM" else ["h0"]
    if states == "input":
        shapes.update(dict.fromkeys(names, order))
    elif states == "constant":
        constants.update({name: normal(*order, seed=5 + number) for number, name in enumerate(names)})
    inputs = ["x", "w", "r", "b" if bias else "", "lengths" if lengths else "", *(names if states else [])]
    if peepholes:
        inputs += [""] * (7 - len(inputs)) + ["p"]
    whole = (BATCH, steps, count, HIDDEN) if batch_first else (steps, count, BATCH, HIDDEN)
    made = {"y": whole, "h": order, "c": order}
    wanted = [name if name in outputs else "" for name in ("y", "h", "c")[: 3 if operator == "LSTM" else 2]]
    options = {**attributes, **({"layout": 1} if batch_first else {})}
    cell = node(operator, inputs, wanted, name="cell", hidden_size=HIDDEN, **options)
    return make_onnx([cell], shapes, {name: made[name] for name in wanted if name}, constants)


FORMS: list[tuple[str, dict[str, Any]]] = [
    ("LSTM", {}),
    ("LSTM", {"bias": False, "outputs": ("h",)}),
    ("LSTM", {"states": "input"}),
    ("LSTM", {"states": "constant", "outputs": ("y",)}),
    ("LSTM", {"direction": "reverse", "outputs": ("y", "c")}),
    ("LSTM", {"direction": "bidirectional", "states": "input"}),
    ("LSTM", {"peepholes": True}),
    ("LSTM", {"clip": 0.5}),
    ("LSTM", {"activations": ["Sigmoid", "Relu", "Tanh"]}),
    ("LSTM", {"input_forget": 1}),
    ("LSTM", {"steps": 1}),
    ("LSTM", {"lengths": [STEPS, STEPS]}),
    ("GRU", {}),
    ("GRU", {"bias": False, "outputs": ("h",)}),
    ("GRU", {"linear_before_reset": 1}),
    ("GRU", {"direction": "bidirectional", "states": "input"}),
    ("GRU", {"direction": "reverse", "linear_before_reset": 1, "states": "constant"}),
    ("GRU", {"clip": 0.5}),
    ("RNN", {}),
    ("RNN", {"direction": "bidirectional", "activations": ["Relu", "Tanh"]}),
]


@pytest.mark.parametrize(("operator", "form"), FORMS, ids=str)
def test_a_recurrent_node_is_right_step_by_step(operator: str, form: dict[str, Any]) -> None:
    assert proof_of(network(operator, **form)).error < 1e-5


def test_the_batch_may_come_first() -> None:
    # ONNX Runtime does not compute this layout, so it is compared with the other one.
    first, second = (unroll(network("LSTM", batch_first=one)) for one in (True, False))
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

    x = normal(STEPS, BATCH, INPUTS, seed=9)
    ours = ReferenceEvaluator(first).run(None, {"x": x.transpose(1, 0, 2)})
    right = ReferenceEvaluator(second).run(None, {"x": x})
    assert np.allclose(ours[0].transpose(1, 2, 0, 3), right[0], atol=1e-5)
    assert np.allclose(ours[1].transpose(1, 0, 2), right[1], atol=1e-5)


def test_all_steps_share_their_weights_and_their_structures() -> None:
    imported = import_model("net", network("LSTM", steps=6), 1.0)
    shared = [
        one for call in imported.calls for one in call.inputs if isinstance(one, np.ndarray) and one.ndim == 2
    ]
    recurrences = [one for one in shared if one.shape == (HIDDEN, 4 * HIDDEN)]
    # Before the first step the state is zero, so that its product is a constant.
    assert len(recurrences) == 5 and all(np.array_equal(one, recurrences[0]) for one in recurrences)
    assert len(imported.functions()) < len(imported.calls) / 2


def test_one_that_is_too_long_is_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "MOST_UNROLLED", STEPS * HIDDEN - 1)
    with pytest.raises(
        ModelError, match=r"net: node cell \(LSTM\) has 4 steps of 5 values, 20 together; up to 19"
    ):
        proof_of(network("LSTM"))


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ModelError, match=r"node cell \(LSTM\) takes sequence_lens"):
        proof_of(network("LSTM", lengths=[STEPS, STEPS - 1]))


def test_an_activation_that_is_not_known_is_named() -> None:
    model = network("RNN", activations=["ScaledTanh"], activation_alpha=[1.0], activation_beta=[1.0])
    with pytest.raises(ModelError, match=r"node cell \(RNN\) has the activation ScaledTanh; known are Relu"):
        proof_of(model)


def test_weights_that_are_computed_are_refused() -> None:
    nodes = [node("Relu", ["v"], ["w"]), node("RNN", ["x", "w", "r"], ["y"], name="cell", hidden_size=HIDDEN)]
    model = make_onnx(
        nodes,
        {"x": (STEPS, BATCH, INPUTS), "v": (1, HIDDEN, INPUTS)},
        {"y": (STEPS, 1, BATCH, HIDDEN)},
        {"r": normal(1, HIDDEN, HIDDEN)},
    )
    with pytest.raises(ModelError, match=r"node cell \(RNN\) has weights that are computed from the input"):
        proof_of(model)


def test_the_first_output_alone_may_lack() -> None:
    model = network("LSTM", outputs=("c",))
    assert [value.name for value in model.graph.output] == ["c"]
    assert fix(model, "net").model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert proof_of(model).error < 1e-5
