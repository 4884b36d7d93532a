"""Activations placed by shape beside those placed by their lives."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np

from veltair.compiler.build.build import ModelPlan
from veltair.evaluation.benchmarks.arena import arena_figures, by_shape
from veltair.machine.models.activations import Life, place
from veltair.machine.models.buffers import lives_of
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.topology import Machine


def placed(plan: ModelPlan) -> Iterator[tuple[Life, int, object]]:
    """Yield of each activation its life, where it begins, and its shape and type."""
    offsets, _ = by_shape(plan)
    for ((number, output), life), offset in zip(lives_of(plan).items(), offsets, strict=True):
        layer = plan.layers[number]
        yield life, offset, (layer.outputs[output], layer.dtypes[output])


def overlap(one: tuple[Life, int, object], other: tuple[Life, int, object]) -> bool:
    ends = (one[1] + one[0].nbytes, other[1] + other[0].nbytes)
    return one[1] < ends[1] and other[1] < ends[0]


def test_by_shape_only_equal_shapes_share_bytes_and_none_that_live_at_once(tiny_loaded: LoadedModel) -> None:
    shared = [pair for pair in combinations(placed(tiny_loaded.plan), 2) if overlap(*pair)]
    for one, other in shared:
        assert one[1:] == other[1:]
        assert not one[0].meets(other[0])


def test_by_shape_takes_no_less_than_by_lives_and_no_more_than_without_sharing(
    tiny_loaded: LoadedModel,
) -> None:
    plan = tiny_loaded.plan
    lives = list(lives_of(plan).values())
    apart = [Life(0, len(plan.layers), life.nbytes) for life in lives]
    assert place(lives)[1] <= by_shape(plan)[1] <= place(apart)[1]


def test_where_activations_lie_changes_no_bit_of_the_outputs(tiny_loaded: LoadedModel) -> None:
    plan = tiny_loaded.plan
    versions = [0] * len(plan.layers)
    by_lives, by_shapes = tiny_loaded.filled_instance(), tiny_loaded.filled_instance(by_shape(plan))
    for one, other in zip(by_lives.run(versions), by_shapes.run(versions), strict=True):
        np.testing.assert_array_equal(one, other)


def test_each_count_of_cores_and_neighbour_has_a_ratio_of_each_model(
    tiny_loaded: LoadedModel, machine: Machine, c_build: Path
) -> None:
    solo = {"tiny": [0] * len(tiny_loaded.plan.layers)}
    figures = arena_figures({"tiny": tiny_loaded}, solo, machine, c_build, rounds=2)
    conditions = ["", "_cache"] if machine.cores > 1 else [""]
    counts = ["", "_all"] if machine.cores > 1 else [""]
    names = [f"arena_ratio{count}{beside}" for count in counts for beside in conditions]
    assert set(figures) == {"arena_memory", "arena_memory_tiny", *names, *(f"{name}_tiny" for name in names)}
    assert all(len(figures[f"{name}_tiny"].samples) == 2 and figures[name].value > 0 for name in names)
