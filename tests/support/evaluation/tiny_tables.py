"""Cost tables of the tiny network on this machine's cores, made up."""

import pandas as pd

from veltair.compiler.frontend.model import Layer
from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import COLUMNS as COST_COLUMNS
from veltair.machine.costs.table import CostTable
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.topology import Machine


def tiny_tables(model: LoadedModel, cores: tuple[int, ...]) -> Tables:
    """Return the tiny network's tables on some cores, made up."""
    rows = [
        ("tiny", layer, version, count, 0.0, 0, 1e-4 * (1 + version) / count, 1.0, 1.0)
        for layer in range(len(model.plan.layers))
        for version in range(len(model.plan.of(layer)))
        for count in range(1, len(cores) + 1)
    ]
    layers = tuple(Layer(layer.name, layer.structure, layer.macs) for layer in model.plan.layers)
    machine = Machine("toy", 1, (cores,), 2**19, 2**24, 1e11, 1e11, validated=True)
    return Tables(
        machine, {"tiny": layers}, {}, CostTable(pd.DataFrame(rows, columns=list(COST_COLUMNS)), "toy")
    )
