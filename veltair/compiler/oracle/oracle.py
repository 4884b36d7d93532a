"""ONNX Runtime as the oracle: every version of every layer must give its network the right answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnxruntime
import pandas as pd
from numpy.typing import NDArray

from veltair.compiler.frontend.samples import Input, Samples, random_samples, relative_error

Run = Callable[[Samples, Sequence[int]], list[NDArray[Any]]]


class OracleError(ValueError):
    """A built model gives wrong answers; the message names the version."""


@dataclass(frozen=True, slots=True)
class Oracle:
    """Samples of a model's inputs and what ONNX Runtime answers to them."""

    samples: Samples
    answers: tuple[NDArray[Any], ...]


def ask(model: onnx.ModelProto, inputs: Sequence[Input], seed: int) -> Oracle:
    """Return ONNX Runtime's answer to random samples of a model's inputs."""
    samples = random_samples(inputs, seed)
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    given = {value.name: sample for value, sample in zip(inputs, samples, strict=True)}
    return Oracle(samples, tuple(session.run(None, given)))


def compare(
    oracle: Oracle, run: Run, version_counts: Mapping[str, int], layers: Sequence[str], tolerance: float
) -> pd.DataFrame:
    """Return the relative error of the network's answer, with each version of each structure in turn.

    `run(samples, versions)` runs the built network, whose layers are given by their structures; those of one
    structure change version together, for BERT-Large has 292 layers of 12. Rows: name (of a structure, or
    "whole network": version `version` of every layer that has it), version, relative_error. Raises
    OracleError for one above `tolerance`.
    """
    chosen = [
        ("whole network", number, [min(number, version_counts[layer] - 1) for layer in layers])
        for number in range(max(version_counts.values()))
    ]
    chosen += [
        (structure, number, [number if layer == structure else 0 for layer in layers])
        for structure, count in version_counts.items()
        for number in range(1, count)
    ]
    rows = [(*what, _error(oracle, run(oracle.samples, versions))) for *what, versions in chosen]
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


def _error(oracle: Oracle, outputs: Sequence[NDArray[Any]]) -> float:
    return max(relative_error(*pair) for pair in zip(outputs, oracle.answers, strict=True))
