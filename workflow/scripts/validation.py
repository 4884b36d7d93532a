"""Compares simulator and models with what was measured on this machine."""

from pathlib import Path

from veltair.config import parse
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.validation.steps import ValidationFiles, ValidationResults, write_validation

with logged(snakemake.log[0]):
    given, made = snakemake.input, snakemake.output
    # Snakemake's list of named inputs holds its values; only its keys are their names.
    described = Path(given.described).parent if "described" in given.keys() else None  # noqa: SIM118
    records = [Path(path) for path in given.records]
    tables, co_runs, traffic = Path(given.costs).parent, Path(given.co_runs), Path(given.traffic)
    files = ValidationFiles(tables, co_runs, records, described, traffic)
    results = ValidationResults(Path(made.figures), Path(made.report), Path(made.tables[0]).parent)
    command = f"snakemake --cores all {snakemake.rule}"
    print("\n".join(write_validation(parse(snakemake.params.settings), files, results, command)))
