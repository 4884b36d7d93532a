"""ONNX Runtime as the oracle: every version of every layer must give its network the right answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
from numpy.typing import NDArray

Run = Callable[[NDArray[np.float32], Sequence[int]], list[NDArray[np.float32]]]


class OracleError(ValueError):
    """A built model gives wrong answers; the message names the version."""


@dataclass(frozen=True, slots=True)
class Oracle:
    """A sample and what ONNX Runtime answers to it."""

    sample: NDArray[np.float32]
    answers: tuple[NDArray[np.float32], ...]


def ask(model: onnx.ModelProto, shape: Sequence[int], seed: int) -> Oracle:
    """Return ONNX Runtime's answer to a standard normal sample."""
    sample = np.random.default_rng(seed).standard_normal(tuple(shape), dtype=np.float32)
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    answers = session.run(None, {session.get_inputs()[0].name: sample})
    return Oracle(sample, tuple(answers))


def compare(
    oracle: Oracle, run: Run, version_counts: Sequence[int], layers: Sequence[str], tolerance: float
) -> pd.DataFrame:
    """Return the relative error of the network's answer, whole and with each version of each layer in turn.

    `run(sample, versions)` runs the built network. Rows: layer (-1: the whole network on version `version` of
    every layer that has it), name, version, relative_error. Raises OracleError for one above `tolerance`.
    """
    rows = []
    for number in range(max(version_counts)):
        versions = [min(number, count - 1) for count in version_counts]
        rows.append((-1, "whole network", number, _error(oracle, run(oracle.sample, versions))))
    for layer, count in enumerate(version_counts):
        for number in range(1, count):
            versions = [0] * len(version_counts)
            versions[layer] = number
            rows.append((layer, layers[layer], number, _error(oracle, run(oracle.sample, versions))))
    errors = pd.DataFrame(rows, columns=["layer", "name", "version", "relative_error"])
    bad = errors[~(errors["relative_error"] <= tolerance)]
    if not bad.empty:
        first = bad.iloc[0]
        raise OracleError(
            f"version {first['version']} of {first['name']} is off by {first['relative_error']:.2g} "
            "relative to ONNX "
            f"Runtime (allowed: {tolerance:g}); {len(bad)} of {len(errors)} runs are: search it anew"
        )
    return errors


def _error(oracle: Oracle, outputs: Sequence[NDArray[np.float32]]) -> float:
    worst = 0.0
    for output, right in zip(outputs, oracle.answers, strict=True):
        if not (np.isfinite(output).all() and np.isfinite(right).all()):
            return float("inf")
        worst = max(worst, float(np.abs(output.reshape(right.shape) - right).max() / np.abs(right).max()))
    return worst
