"""Measures the kernels beside ONNX Runtime's, and the compiler's own speed."""

from pathlib import Path

from veltair.compiler.select.shipped import shipped_stores
from veltair.config import parse
from veltair.evaluation.benchmarks.compiler import CompilerFiles, write_compiler
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.measurement.steps import machine_to_itself, measuring_lock

with logged(snakemake.log[0]), machine_to_itself(measuring_lock()):
    params = snakemake.params
    stores = [*(shipped_stores() if params.reuse else []), *map(Path, params.searched)]
    files = CompilerFiles(
        models={Path(path).stem: Path(path) for path in snakemake.input.models},
        builds={Path(plan).parent.name: Path(plan).parent for plan in snakemake.input.plans},
        stores=stores,
        machine=Path(snakemake.input.machine),
    )
    write_compiler(parse(params.settings), files, Path(snakemake.output[0]))
