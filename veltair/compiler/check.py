"""What serving an ONNX file takes, told before anything long starts: its layers, work and search."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from veltair.compiler.frontend.fix import Choices, fix
from veltair.compiler.frontend.importer import ImportedModel, import_model
from veltair.compiler.frontend.opening import open_model
from veltair.compiler.frontend.samples import Input
from veltair.compiler.oracle.proof import TOLERANCE, Proof, prove
from veltair.compiler.oracle.unscheduled import Tell
from veltair.compiler.search.expected import ExpectedSearch, expected_search, few_s, total_s
from veltair.compiler.search.target import cpu_target
from veltair.compiler.select.shipped import ServedStores, serve
from veltair.compiler.select.store import FEW, read_info
from veltair.compiler.steps import ANY_QOS_S


@dataclass(frozen=True, slots=True)
class CheckedLayer:
    """A layer: its operators, multiply-accumulates, output shapes, and the first layer of its structure.

    `candidates` is how many of its structure ran in the search of the store that has them (0: none has).
    """

    operators: str
    macs: int
    outputs: tuple[tuple[int, ...], ...]
    first: int
    candidates: int


@dataclass(frozen=True, slots=True)
class Report:
    """A model that can be served, and the searches of the structures that have no candidate.

    `parameters` counts the numbers in its layers' constants, after folding; `notes` say what was decided on
    the way, `proof` how far its import is off ONNX Runtime.
    """

    inputs: tuple[Input, ...]
    layers: tuple[CheckedLayer, ...]
    parameters: int
    searches: tuple[ExpectedSearch, ...]
    notes: tuple[str, ...] = ()
    proof: Proof | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one query."""
        return sum(layer.macs for layer in self.layers)

    @property
    def structures(self) -> int:
        """How many layers differ from all before them."""
        return sum(layer.first == number for number, layer in enumerate(self.layers))

    @property
    def missing(self) -> int:
        """How many structures have no candidate."""
        return sum(layer.first == number and not layer.candidates for number, layer in enumerate(self.layers))

    def search_s(self, trials: int) -> float:
        """Return the estimated seconds of searching the structures that have no candidate."""
        return total_s(self.searches, trials)

    @property
    def own_s(self) -> float:
        """The estimated seconds of `search.missing: own`, which searches nothing."""
        return few_s(self.searches, FEW)

    def measured(self, trials: int) -> int:
        """Return how many candidates are measured where so many trials a structure are asked for."""
        return sum(one.candidates(trials) for one in self.searches)


def check(
    path: Path,
    stores: Sequence[Path],
    choices: Choices | None = None,
    tolerance: float = TOLERANCE,
    tell: Tell | None = None,
) -> Report:
    """Return what serving the model of a file takes, beside the candidates that the stores have.

    `choices` fix the shapes and values of inputs, `tell` is called with the progress of what takes longer
    than 3 seconds. Raises ModelError, on one line, if it cannot be served, and StoreError for a store that
    cannot be read.
    """
    for store in stores:
        read_info(store)  # one that cannot be read is told before any work
    name = str(path)
    model = open_model(path)
    fixed = fix(model, name, choices)
    imported = import_model(name, fixed.model, ANY_QOS_S)
    target = cpu_target(len(os.sched_getaffinity(0)))
    proof = prove(imported, fixed, target, tolerance, tell)
    report = _report(imported, serve(stores, imported.functions()), target)
    return replace(report, notes=fixed.notes, proof=proof)


def _report(imported: ImportedModel, served: ServedStores, target: Any) -> Report:
    ran = {
        structure: sum(bool(one.run_seconds) for one in group)
        for structure, group in served.candidates.items()
    }
    first: dict[str, int] = {}
    layers = []
    for number, (layer, call) in enumerate(zip(imported.model.layers, imported.calls, strict=True)):
        layers.append(
            CheckedLayer(
                operators=layer.structure.rsplit("-", 1)[0],
                macs=layer.macs,
                outputs=call.outputs,
                first=first.setdefault(layer.structure, number),
                candidates=ran.get(layer.structure, 0),
            )
        )
    constants = [one for call in imported.calls for one in call.inputs if isinstance(one, np.ndarray)]
    parameters = sum(array.size for array in constants if array.dtype.kind == "f")
    macs = {layer.structure: layer.macs for layer in imported.model.layers}
    functions = imported.functions()
    searches = [expected_search(functions[one], target, macs[one]) for one in served.missing]
    return Report(imported.inputs, tuple(layers), parameters, tuple(searches))
