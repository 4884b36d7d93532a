"""Small tables of a host, to derive others from."""

from dataclasses import replace

import pandas as pd

from veltair.compiler.footprint.residency import Residency
from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.frontend.model import Layer
from veltair.machine.costs.derivation import derive
from veltair.machine.costs.folder import (
    Tables,
)
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.machine.topology.topology import Machine

# Compute-bound: all 64 bytes fit its cache. Memory-bound: they never do.
COMPUTE = Tiling(parallelism=6, blocking_bytes=8, compulsory_bytes=64)
MEMORY = Tiling(parallelism=4, blocking_bytes=1000, compulsory_bytes=3000)
SERIAL = Tiling(parallelism=1, blocking_bytes=64, compulsory_bytes=64)


def make_machine(
    name: str, groups: tuple[tuple[int, ...], ...], core_peak_flops: float, dram_bytes_per_s: float
) -> Machine:
    return Machine(name, 1, groups, 2**18, 400, core_peak_flops, dram_bytes_per_s, validated=False)


HOST = make_machine("host", ((0, 1),), 1e9, 1e9)
# Half as fast a core as the host's, 4 cores, 800 bytes of L3, 1000 bytes/s.
THERE = make_machine("there", ((0, 1), (2, 3)), 5e8, 1000.0)
BOOSTED = replace(THERE, clock_factors=((1, 1.5), (4, 1.0)))
FOUND = Residency((10,) * 10, (20,) * 10, (5,) * 10)


def make_tables(*rows: tuple[object, ...], versions: tuple[Tiling, ...] = (COMPUTE,)) -> Tables:
    """Return tables of one layer on the host, from (version, cores, level, repeat, seconds)."""
    repeats = [
        ("net", 0, version, cores, level, repeat, seconds, 1.0, 64.0)
        for version, cores, level, repeat, seconds in rows
    ]
    costs = CostTable(pd.DataFrame(repeats, columns=list(COLUMNS)), "host")
    return Tables(HOST, {"net": (Layer("conv", "s0", 5),)}, {"net": (versions,)}, costs)


def derived_seconds(tiling: Tiling, seconds: float) -> pd.DataFrame:
    """Return derived seconds by cores and level, of one version with that time on one core."""
    repeats = derive(make_tables((0, 1, 0.0, 0, seconds), versions=(tiling,)), THERE).costs.repeats
    return repeats.pivot(index="cores", columns="level", values="seconds")
