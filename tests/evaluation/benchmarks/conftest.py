"""The tiny network on the cores there are, for benchmarks of the engine."""

import os
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from veltair.compiler.frontend.model import Layer
from veltair.evaluation.experiment.scenario import Scenario, make_scenario
from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import Launch

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]


@pytest.fixture
def launch(c_build: Path) -> Launch:
    return partial(NativePool, build_dir=c_build)


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine("toy", 1, (CORES,), 2**19, 2**24, 1e11, 1e11, validated=True)


@pytest.fixture(scope="module")
def scenario(tiny_loaded: LoadedModel, machine: Machine) -> Scenario:
    """The tiny network on the cores there are, with a table made up."""
    rows = [
        ("tiny", layer, version, cores, 0.0, 0, 1e-4 * (1 + version) / cores, 1.0, 1.0)
        for layer in range(len(tiny_loaded.plan.layers))
        for version in range(len(tiny_loaded.plan.of(layer)))
        for cores in range(1, len(CORES) + 1)
    ]
    layers = tuple(Layer(layer.name, layer.structure, layer.macs) for layer in tiny_loaded.plan.layers)
    costs = CostTable(pd.DataFrame(rows, columns=list(COLUMNS)), "toy")
    return make_scenario(
        Tables(machine, {"tiny": layers}, {}, costs), {"tiny": 10.0}, 1.0, "mix", {"tiny": 1}
    )
