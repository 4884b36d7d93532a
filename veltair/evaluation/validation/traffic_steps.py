"""The step that compares modelled traffic with cachegrind's."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from veltair.compiler.build.build import LIBRARY, PLAN
from veltair.evaluation.experiment.tables_io import read_csv, write_csv
from veltair.evaluation.figures.save import save
from veltair.evaluation.validation.cachegrind import COLUMNS, CachegrindError, check_traffic
from veltair.evaluation.validation.traffic_plots import validation_traffic_figure
from veltair.provenance import collect

# What valgrind simulates in minutes: caches as large as an L2, and layers that are larger than these.
CACHES_BYTES = (2**18, 2**20)
LAYERS = 8
MOST_MACS = 60_000_000


def write_traffic(builds: Mapping[str, Path], native: Path, output: Path) -> None:
    """Simulate a sample of the layers of some built models and write it as a table of `COLUMNS`.

    `native` is the folder of what is compiled of our C sources. Where valgrind is missing, or cannot run the
    kernels, the table is empty and a line that is printed says why.
    """
    try:
        table = check_traffic(builds, CACHES_BYTES, LAYERS, MOST_MACS, native)
    except CachegrindError as error:
        print(f"traffic is not compared with cachegrind: {error}", flush=True)
        table = pd.DataFrame(columns=COLUMNS)
    inputs = [folder / name for folder in builds.values() for name in (PLAN, LIBRARY)]
    write_csv(output, table, collect(inputs=inputs))


def draw_traffic(table: Path, figure: Path, formats: Sequence[str]) -> None:
    """Draw modelled against simulated traffic."""
    save(validation_traffic_figure(read_csv(table)), figure, formats)
