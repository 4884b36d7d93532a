"""Unroll LSTM, GRU and RNN of fixed length into products and activations, all steps with the same weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from veltair.compiler.frontend.graph import Rewriter, attributes, has, node_name, shapes
from veltair.compiler.frontend.model_error import ModelError

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
PLAIN = {"Sigmoid", "Tanh", "Relu", "Softsign", "Softplus"}
# Steps x directions x hidden size. Beyond it the layers are so many that importing takes minutes, and each is
# so short that its start takes longer than its work.
MOST_UNROLLED = 2**17


@dataclass(frozen=True, slots=True)
class _Cell:
    """One direction of a recurrent node: its weights, and how a step is computed."""

    operator: str
    hidden: int
    input_weight: str
    hidden_weight: str
    last_weight: str
    bias: str
    hidden_bias: str
    peepholes: tuple[str, ...]
    activations: tuple[str, ...]
    clip: float
    linear_before_reset: bool
    input_forget: bool


def unroll(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with each recurrent node as its steps.

    Raises ModelError for one that is too long, whose lengths differ from query to query, or whose activations
    are not known here.
    """
    if not has(model, *GATES):
        return model
    known = shapes(model)
    rewriter = Rewriter(model)
    for node in rewriter.model.graph.node:
        if node.op_type in GATES:
            _unroll(rewriter, node, known)
        else:
            rewriter.keep(node)
    return rewriter.result()


def _unroll(rewriter: Rewriter, node: onnx.NodeProto, known: dict[str, tuple[int, ...]]) -> None:
    where = f"node {node_name(node)} ({node.op_type})"
    if node.input[0] not in known:
        raise ModelError(f"{where} has an input of unknown shape; export the model with fixed shapes")
    given = attributes(node)
    inputs = [*node.input, *[""] * (8 - len(node.input))]
    batch_first = bool(given.get("layout", 0))
    extents = known[node.input[0]]
    batch, steps = (extents[0], extents[1]) if batch_first else (extents[1], extents[0])
    weight, recurrence = rewriter.values(inputs[1]), rewriter.values(inputs[2])
    if weight is None or recurrence is None:
        raise ModelError(
            f"{where} has weights that are computed from the input; export it with constant weights"
        )
    directions, hidden = weight.shape[0], recurrence.shape[2]
    _check(where, rewriter, inputs[4], steps, directions * hidden)
    source = inputs[0]
    near = next(name for name in node.output if name)
    if batch_first:
        source = rewriter.emit("Transpose", [source], near=near, perm=[1, 0, 2])
    outputs: list[list[str]] = []
    lasts: list[str] = []
    cells: list[str] = []
    kind = given.get("direction", "forward")
    for direction in range(directions):
        cell = _cell(rewriter, node, given, direction, where)
        start = [
            _initial(rewriter, inputs[place], direction, (batch, hidden), batch_first, near)
            for place in (5, 6)
        ]
        order = list(range(steps))
        if kind == "reverse" or direction == 1:
            order.reverse()
        made, last, memory = _run(rewriter, cell, source, order, (batch, extents[2]), start, near)
        outputs.append(made)
        lasts.append(last)
        cells.append(memory)
    _emit_outputs(rewriter, node, outputs, lasts, cells, (steps, batch, hidden), batch_first)


def _check(where: str, rewriter: Rewriter, lengths: str, steps: int, width: int) -> None:
    if lengths:
        values = rewriter.values(lengths)
        if values is None or (values != steps).any():
            raise ModelError(
                f"{where} takes sequence_lens, so that its length differs from query to query; export "
                "it without"
            )
    if steps * width > MOST_UNROLLED:
        raise ModelError(
            f"{where} has {steps} steps of {width} values, {steps * width} together; up to "
            f"{MOST_UNROLLED} are unrolled: give a shorter input (--shape), or split the model before it"
        )


