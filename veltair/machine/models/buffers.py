"""The memory that the layers of a built model touch, laid out as the engine does. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from veltair.compiler.build.build import ModelPlan
from veltair.compiler.footprint.residency import (
    LayerBuffers,
    NetworkBuffers,
    Span,
    sampled,
    version_reuse,
)
from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.frontend.model import Layer
from veltair.machine.models.activations import Life, place


def layers_of(plan: ModelPlan) -> tuple[Layer, ...]:
    """Return the layers of a built model, with the bytes of their constants."""
    return tuple(
        Layer(
            *(layer.name, layer.structure, layer.macs),
            sum(plan.constants[number].nbytes for kind, number, _ in layer.inputs if kind == "constant"),
        )
        for layer in plan.layers
    )


def lives_of(plan: ModelPlan) -> dict[tuple[int, int], Life]:
    """Return how long each output of each layer is needed, by layer and output."""
    last_use = {number: len(plan.layers) for kind, number, _ in plan.outputs if kind == "layer"}
    for reader, layer in enumerate(plan.layers):
        for kind, number, _ in layer.inputs:
            if kind == "layer":
                last_use[number] = max(reader, last_use.get(number, reader))
    return {
        (number, output): Life(number, last_use.get(number, number), _nbytes(shape, dtype))
        for number, layer in enumerate(plan.layers)
        for output, (shape, dtype) in enumerate(zip(layer.outputs, layer.dtypes, strict=True))
    }


def query_spans(plan: ModelPlan) -> tuple[dict[tuple[str, int, int], Span], int]:
    """Return where inputs and activations lie in a query's memory, by their source, and its bytes.

    The activations come first, as `activations.place` lays them out, then each input on pages of its own.
    """
    lives = lives_of(plan)
    offsets, end = place(list(lives.values()))
    spans = {
        ("layer", number, output): (offset, life.nbytes)
        for ((number, output), life), offset in zip(lives.items(), offsets, strict=True)
    }
    for number, value in enumerate(plan.inputs):
        size = _nbytes(value.shape, value.dtype)
        spans["input", number, 0] = (end, size)
        end += size
    return spans, end


def network_buffers(plan: ModelPlan) -> NetworkBuffers:
    """Return the memory that each layer of a model touches, in each of its versions.

    Raises LookupError for a plan of an earlier program, which does not say how much work space kernels take.
    """
    spans, _ = query_spans(plan)
    layers = []
    for number, layer in enumerate(plan.layers):
        reads = dict.fromkeys(spans[source] for source in layer.inputs if source[0] != "constant")
        writes = tuple(spans["layer", number, output] for output in range(len(layer.outputs)))
        versions = range(len(plan.of(number)))
        layers.append(
            LayerBuffers(
                tuple(reads),
                writes,
                tuple(_constant_bytes(plan, number, version) for version in versions),
                tuple(_work_space(plan, number, version) for version in versions),
            )
        )
    inputs = tuple(spans["input", number, 0] for number in range(len(plan.inputs)))
    return NetworkBuffers(inputs, tuple(layers))


def resident(
    tilings: Sequence[Sequence[Tiling]], plan: ModelPlan, versions: Sequence[int]
) -> tuple[tuple[Tiling, ...], ...]:
    """Return the tilings of a model's layers with what each version finds while all others run in these.

    Raises LookupError as `network_buffers` does.
    """
    found = version_reuse(network_buffers(plan), versions)
    return tuple(
        tuple(replace(tiling, residency=sampled(reuse)) for tiling, reuse in zip(layer, reuses, strict=True))
        for layer, reuses in zip(tilings, found, strict=True)
    )


def constant_sizes(plan: ModelPlan, layer: int, version: int) -> Sequence[int]:
    """Return the bytes of each constant that a version of a layer reads, as it wants them packed."""
    chosen = plan.of(layer)[version]
    packed = dict(zip(chosen.packed, chosen.packed_shapes, strict=True))
    return [
        _nbytes(packed.get(index, plan.constants[number].shape), plan.constants[number].dtype)
        for index, (kind, number, _) in enumerate(plan.layers[layer].inputs)
        if kind == "constant"
    ]


def _constant_bytes(plan: ModelPlan, layer: int, version: int) -> int:
    size = sum(constant_sizes(plan, layer, version))
    # A layer that looks rows up touches few of a table's; any other one with weights multiplies.
    touched = plan.of(layer)[version].compulsory_bytes
    return size if plan.layers[layer].macs else min(size, touched)


def _work_space(plan: ModelPlan, layer: int, version: int) -> int:
    size = plan.of(layer)[version].work_space_bytes
    if size is None:
        raise LookupError(
            f"the plan of {plan.model} does not say how much work space its kernels take, for an earlier "
            "program built it; delete it and run rule `build`"
        )
    return size


def _nbytes(shape: Sequence[int], dtype: str) -> int:
    return prod(shape) * np.dtype(dtype).itemsize
