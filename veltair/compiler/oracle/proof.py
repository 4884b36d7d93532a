"""Prove an import before anything is searched: the unscheduled network beside ONNX Runtime."""

from dataclasses import dataclass
from typing import Any

from veltair.compiler.frontend.fix import FixedModel
from veltair.compiler.frontend.graph import node_name, opset
from veltair.compiler.frontend.importer import ImportedModel, import_model
from veltair.compiler.frontend.model_error import ModelError
from veltair.compiler.frontend.samples import read_inputs
from veltair.compiler.frontend.single_nodes import describe, single_nodes
from veltair.compiler.oracle.oracle import PLAIN, answers, ask, error
from veltair.compiler.oracle.unscheduled import Tell, run_unscheduled

TOLERANCE = 1e-4
SEED = 0


@dataclass(frozen=True, slots=True)
class Proof:
    """How far an import's answers are off ONNX Runtime's, what is allowed, and how far that is off itself.

    All are relative to the largest right value. `half_error` is how far float32 is off a model in float16.
    """

    error: float
    allowed: float
    noise: float
    half_error: float | None = None


def prove(
    imported: ImportedModel,
    fixed: FixedModel,
    target: Any,
    tolerance: float = TOLERANCE,
    tell: Tell | None = None,
) -> Proof:
    """Compare an imported network without schedules with ONNX Runtime on random inputs.

    Raises ModelError that names the node if it is further off than allowed, or if ONNX Runtime refuses it.
    """
    name = imported.model.name
    oracle = ask(fixed.reference, imported.inputs, SEED, name, fixed.model)
    allowed = oracle.allowed(tolerance)
    off = error(run_unscheduled(imported, oracle.samples, target, tell), oracle.answers)
    if not off <= allowed:
        raise ModelError(_what_is_wrong(fixed, name, off, allowed, target))
    half = None
    if fixed.half is not None:
        half = error(oracle.answers, answers(fixed.half, name, imported.inputs, oracle.samples, PLAIN))
    return Proof(off, allowed, oracle.noise, half)


def _what_is_wrong(fixed: FixedModel, name: str, off: float, allowed: float, target: Any) -> str:
    """Return the first node that is off when it is alone, in words; the network if none is."""
    text = f"{name}: the imported network is off by {off:.2g} relative to ONNX Runtime (allowed: {allowed:g})"
    if opset(fixed.model) != opset(fixed.reference):
        text = f"{text} after its operators were converted from opset {opset(fixed.reference)}"
    for node, alone in single_nodes(fixed.model):
        try:
            inputs = read_inputs(alone, name)
            imported = import_model("node", alone, 1.0)
            oracle = ask(alone, inputs, SEED)
            found = error(run_unscheduled(imported, oracle.samples, target), oracle.answers)
        except (ModelError, LookupError):
            continue  # such as one whose inputs are booleans, which no query gives
        if not found <= oracle.allowed(allowed):
            where = f"{node_name(node)} ({node.op_type}; {describe(node, fixed.model)})"
            return f"{text}: node {where} is off by {found:.2g} alone; replace it in the export"
    if opset(fixed.model) != opset(fixed.reference):
        return f"{text}; export it with opset {opset(fixed.model)} or newer"
    return f"{text}, but no node alone: please report the model, for a search cannot mend it"
