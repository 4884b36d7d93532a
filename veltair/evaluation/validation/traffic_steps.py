"""The steps that compare modelled traffic with valgrind's: of single layers, and of whole networks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from veltair.compiler.build.build import LIBRARY
from veltair.compiler.search.target import GENERIC_X86
from veltair.compiler.select.select import Selection
from veltair.compiler.select.shipped import AVX2, SHIPPED
from veltair.compiler.select.store import StoreError
from veltair.compiler.steps import build_model
from veltair.config import Config
from veltair.evaluation.experiment.benchmark_file import write_benchmark
from veltair.evaluation.experiment.tables_io import read_csv, write_csv
from veltair.evaluation.figures.save import save
from veltair.evaluation.validation.cachegrind import COLUMNS, CachegrindError, check_traffic
from veltair.evaluation.validation.network_caches import COLUMNS as NETWORK_COLUMNS
from veltair.evaluation.validation.network_caches import build_without_fma, check_network
from veltair.evaluation.validation.traffic_networks import network_figures, network_lines
from veltair.evaluation.validation.traffic_plots import validation_traffic_figure
from veltair.provenance import collect, write_atomically

# What valgrind simulates in minutes: caches as large as an L2, and layers that are larger than these.
CACHES_BYTES = (2**18, 2**20)
LAYERS = 8
CORES = 2  # versions are chosen for a machine of so many
MOST_MACS = 60_000_000
# Of networks: how many cores share a cache, and its bytes. Heavy models are cut to their first blocks.
NETWORK_CACHES = (*((1, 2**power) for power in range(20, 26)), (4, 2**22), (4, 2**24))
MOST_NETWORK_MACS = 11_000_000_000


def write_traffic(
    config: Config, models: Mapping[str, Path], native: Path, cache: Path, output: Path
) -> None:
    """Simulate a sample of the layers of some models and write it as a table of `COLUMNS`.

    Their versions are built for AVX2 whatever this CPU has, for valgrind runs no AVX-512. `native` is the
    folder of what is compiled of our C sources, `cache` that of compiled versions. Where valgrind is missing,
    or cannot run the kernels, the table is empty and a line that is printed says why.
    """
    selection = Selection(**config.select.model_dump())
    builds: dict[str, Path] = {}
    with TemporaryDirectory() as folder:
        try:
            for name, model in models.items():
                build = Path(folder) / name
                stores, trials = [SHIPPED / AVX2], config.search.trials
                build_model(model, stores, selection, CORES, trials, build, cache, GENERIC_X86)
                builds[name] = build
            table = check_traffic(builds, CACHES_BYTES, LAYERS, MOST_MACS, native)
        except (CachegrindError, StoreError) as error:
            print(f"traffic is not compared with cachegrind: {error}", flush=True)
            table = pd.DataFrame(columns=COLUMNS)
    write_csv(output, table, collect(inputs=list(models.values())))


def write_network_traffic(model: Path, native: Path, cache: Path, output: Path) -> None:
    """Simulate a network under caches of 1 to 32 MiB and write the bytes of its layers, see `check_network`.

    They are one core's; four cores share some of them. `native` is the folder of what is compiled of our C
    sources, `cache` that of compiled versions. Where that cannot be, the table is empty and a line that is
    printed says why.
    """
    try:
        with TemporaryDirectory() as folder:
            plan = build_without_fma(model, [SHIPPED / AVX2], MOST_NETWORK_MACS, Path(folder), cache)
            table = check_network(plan, Path(folder) / LIBRARY, NETWORK_CACHES, native)
    except (CachegrindError, LookupError) as error:
        print(f"{model.stem} is not compared with callgrind: {error}", flush=True)
        table = pd.DataFrame(columns=NETWORK_COLUMNS)
    write_csv(output, table, collect(inputs=[model]))


def compare_network_traffic(
    tables: Sequence[Path], config: Config, command: str, figures: Path, report: Path
) -> None:
    """Write how far modelled networks are off those that were simulated: a benchmark, and a page."""
    table = pd.concat([read_csv(path) for path in tables], ignore_index=True)
    write_benchmark(figures, network_figures(table, command), config, tables)
    text = "\n".join(["# Traffic of whole networks", "", *network_lines(table)]) + "\n"
    write_atomically({report: text.encode()})
    print(text, flush=True)


def draw_traffic(table: Path, figure: Path, formats: Sequence[str]) -> None:
    """Draw modelled against simulated traffic."""
    save(validation_traffic_figure(read_csv(table)), figure, formats)
