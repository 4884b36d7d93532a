"""Command line of the evaluation."""

import argparse
import os
import sys
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from veltair.terminal import count, imported_packages, positive, print_utf8

with imported_packages():
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from veltair.config import ConfigError, load
    from veltair.config.section import SEED_MAX
    from veltair.evaluation.claims.report import counts, write_claims
    from veltair.evaluation.claims.rules import SHIPPED_CLAIMS, Source, load_claims
    from veltair.evaluation.regression.read import PARTS, compare
    from veltair.evaluation.regression.report import exit_code, print_comparison, write_comparison
    from veltair.evaluation.reports.steps import write_golden
    from veltair.evaluation.simulation.timeline_steps import TimelineRequest, draw_timeline
    from veltair.evaluation.simulation.work_estimate import estimate, hours
    from veltair.machine.topology.placement import PLACEMENTS
    from veltair.provenance import collect
    from veltair.serving.loop.timeline import LIMIT

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
    """Run a command; return 0, or 2 if the configuration, a table or what was asked for is wrong.

    `compare` returns 1 for a regression if it is told to fail for one.
    """
    print_utf8()
    parser = argparse.ArgumentParser(
        prog="python -m veltair.evaluation",
        description="Beside the runs themselves, which are Snakemake's: `make help`.",
        epilog=WHERE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("estimate", help="print the jobs and hours of a configuration")
    _add_config(command)
    command.add_argument("--cores", type=count, default=len(os.sched_getaffinity(0)), help="cores to run on")
    command = commands.add_parser(
        "golden", help="accept the metrics of a smoke run as the golden summary, after a change that is meant"
    )
    command.add_argument("--metrics", type=Path, required=True, help="folder of its metrics")
    command.add_argument("--output", type=Path, required=True, help="the golden summary to write")
    _add_timeline(commands.add_parser("timeline", help="draw which block ran where in a simulated run"))
    _add_compare(commands.add_parser("compare", help="tell whether results B are worse than results A"))
    _add_claims(commands.add_parser("claims", help="judge the paper's claims by the results of a run"))
    given = parser.parse_args(arguments)
    try:
        if given.command == "compare":
            return _compare(given)
        if given.command == "claims":
            _judge_claims(given)
        elif given.command == "golden":
            write_golden(given.metrics, given.output)
        elif given.command == "timeline":
            _draw_timeline(given)
        else:
            _print_estimate(given.config, given.cores)
    except (ConfigError, LookupError, ValueError, OSError) as error:
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
        "--qps", type=positive, help="offered queries/s; the policy's QPS at 95 %% QoS if it was searched"
    )
    command.add_argument("--seed", type=_seed, help="seed; the first of `simulated.seeds` if not given")
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
    command.add_argument("--limit", type=count, default=LIMIT, help="blocks to keep at most, the first ones")
    command.add_argument("--output", type=Path, help="folder; `timeline` in that of the figures if not given")


def _seed(text: str) -> int:
    if not (
        text.isascii() and text.isdecimal() and len(text) <= len(str(SEED_MAX)) and int(text) <= SEED_MAX
    ):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to {SEED_MAX}")
    return int(text)


def _add_compare(command: argparse.ArgumentParser) -> None:
    what = "folder of results or of metrics, a benchmark's JSON, or a folder of several of these"
    command.add_argument("before", metavar="A", type=Path, help=what)
    command.add_argument("after", metavar="B", type=Path, help="the same, of the state to be judged")
    command.add_argument(
        "--fail-on-regression",
        action="store_true",
        help="return 1 if something got worse, 2 if something could not be judged",
    )
    command.add_argument("--only", choices=PARTS, help="leave the other kind of results out")
    command.add_argument(
        "--output", type=Path, default=Path("results/regression"), help="folder of the table as CSV and JSON"
    )


def _compare(given: argparse.Namespace) -> int:
    found = compare(given.before, given.after, (given.only,) if given.only else PARTS)
    print_comparison(found, Console())
    files = write_comparison(found, given.output, collect(before=str(given.before), after=str(given.after)))
    print(*files, sep="\n")
    return exit_code(found, given.fail_on_regression)


def _add_claims(command: argparse.ArgumentParser) -> None:
    command.add_argument("--results", type=Path, required=True, help="folder of results, with their metrics")
    command.add_argument(
        "--benchmarks", type=Path, default=Path("results/benchmarks"), help="folder of benchmarks"
    )
    command.add_argument("--claims", type=Path, default=SHIPPED_CLAIMS, help="the claims, as YAML")
    command.add_argument("--machine", help="another machine to judge than the one that the claims name")
    command.add_argument("--backend", help="`simulator` or `engine`, with --machine")
    command.add_argument("--output", type=Path, help="page to write; claims.md of the results if not given")


def _judge_claims(given: argparse.Namespace) -> None:
    if not (given.results / "metrics").is_dir():
        raise ValueError(f"{given.results / 'metrics'} is no folder; give --results the folder of a run")
    named = load_claims(given.claims).source
    source = Source(backend=given.backend or named.backend, machine=given.machine or named.machine)
    output = given.output or given.results / "claims.md"
    judged = write_claims(given.results / "metrics", given.benchmarks, output, given.claims, source)
    print(", ".join(f"{count} {name}" for name, count in counts(judged).items()))
    print(f"{output}\n{output.with_suffix('.json')}")


def _draw_timeline(given: argparse.Namespace) -> None:
    config = load(given.config)
    window = (float(given.window[0]), float(given.window[1])) if given.window else None
    if window and not (isfinite(window[1]) and 0 <= window[0] < window[1]):
        raise ValueError(
            f"--window {window[0]:g} {window[1]:g}: give BEGIN and END in seconds, in this order, from 0 on"
        )
    request = TimelineRequest(
        given.policy,
        given.workload,
        given.machine,
        given.qps,
        given.seed,
        window,
        given.placement,
        given.limit,
    )
    folder = given.output or Path(config.figures.folder) / "timeline"
    trace, picture = draw_timeline(config, request, folder)
    print(f"{picture}\n{trace} (open it at https://ui.perfetto.dev; it stays on your machine)")


def _print_estimate(paths: Sequence[Path], cores: int) -> None:
    work = estimate(load(paths))
    table = Table(title=f"{escape(', '.join(map(str, paths)))} on {cores} cores, nothing done yet")
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