def _cell(
    rewriter: Rewriter, node: onnx.NodeProto, given: dict[str, Any], direction: int, where: str
) -> _Cell:
    operator = node.op_type
    inputs = [*node.input, *[""] * (8 - len(node.input))]
    count = len(ACTIVATIONS[operator])
    chosen = list(given.get("activations") or [])[direction * count : (direction + 1) * count]
    texts = [one.decode() if isinstance(one, bytes) else str(one) for one in chosen] or ACTIVATIONS[operator]
    if unknown := [one for one in texts if one.capitalize() not in PLAIN]:
        raise ModelError(f"{where} has the activation {unknown[0]}; known are {', '.join(sorted(PLAIN))}")
    weight, recurrence = rewriter.values(inputs[1]), rewriter.values(inputs[2])
    assert weight is not None and recurrence is not None  # _unroll saw them
    hidden, wide = recurrence.shape[2], GATES[operator] * recurrence.shape[2]
    biases = rewriter.values(inputs[3]) if inputs[3] else np.zeros((direction + 1, 2 * wide), weight.dtype)
    if biases is None:
        raise ModelError(f"{where} has biases that are computed from the input; export it with constant ones")
    first, second = biases[direction, :wide], biases[direction, wide:]
    linear = bool(given.get("linear_before_reset", 0))
    if operator == "GRU" and linear:
        # The last gate's second bias is added before it is reset, with the hidden state's product.
        shift = np.concatenate([np.zeros(2 * hidden, second.dtype), second[2 * hidden :]])
        first = first + np.concatenate([second[: 2 * hidden], np.zeros(hidden, second.dtype)])
    else:
        first, shift = first + second, np.zeros(0, second.dtype)
    peepholes: tuple[str, ...] = ()
    if operator == "LSTM" and inputs[7]:
        values = rewriter.values(inputs[7])
        if values is None:
            raise ModelError(f"{where} has peepholes that are computed from the input; export it without")
        peepholes = tuple(
            rewriter.constant(values[direction, place * hidden : (place + 1) * hidden], node.output[0])
            for place in range(3)
        )
    near = f"{next(name for name in node.output if name)}.{direction}"
    # A GRU's last gate reads the state after it was reset, if that does not happen behind its product.
    apart = 2 * hidden if operator == "GRU" and not linear else wide
    kept, last = recurrence[direction, :apart], recurrence[direction, apart:]
    return _Cell(
        operator,
        hidden,
        rewriter.constant(weight[direction].T, near),
        rewriter.constant(kept.T, near),
        rewriter.constant(last.T, near) if last.size else "",
        rewriter.constant(first, near),
        rewriter.constant(shift, near) if shift.size else "",
        peepholes,
        tuple(one.capitalize() for one in texts),
        float(given.get("clip", 0.0)),
        linear,
        bool(given.get("input_forget", 0)),
    )


def _initial(
    rewriter: Rewriter, name: str, direction: int, shape: tuple[int, int], batch_first: bool, near: str
) -> str:
    """Return the state (batch, hidden) that a direction begins with; zeros where none is given."""
    if not name:
        return ""
    array = rewriter.values(name)
    axis = 1 if batch_first else 0
    if array is not None:
        array = np.take(array, direction, axis)
        return rewriter.constant(array, near) if array.any() else ""
    index = rewriter.constant(np.array(direction, np.int64), near)
    return rewriter.emit("Gather", [name, index], near=near, axis=axis)


def _run(
    rewriter: Rewriter,
    cell: _Cell,
    source: str,
    order: list[int],
    shape: tuple[int, int],
    start: list[str],
    near: str,
) -> tuple[list[str], str, str]:
    """Emit the steps of a direction; return its states by step, the last one, and the last cell state."""
    # The inputs of all steps are multiplied at once: (steps, batch, inputs) x (inputs, gates x hidden).
    product = rewriter.emit("MatMul", [source, cell.input_weight], near=near)
    product = rewriter.emit("Add", [product, cell.bias], near=near)
    batch = shape[0]
    state, memory = start
    if not state:
        state = rewriter.constant(np.zeros((batch, cell.hidden), np.float32), near)
    if not memory and cell.operator == "LSTM":
        memory = rewriter.constant(np.zeros((batch, cell.hidden), np.float32), near)
    step = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}[cell.operator]
    states = [""] * len(order)
    for place in order:
        index = rewriter.constant(np.array(place, np.int64), near)
        given = rewriter.emit("Gather", [product, index], near=near, axis=0) if len(order) > 1 else (
            rewriter.emit("Squeeze", [product, rewriter.constant(np.array([0], np.int64), near)], near=near)
        )  # fmt: skip
        state, memory = step(rewriter, cell, given, state, memory, near)
        states[place] = state
    return states, state, memory


def _lstm(rewriter: Rewriter, cell: _Cell, given: str, state: str, memory: str, near: str) -> tuple[str, str]:
    emit = _emitter(rewriter, near)
    outer, inner, final = cell.activations
    total = emit("Add", emit("MatMul", state, cell.hidden_weight), given)
    incoming, output, forget, fresh = _split(rewriter, cell, total, 4, near)
    if cell.peepholes:
        incoming = emit("Add", incoming, emit("Mul", memory, cell.peepholes[0]))
        forget = emit("Add", forget, emit("Mul", memory, cell.peepholes[2]))
    incoming = _activate(rewriter, cell, outer, incoming, near)
    if cell.input_forget:
        forget = emit("Sub", rewriter.constant(np.ones((), np.float32), near), incoming)
    else:
        forget = _activate(rewriter, cell, outer, forget, near)
    fresh = _activate(rewriter, cell, inner, fresh, near)
    memory = emit("Add", emit("Mul", forget, memory), emit("Mul", incoming, fresh))
    if cell.peepholes:
        output = emit("Add", output, emit("Mul", memory, cell.peepholes[1]))
    output = _activate(rewriter, cell, outer, output, near)
    return emit("Mul", output, emit(final, memory)), memory


