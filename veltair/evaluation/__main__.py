"""Command line of the evaluation."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from veltair.config import ConfigError, load
from veltair.evaluation.estimate import estimate, hours
from veltair.evaluation.steps import write_golden

WHERE = """
where things are:
  workflow/config/        what a run does: config.yaml (minutes), smoke.yaml, paper.yaml
  workflow/config/README.md  every key with its unit and default
  results/summary.md      the outcome, to read
  results/README.md       what every column and metric means
  results/metrics/*.csv   the outcome as tables; results/logs/ says what each step did
  figures/                the figures
  README.md               commands, minutes, how to add a policy or a model
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 2 if the configuration or a table is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m veltair.evaluation",
        description="Beside the runs themselves, which are Snakemake's: `make help`.",
        epilog=WHERE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("estimate", help="print the jobs and hours of a configuration")
    command.add_argument(
        "--config", type=Path, nargs="+", required=True, help="YAML files, later ones over earlier"
    )
    command.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="cores to run on")
    command = commands.add_parser(
        "golden", help="accept the metrics of a smoke run as the golden summary, after a change that is meant"
    )
    command.add_argument("--metrics", type=Path, required=True, help="folder of its metrics")
    command.add_argument("--output", type=Path, required=True, help="the golden summary to write")
    given = parser.parse_args(arguments)
    try:
        if given.command == "golden":
            write_golden(given.metrics, given.output)
        else:
            _print_estimate(given.config, given.cores)
    except (ConfigError, LookupError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _print_estimate(paths: Sequence[Path], cores: int) -> None:
    work = estimate(load(paths))
    table = Table(title=f"{', '.join(map(str, paths))} on {cores} cores, nothing done yet")
    table.add_column("step")
    table.add_column("jobs", justify="right")
    table.add_column("core-hours", justify="right")
    table.add_column("needs all cores")
    for part in work:
        alone = "yes" if part.exclusive else ""
        table.add_row(part.kind, str(part.jobs), f"{part.seconds / 3600:.2f}", alone)
    table.add_row("all", str(sum(part.jobs for part in work)), f"{hours(work, cores):.2f} h on the clock", "")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
