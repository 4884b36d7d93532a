"""Random models that contend for caches and bandwidth: small, and unlike in all that a simulator reads."""

from math import inf

import numpy as np
import pandas as pd

from veltair.compiler.footprint.residency import RESIDENT_CACHE_BYTES, Residency
from veltair.compiler.footprint.traffic import CURVE_BYTES, Tiling
from veltair.compiler.frontend.model import Layer, Model
from veltair.machine.costs.cost_model import LayerCostModel, MachineCostModel
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.machine.topology.topology import Machine
from veltair.serving.loop.policy import Context

LAYERS = {"m": 5, "n": 3}
VERSIONS = 2
LEVELS = (0.0, 0.3, 1.0)


def contended_machine(rng: np.random.Generator) -> Machine:
    """Return a machine of 8 cores in 4 cache groups."""
    return Machine(
        # Few layers fit the L3, or all do, and what they fetch then is between two caches that are known.
        "random", 1, ((0, 1), (2, 3), (4, 5), (6, 7)), 1, int(rng.choice([100, 300_000, 2_000_000])),
        1.0, 100.0, False,
        clock_factors=((1, 1.4), (4, 1.2), (8, 1.0)),
        link_groups=2,
        link_bytes_per_s=float(rng.choice([inf, 60.0])),
        core_dram_bytes_per_s=float(rng.choice([100.0, 40.0])),
        launch_s=0.01,
        join_s=0.02,
    )  # fmt: skip


def contended_context(rng: np.random.Generator, qos_s: float = 100.0) -> Context:
    """Return two models of several versions with tables at every core count."""
    # All layers press differently, or some press as others do and some not at all.
    alike = rng.random() < 0.5
    rows = []
    for model, layers in LAYERS.items():
        for layer in range(layers):
            for version in range(VERSIONS):
                work, footprint = rng.uniform(0.2, 2.0), rng.uniform(0.0, 200.0)
                per_s, slower = rng.uniform(0.0, 60.0), rng.uniform(0.0, 3.0)
                if alike:
                    footprint, per_s = rng.choice([0.0, 100.0]), rng.choice([0.0, 30.0])
                moved = per_s * work
                rows += [
                    (model, layer, version, cores, level, repeat, factor * seconds, moved, footprint)
                    for cores in range(1, 9)
                    for level in LEVELS
                    for seconds in (work / cores * (1 + slower * level),)
                    for repeat, factor in enumerate((0.9, 1.0, 1.25))
                ]
    models = {
        name: Model(name, tuple(Layer(f"{name}{index}", "s", 1) for index in range(count)), qos_s)
        for name, count in LAYERS.items()
    }
    return Context(
        models, CostTable(pd.DataFrame(rows, columns=list(COLUMNS)), "random"), contended_machine(rng)
    )


def random_residency(rng: np.random.Generator) -> Residency:
    """Return what a layer finds in caches, and what it writes back."""

    def rising(most: int) -> tuple[int, ...]:
        return tuple(sorted(rng.integers(0, most, size=len(RESIDENT_CACHE_BYTES)).tolist()))

    return Residency(rising(2000), rising(2000), rising(1000)[::-1])


def random_cost_model(rng: np.random.Generator) -> MachineCostModel:
    """Return a cost model of those models' layers."""

    def layer() -> LayerCostModel:
        blocking = int(rng.integers(1, 300))
        parallelism = int(rng.integers(1, 20))
        compulsory = int(rng.integers(1, parallelism * blocking + 1))
        falling = tuple(sorted(rng.integers(0, 6000, size=len(CURVE_BYTES)).tolist(), reverse=True))
        tiling = Tiling(
            parallelism,
            blocking,
            compulsory,
            steepness=float(rng.choice([1.0, 0.35])),
            fetched_bytes=falling if rng.random() < 0.5 else (),
            residency=random_residency(rng) if rng.random() < 0.7 else None,
        )
        return LayerCostModel(float(rng.uniform(0.1, 5.0)), tiling)

    layers = {
        name: tuple(tuple(layer() for _ in range(VERSIONS)) for _ in range(count))
        for name, count in LAYERS.items()
    }
    return MachineCostModel(float(rng.choice([1.0, 1.7, inf])), layers)
