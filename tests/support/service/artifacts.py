"""What a model is served from, without a measured profile: times are made up, and versions 0 the fastest."""

import os
import shutil
from pathlib import Path

import numpy as np

from tests.support.builders import make_costs
from veltair.machine.costs.folder import Tables, write_tables
from veltair.machine.models.buffers import layers_of
from veltair.machine.models.library import LoadedModel
from veltair.machine.profile.profile import tiling_of
from veltair.machine.topology.topology import Machine
from veltair.provenance import collect

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]
LAYER_S = 1e-4


def machine(cores: tuple[int, ...] = CORES) -> Machine:
    return Machine("toy", 1, (cores,), 2**19, 2**24, 1e11, 1e11, validated=False)


def write_artifact(folder: Path, built: Path, name: str, here: Machine | None = None) -> Path:
    """Write the artifact of a model that was built as `name`, and return its folder."""
    here = here or machine()
    shutil.copytree(built, folder / "build")
    plan = LoadedModel(built, load=False).plan
    versions = [len(plan.of(layer)) for layer in range(len(plan.layers))]
    seconds = np.full((len(versions), max(versions), here.cores, 1), np.nan)
    for layer, count in enumerate(versions):
        seconds[layer, :count] = LAYER_S * np.arange(1, count + 1)[:, None, None]
    costs = make_costs({name: seconds}, tuple(range(1, here.cores + 1)), (0.0,), here.name)
    layers = range(len(plan.layers))
    tilings = {name: tuple(tuple(tiling_of(version) for version in plan.of(layer)) for layer in layers)}
    write_tables(folder / "tables", Tables(here, {name: layers_of(plan)}, tilings, costs), collect({}))
    return folder
