"""ONNX Runtime as the oracle: every version of every layer must give its network the right answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pandas as pd
from numpy.typing import NDArray

from veltair.compiler.frontend.folding import open_session
from veltair.compiler.frontend.model_error import ModelError
from veltair.compiler.frontend.samples import Input, Samples, random_samples, relative_error

# Levels of ONNX Runtime's optimisation: what a model says, and what is compared with it.
PLAIN, OPTIMISED = "DISABLE_ALL", ("BASIC", "ALL")
# How far ONNX Runtime is off itself when it computes the same in another order; a version may be as far off
# again in another direction.
NOISE_FACTOR = 2.0
# An answer that is further off is wrong, however noisy a model is.
LARGEST_TOLERANCE = 1e-3

Run = Callable[[Samples, Sequence[int]], list[NDArray[Any]]]


class OracleError(ValueError):
    """A built model gives wrong answers; the message names the version."""


@dataclass(frozen=True, slots=True)
class Oracle:
    """Samples of a model's inputs, what ONNX Runtime answers to them, and how far it is off itself.

    `noise` is the relative difference between its answers with and without its optimisations: what the order
    of sums, or rounding to whole steps in quantised models, makes of them.
    """

    samples: Samples
    answers: tuple[NDArray[Any], ...]
    noise: float = 0.0

    def allowed(self, tolerance: float) -> float:
        """Return the error that passes: the tolerance, or what the noise explains."""
        return max(tolerance, min(NOISE_FACTOR * self.noise, LARGEST_TOLERANCE))


def ask(
    model: onnx.ModelProto,
    inputs: Sequence[Input],
    seed: int,
    name: str = "the model",
    computed: onnx.ModelProto | None = None,
) -> Oracle:
    """Return ONNX Runtime's answer, without its optimisations, to random samples of a model's inputs.

    `computed` is the same model in the form that is imported, whose noise counts (None: it is the same).
    Raises ModelError if it refuses the model or cannot run it.
    """
    samples = random_samples(inputs, seed)
    right = answers(model, name, inputs, samples, PLAIN)
    same = computed is None or computed is model
    form = model if computed is None else computed
    plain = right if same else answers(form, name, inputs, samples, PLAIN)
    noise = max(error(answers(form, name, inputs, samples, level), plain) for level in OPTIMISED)
    return Oracle(samples, tuple(right), noise if np.isfinite(noise) else 0.0)


def answers(
    model: onnx.ModelProto, name: str, inputs: Sequence[Input], samples: Samples, level: str
) -> list[NDArray[Any]]:
    """Return what ONNX Runtime answers at a level of its optimisations. Raises ModelError."""
    session = open_session(model, name, level)
    wanted = {one.name: one.type for one in session.get_inputs()}
    given = {
        one.name: sample.astype(np.float16) if wanted[one.name] == "tensor(float16)" else sample
        for one, sample in zip(inputs, samples, strict=True)
        if one.name in wanted
    }
    try:
        return list(session.run(None, given))
    except Exception as problem:  # its classes have no common one of their own
        lines = str(problem).strip().splitlines() or [type(problem).__name__]
        raise ModelError(
            f"{name}: ONNX Runtime cannot run the model on random inputs: {lines[-1][:200]}. If an "
            "input takes "
            'other integers than 0 and 1, say so in its metadata: "range.INPUT" with the value "LOW HIGH"'
        ) from problem


def compare(
    oracle: Oracle, run: Run, version_counts: Mapping[str, int], layers: Sequence[str], tolerance: float
) -> pd.DataFrame:
    """Return the relative error of the network's answer, with each version of each structure in turn.

    `run(samples, versions)` runs the built network, whose layers are given by their structures; those of one
    structure change version together, for BERT-Large has 292 layers of 12. Rows: name (of a structure, or
    "whole network": version `version` of every layer that has it), version, relative_error. Raises
    OracleError for one above `tolerance`, or above what ONNX Runtime's own noise explains.
    """
    tolerance = oracle.allowed(tolerance)
    chosen = [
        ("whole network", number, [min(number, version_counts[layer] - 1) for layer in layers])
        for number in range(max(version_counts.values()))
    ]
    chosen += [
        (structure, number, [number if layer == structure else 0 for layer in layers])
        for structure, count in version_counts.items()
        for number in range(1, count)
    ]
    rows = [(*what, error(run(oracle.samples, versions), oracle.answers)) for *what, versions in chosen]
    errors = pd.DataFrame(rows, columns=["name", "version", "relative_error"])
    bad = errors[~(errors["relative_error"] <= tolerance)]
    if not bad.empty:
        first = bad.iloc[0]
        raise OracleError(
            f"version {first['version']} of {first['name']} is off by {first['relative_error']:.2g} "
            "relative to ONNX "
            f"Runtime (allowed: {tolerance:g}); {len(bad)} of {len(errors)} runs are: search it anew"
        )
    return errors


def error(found: Sequence[NDArray[Any]], right: Sequence[NDArray[Any]]) -> float:
    """Return the largest relative error of a model's outputs."""
    return max(
        relative_error(np.asarray(one), np.asarray(two)) for one, two in zip(found, right, strict=True)
    )
