"""What a model is served from: a folder with `build/` and `tables/`, of one model, made on this machine."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from veltair.compiler.build.build import ModelPlan
from veltair.compiler.frontend.model import Model
from veltair.compiler.frontend.samples import Samples, random_samples
from veltair.machine.costs.folder import read_tables
from veltair.machine.costs.table import CostTable
from veltair.machine.models.buffers import layers_of
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.pool import on_cores
from veltair.service.engine.link import EngineRefusalError, Tensor

BUILD, TABLES = "build", "tables"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model in memory, with its costs on this machine."""

    loaded: LoadedModel
    costs: CostTable
    machine: Machine

    def model(self, key: str, qos_s: float) -> Model:
        """Return it as policies see it. Raises EngineRefusalError for a target that is no time above 0."""
        try:
            return Model(key, layers_of(self.loaded.plan), qos_s)
        except ValueError as error:
            raise EngineRefusalError(str(error)) from None

    @property
    def alone_s(self) -> float:
        """The profiled time of a request alone, on the cores that suit it best."""
        (name,) = self.costs.models
        return self.costs.isolated_latency_s(name)

    @property
    def core_s(self) -> float:
        """The least core-seconds of a request."""
        (name,) = self.costs.models
        return float((self.costs.solo_seconds(name).sum(axis=0) * np.array(self.costs.cores)).min())

    @property
    def samples(self) -> Samples:
        """Random inputs."""
        return random_samples(self.loaded.plan.inputs, seed=0)


def read_artifact(folder: Path, cores: Sequence[int]) -> Artifact:
    """Load a model, on one core of those that may be used, and read its tables.

    Raises EngineRefusalError if the folder holds none, or none of this machine.
    """
    try:
        tables = read_tables(folder / TABLES)
        with on_cores((cores[-1],)):
            loaded = LoadedModel(folder / BUILD)
    except Exception as error:  # whatever is wrong with a folder, the engine goes on
        hidden = str(error).replace(f"{folder}{os.sep}", "").replace(str(folder), "the model's folder")
        raise EngineRefusalError(f"the model cannot be loaded: {hidden}") from error
    machine, plan = tables.machine, loaded.plan
    if len(tables.layers) != 1:
        raise EngineRefusalError(f"the tables are of {len(tables.layers)} models; give those of one")
    (layers,) = tables.layers.values()
    if [one.structure for one in layers] != [one.structure for one in plan.layers]:
        raise EngineRefusalError("the tables are of another model than the kernels; profile it anew")
    if not set(machine.core_ids) <= set(cores):
        raise EngineRefusalError(
            f"the model was profiled on cores {machine.core_ids}, the engine may use {tuple(cores)}; profile "
            "it here"
        )
    return Artifact(loaded, tables.costs, machine)


def tensors(plan: ModelPlan) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the inputs and outputs of a built model; its plan knows no names of outputs."""
    inputs = tuple(Tensor(value.name, value.dtype, tuple(value.shape)) for value in plan.inputs)
    outputs = []
    for place, (kind, number, output) in enumerate(plan.outputs):
        if kind == "input":
            shape, dtype = inputs[number].shape, inputs[number].dtype
        else:
            layer = plan.layers[number]
            shape, dtype = layer.outputs[output], layer.dtypes[output]
        outputs.append(Tensor(f"output_{place}", dtype, tuple(shape)))
    return inputs, tuple(outputs)
