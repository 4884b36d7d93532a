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
from veltair.evaluation.timeline_steps import TimelineRequest, draw_timeline
from veltair.machine.placement import PLACEMENTS
from veltair.serving.timeline import LIMIT

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
    """Run a command; return 0, or 2 if the configuration, a table or what was asked for is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m veltair.evaluation",
        description="Beside the runs themselves, which are Snakemake's: `make help`.",
        epilog=WHERE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("estimate", help="print the jobs and hours of a configuration")
    _add_config(command)
    command.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="cores to run on")
    command = commands.add_parser(
        "golden", help="accept the metrics of a smoke run as the golden summary, after a change that is meant"
    )
    command.add_argument("--metrics", type=Path, required=True, help="folder of its metrics")
    command.add_argument("--output", type=Path, required=True, help="the golden summary to write")
    _add_timeline(commands.add_parser("timeline", help="draw which block ran where in a simulated run"))
    given = parser.parse_args(arguments)
    try:
        if given.command == "golden":
            write_golden(given.metrics, given.output)
        elif given.command == "timeline":
            _draw_timeline(given)
        else:
            _print_estimate(given.config, given.cores)
    except (ConfigError, LookupError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config", type=Path, nargs="+", required=True, help="YAML files, later ones over earlier"
    )


def _add_timeline(command: argparse.ArgumentParser) -> None:
    _add_config(command)
    command.add_argument("--policy", required=True, help="policy, as the configuration names it")
    command.add_argument("--workload", help="workload; the first of `simulated.workloads` if not given")
    command.add_argument("--machine", help="machine; the first of `simulated.machines` if not given")
    command.add_argument(
        "--qps", type=float, help="offered queries/s; the policy's QPS at 95 %% QoS if it was searched"
    )
    command.add_argument("--seed", type=int, help="seed; the first of `simulated.seeds` if not given")
    command.add_argument(
        "--window",
        type=float,
        nargs=2,
        metavar=("BEGIN", "END"),
        help="seconds that the picture shows; the busiest ones if not given",
    )
    command.add_argument(
        "--placement",
        choices=list(PLACEMENTS),
        default="pinned",
        help="how ids are assigned to simulated cores, which are only counted",
    )
    command.add_argument("--limit", type=int, default=LIMIT, help="blocks to keep at most, the first ones")
    command.add_argument("--output", type=Path, help="folder; `timeline` in that of the figures if not given")


def _draw_timeline(given: argparse.Namespace) -> None:
    config = load(given.config)
    request = TimelineRequest(
        given.policy,
        given.workload,
        given.machine,
        given.qps,
        given.seed,
        tuple(given.window) if given.window else None,
        given.placement,
        given.limit,
    )
    folder = given.output or Path(config.figures.folder) / "timeline"
    trace, picture = draw_timeline(config, request, folder)
    print(f"{picture}\n{trace} (open it at https://ui.perfetto.dev; it stays on your machine)")


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
