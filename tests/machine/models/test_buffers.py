from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from veltair.compiler.build.build import ModelPlan, read_plan
from veltair.machine.models.buffers import constant_sizes, network_buffers, query_spans
from veltair.machine.models.library import LoadedModel


@pytest.fixture
def plan(tiny_folder: Path) -> ModelPlan:
    return read_plan(tiny_folder)


def test_activations_lie_where_the_engine_has_them_and_inputs_behind(
    tiny_folder: Path, plan: ModelPlan
) -> None:
    instance = LoadedModel(tiny_folder).instance()
    spans, total = query_spans(plan)
    addresses = {
        ("layer", number, output): np.from_dlpack(tensor).ctypes.data
        for number, made in enumerate(instance._made)
        for output, tensor in enumerate(made)
    }
    first = min(addresses.values())
    assert {source: address - first for source, address in addresses.items()} == {
        source: offset for source, (offset, _) in spans.items() if source[0] == "layer"
    }
    inputs = [span for source, span in spans.items() if source[0] == "input"]
    assert inputs[-1][0] + inputs[-1][1] == total
    assert inputs[0][0] >= max(sum(span) for source, span in spans.items() if source[0] == "layer")


def test_a_layer_touches_its_inputs_its_results_and_its_constants_as_they_are_packed(
    tiny_folder: Path, plan: ModelPlan
) -> None:
    loaded, found = LoadedModel(tiny_folder), network_buffers(plan)
    spans, _ = query_spans(plan)
    for number, (layer, buffers) in enumerate(zip(plan.layers, found.layers, strict=True)):
        assert set(buffers.reads) == {spans[source] for source in layer.inputs if source[0] != "constant"}
        assert buffers.writes == (spans["layer", number, 0],)
        for version in range(len(plan.of(number))):
            held = loaded.constants(number, version).values()
            sizes = sorted(np.from_dlpack(tensor).nbytes for tensor in held)
            assert sorted(constant_sizes(plan, number, version)) == sizes
            assert buffers.constant_bytes[version] == sum(sizes)
    assert found.inputs == (spans["input", 0, 0],)


def test_a_plan_that_does_not_know_its_work_space_is_refused(plan: ModelPlan) -> None:
    old = {
        name: tuple(replace(one, work_space_bytes=None) for one in group)
        for name, group in plan.versions.items()
    }
    with pytest.raises(LookupError, match=r"does not say how much work space .* run rule `build`"):
        network_buffers(replace(plan, versions=old))


def test_of_constants_that_are_looked_up_no_more_is_touched_than_the_layer_touches_at_all(
    plan: ModelPlan,
) -> None:
    number = next(index for index, layer in enumerate(plan.layers) if layer.macs)
    structure, touched = plan.layers[number].structure, 16

    def bytes_with(macs: int) -> int:
        layers = [replace(one, macs=macs) if one.structure == structure else one for one in plan.layers]
        group = tuple(replace(one, compulsory_bytes=touched) for one in plan.versions[structure])
        changed = replace(plan, layers=tuple(layers), versions={**plan.versions, structure: group})
        return network_buffers(changed).layers[number].constant_bytes[0]

    assert bytes_with(macs=0) == touched < bytes_with(macs=10)
