from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.onnx_builders import run_onnx
from tests.support.tiny import tiny
from veltair.compiler.frontend.samples import Input, Samples, random_samples
from veltair.compiler.oracle.oracle import Oracle, OracleError, ask, compare
from veltair.machine.models.library import LoadedModel

Array = NDArray[np.float32]
SAMPLES = (np.zeros((1,), np.float32),)
RIGHT = np.array([4.0, -2.0], np.float32)
COUNTS, LAYERS = {"stem": 1, "logits": 3}, ("stem", "logits")


def network(answers: dict[tuple[int, ...], Array]) -> Any:
    """Return a network that answers right, but for these versions of its layers."""

    def run(samples: Samples, versions: Sequence[int]) -> list[Array]:
        assert samples is SAMPLES
        return [answers.get(tuple(versions), RIGHT)]

    return run


def check(answers: dict[tuple[int, ...], Array], right: Array = RIGHT) -> Any:
    return compare(Oracle(SAMPLES, (right,)), network(answers), COUNTS, LAYERS, tolerance=1e-3)


def test_a_network_that_is_right_passes_with_its_errors() -> None:
    # The largest right value is 4: off by 0.002 is 5e-4.
    errors = check({(0, 2): RIGHT + np.array([0.0, 0.002], np.float32)})
    assert list(errors[["name", "version"]].itertuples(index=False, name=None)) == [
        ("whole network", 0),
        ("whole network", 1),
        ("whole network", 2),
        ("logits", 1),
        ("logits", 2),
    ]
    assert errors["relative_error"].tolist() == pytest.approx([0, 0, 5e-4, 0, 5e-4], abs=1e-6)


def test_a_version_that_is_off_is_named() -> None:
    # Version 2 of the second layer alone is off; so is the network on version 2.
    with pytest.raises(OracleError, match=r"version 2 of whole network is off by 0\.25 .*2 of 5 runs are"):
        check({(0, 2): RIGHT + 1})


def test_a_version_that_only_its_own_run_shows_is_named_with_its_structure() -> None:
    counts = {"stem": 2, "logits": 2}
    with pytest.raises(
        OracleError, match=r"version 1 of logits is off by 0\.5 relative to ONNX Runtime \(allowed: 0\.001\)"
    ):
        compare(Oracle(SAMPLES, (RIGHT,)), network({(0, 1): RIGHT + 2}), counts, LAYERS, tolerance=1e-3)


def test_layers_of_one_structure_change_version_together() -> None:
    asked = []

    def run(samples: Samples, versions: Sequence[int]) -> list[Array]:
        asked.append(tuple(versions))
        return [RIGHT]

    layers = ("stem", "block", "block", "logits", "block")
    compare(Oracle(SAMPLES, (RIGHT,)), run, {"stem": 1, "block": 3, "logits": 2}, layers, tolerance=1e-3)
    whole = [(0, 0, 0, 0, 0), (0, 1, 1, 1, 1), (0, 2, 2, 1, 2)]
    assert asked == [*whole, (0, 1, 1, 0, 1), (0, 2, 2, 0, 2), (0, 0, 0, 1, 0)]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_no_number_fails(value: float) -> None:
    with pytest.raises(OracleError, match="version 1 of whole network is off by inf"):
        check({(0, 1): np.array([4.0, value], np.float32)})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_right_answer_that_is_no_number_vouches_for_nothing(value: float) -> None:
    with pytest.raises(OracleError, match="5 of 5 runs are"):
        check({}, right=np.array([4.0, value], np.float32))


def test_each_of_several_outputs_counts() -> None:
    oracle = Oracle(SAMPLES, (RIGHT, RIGHT))
    with pytest.raises(OracleError, match=r"version 0 of whole network is off by 0\.25"):
        compare(oracle, lambda samples, versions: [RIGHT + 1, RIGHT], {"stem": 1}, ("stem",), tolerance=1e-3)


def test_another_number_of_outputs_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare(
            Oracle(SAMPLES, (RIGHT,)), lambda samples, versions: [], {"stem": 1}, ("stem",), tolerance=1e-3
        )


def test_an_answer_of_another_shape_but_equal_values_is_right() -> None:
    oracle = Oracle(SAMPLES, (RIGHT.reshape(1, 2),))
    errors = compare(oracle, lambda samples, versions: [RIGHT], {"stem": 1}, ("stem",), tolerance=1e-3)
    assert errors["relative_error"].tolist() == [0.0]


def test_onnx_runtime_is_asked_with_a_sample_of_the_seed() -> None:
    image = Input("input", (1, 3, 16, 16))
    oracle = ask(tiny(), [image], seed=5)
    assert np.array_equal(oracle.samples, random_samples([image], seed=5))
    assert np.allclose(oracle.answers[0], run_onnx(tiny(), *oracle.samples)[0], atol=1e-5)


def test_every_version_of_the_tiny_network_agrees_with_onnx_runtime(tiny_loaded: LoadedModel) -> None:
    instance = tiny_loaded.instance()

    def run(samples: Samples, versions: Sequence[int]) -> list[Array]:
        instance.set_inputs(samples)
        return instance.run(versions)

    plan = tiny_loaded.plan
    counts = {structure: len(versions) for structure, versions in plan.versions.items()}
    oracle = ask(tiny(), plan.inputs, seed=0)
    errors = compare(oracle, run, counts, [layer.structure for layer in plan.layers], tolerance=1e-4)
    assert len(errors) == max(counts.values()) + sum(counts.values()) - 6
