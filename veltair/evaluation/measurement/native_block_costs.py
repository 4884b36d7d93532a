"""What the engine adds to blocks, for machines on which nobody measured it: rule `native_block_costs`."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from veltair.config import Config
from veltair.evaluation.measurement.block_costs import sample_blocks
from veltair.machine.costs.block_costs import block_costs
from veltair.machine.costs.folder import COSTS, read_tables
from veltair.machine.models.library import LoadedModel
from veltair.machine.workers.native_pool import NativePool
from veltair.provenance import check_made_here, collect, read_provenance, write_parquet


def write_native_block_costs(
    config: Config, builds: Mapping[str, Path], tables: Path, build_dir: Path, output: Path
) -> None:
    """Sample what blocks of the built models cost beside their kernels on this machine, and write it.

    Raises ProvenanceError if the tables are another machine's.
    """
    check_made_here(read_provenance(tables / COSTS))
    models = {name: LoadedModel(path) for name, path in builds.items()}
    samples = sample_blocks(read_tables(tables), models, partial(NativePool, build_dir=build_dir))
    plans = [folder / "plan.json" for folder in builds.values()]
    provenance = collect(config.model_dump(mode="json"), inputs=[tables / COSTS, *plans])
    write_parquet(output, samples, provenance)
    print(block_costs(samples), flush=True)
