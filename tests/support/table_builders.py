"""Cost tables of two made-up models, in memory or as a folder, and a configuration that simulates them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.support.builders import make_machine
from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.frontend.model import Layer
from veltair.config import Config, parse
from veltair.machine.costs.folder import Tables, write_tables
from veltair.machine.costs.table import CostTable
from veltair.provenance import collect

# Core-seconds of each layer: 3 ms and 12 ms of work a query.
WORK = {"small": (0.001, 0.002), "large": (0.002, 0.004, 0.006)}
LEVELS = (0.0, 0.5, 1.0)


def make_tables(
    cores: int = 4, slowdown: float = 0.0, noise: Sequence[float] = (1.0,), traffic: float = 0.0
) -> Tables:
    """Return tables of layers that speed up linearly and take `1 + slowdown` times as long at pressure 1.

    `noise` are the factors of the repeats. A second version is a fifth slower, and no pressure slows it.
    Every version moves `traffic` bytes: with 0 none meets pressure in the simulator.
    """
    rows = [
        (model, layer, version, count, level, repeat, work / count * slower * factor, traffic, 0.0)
        for model, group in WORK.items()
        for layer, work in enumerate(group)
        for count in range(1, cores + 1)
        for level in (LEVELS if count < cores else LEVELS[:1])
        for version, slower in enumerate((1 + slowdown * level, 1.2))
        for repeat, factor in enumerate(noise)
    ]
    columns = ["model", "layer", "version", "cores", "level", "repeat", "seconds"]
    frame = pd.DataFrame(rows, columns=[*columns, "traffic_bytes", "footprint_bytes"])
    layers = {
        model: tuple(Layer(f"{model}-{index}", f"{model}-{index}", 1000) for index in range(len(group)))
        for model, group in WORK.items()
    }
    tilings = {
        model: tuple((Tiling(64, 1000, 64_000), Tiling(8, 8000, 64_000)) for _ in group)
        for model, group in WORK.items()
    }
    machine = make_machine(cores)
    return Tables(machine, layers, tilings, CostTable(frame, machine.name))


def write_made_up_tables(folder: Path, **options: Any) -> Path:
    """Write such tables into a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(folder, make_tables(**options), collect({"made": "up"}))
    return folder


def make_config(**changes: Any) -> Config:
    """Return a configuration that simulates both models on the machine of the tables, and nothing else."""
    return parse(config_values(**changes))


def config_values(**changes: Any) -> dict[str, Any]:
    """Return its plain values; `changes` replace keys at the top."""
    builder = {"builder": "models.resnet50:resnet50"}
    policies = {"FcfsMin": "baselines.fcfs_min:FcfsMin", "Planaria": "baselines.planaria:Planaria"}
    return {
        "models": {"small": {**builder, "qos_ms": 20}, "large": {**builder, "qos_ms": 40}},
        "workloads": {"mix": {"small": 1, "large": 1}},
        "policies": {name: {"path": path} for name, path in policies.items()},
        "profile": {"costs": "shipped"},
        "measured": {"enabled": False},
        "simulated": {
            "machines": ["host"],
            "workloads": ["mix"],
            "queries": 100,
            "resolution": 0.2,
            "start_cost_us": 55,
        },
        "figures": {"formats": ["svg"]},
        **changes,
    }


def noisy(seed: int = 0, repeats: int = 9) -> tuple[float, ...]:
    """Return noise whose median is 1."""
    half = np.random.default_rng(seed).uniform(0.0, 0.2, repeats // 2)
    return (*(1.0 - half).tolist(), 1.0, *(1.0 + half).tolist())