def _gru(rewriter: Rewriter, cell: _Cell, given: str, state: str, memory: str, near: str) -> tuple[str, str]:
    emit = _emitter(rewriter, near)
    outer, inner = cell.activations
    update_in, reset_in, fresh_in = _split(rewriter, cell, given, 3, near)
    if cell.linear_before_reset:
        product = emit("Add", emit("MatMul", state, cell.hidden_weight), cell.hidden_bias)
        update, reset, fresh = _split(rewriter, cell, product, 3, near)
        reset = _activate(rewriter, cell, outer, emit("Add", reset, reset_in), near)
        fresh = emit("Add", emit("Mul", reset, fresh), fresh_in)
    else:
        update, reset = _split(rewriter, cell, emit("MatMul", state, cell.hidden_weight), 2, near)
        reset = _activate(rewriter, cell, outer, emit("Add", reset, reset_in), near)
        fresh = emit("Add", emit("MatMul", emit("Mul", reset, state), cell.last_weight), fresh_in)
    update = _activate(rewriter, cell, outer, emit("Add", update, update_in), near)
    fresh = _activate(rewriter, cell, inner, fresh, near)
    # (1 - z) h~ + z h
    return emit("Add", fresh, emit("Mul", update, emit("Sub", state, fresh))), memory


def _rnn(rewriter: Rewriter, cell: _Cell, given: str, state: str, memory: str, near: str) -> tuple[str, str]:
    emit = _emitter(rewriter, near)
    total = emit("Add", emit("MatMul", state, cell.hidden_weight), given)
    return _activate(rewriter, cell, cell.activations[0], total, near), memory


def _emitter(rewriter: Rewriter, near: str) -> Callable[..., str]:
    return lambda operator, *inputs: rewriter.emit(operator, inputs, near=near)


def _activate(rewriter: Rewriter, cell: _Cell, activation: str, value: str, near: str) -> str:
    if cell.clip:
        bounds = [rewriter.constant(np.array(bound, np.float32), near) for bound in (-cell.clip, cell.clip)]
        value = rewriter.emit("Clip", [value, *bounds], near=near)
    return rewriter.emit(activation, [value], near=near)


def _split(rewriter: Rewriter, cell: _Cell, value: str, count: int, near: str) -> list[str]:
    width = rewriter.constant(np.array([cell.hidden] * count, np.int64), near)
    return rewriter.emit_many("Split", [value, width], count, near, axis=-1)


def _emit_outputs(
    rewriter: Rewriter,
    node: onnx.NodeProto,
    outputs: list[list[str]],
    lasts: list[str],
    cells: list[str],
    shape: tuple[int, int, int],
    batch_first: bool,
) -> None:
    """Emit the outputs that the node has: all states, the last ones, and an LSTM's last cell states."""
    steps, batch, hidden = shape
    names = [*node.output, "", "", ""][:3]
    count = len(outputs)
    if names[0]:
        # Of each direction (steps x batch, hidden); together (steps, directions, batch, hidden).
        parts = []
        for made in outputs:
            joined = rewriter.emit("Concat", made, near=names[0], axis=0) if steps > 1 else made[0]
            size = np.array([steps, 1, batch, hidden], np.int64)
            parts.append(rewriter.emit("Reshape", [joined, rewriter.constant(size, names[0])], near=names[0]))
        whole = rewriter.emit("Concat", parts, near=names[0], axis=1) if count > 1 else parts[0]
        if batch_first:
            rewriter.emit("Transpose", [whole], names[0], perm=[2, 0, 1, 3])
        else:
            rewriter.emit("Identity", [whole], names[0])
    for name, ends in zip(names[1:], (lasts, cells), strict=True):
        if not name:
            continue
        size = np.array([1, batch, hidden], np.int64)
        made = [rewriter.emit("Reshape", [end, rewriter.constant(size, name)], near=name) for end in ends]
        whole = rewriter.emit("Concat", made, near=name, axis=0) if count > 1 else made[0]
        if batch_first:
            rewriter.emit("Transpose", [whole], name, perm=[1, 0, 2])
        else:
            rewriter.emit("Identity", [whole], name)
