"""`python -m veltair.compiler`: what serving an ONNX file takes."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from veltair.compiler.check import Report, check
from veltair.compiler.frontend.onnx_passes import ModelError
from veltair.compiler.select.shipped import shipped_stores
from veltair.compiler.select.store import StoreError
from veltair.config.keys import Search
from veltair.terminal import count, print_utf8


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 for a model that cannot be served, or 2 for a store that cannot be read."""
    print_utf8()
    given = _parser().parse_args(arguments)
    stores = [given.store] if given.store else shipped_stores()
    try:
        report = check(given.model, stores)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _print_report(report, given.model, stores, given.trials)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m veltair.compiler",
        description="Beside the compiler's steps of a run, which are Snakemake's: `make help`.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "check",
        help="print a model's layers, their work and the time that its search would take",
        description="Import a model as a run does, and tell what serving it takes. Nothing is searched.",
        epilog="Exit status: 0, 1 for a model that cannot be served (why is on stderr), 2 for wrong usage.",
    )
    command.add_argument("model", type=Path, metavar="MODEL.onnx", help="an ONNX file with fixed shapes")
    command.add_argument(
        "--trials",
        type=count,
        default=Search().trials,
        metavar="N",
        help="`search.trials` of the run: candidates a layer structure (default: %(default)s)",
    )
    command.add_argument(
        "--store", type=Path, help="folder of candidates (default: those shipped that this CPU can run)"
    )
    return parser


def _print_report(report: Report, model: Path, stores: Sequence[Path], trials: int) -> None:
    table = Table(title=escape(str(model)))
    table.add_column("layer", justify="right")
    table.add_column("operators", overflow="fold")
    table.add_column("MMACs", justify="right")
    table.add_column("makes")
    table.add_column("as layer", justify="right")
    table.add_column("candidates", justify="right")
    for number, layer in enumerate(report.layers):
        table.add_row(
            str(number),
            escape(layer.operators),
            f"{layer.macs / 1e6:,.1f}" if layer.macs else "",
            ", ".join(map(_shape, layer.outputs)),
            str(layer.first) if layer.first != number else "",
            str(layer.candidates or "none"),
        )
    console = Console()
    console.print(table)
    for line in _totals(report, stores, trials):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _totals(report: Report, stores: Sequence[Path], trials: int) -> list[str]:
    inputs = ", ".join(f"{one.name} {one.dtype} {_shape(one.shape)}" for one in report.inputs)
    lines = [
        f"inputs: {inputs}",
        f"candidates: {', '.join(map(str, stores)) or 'none are shipped that this CPU can run'}",
        f"{len(report.layers)} layers of {report.structures} structures, {report.macs / 1e9:.3f} GMACs, "
        f"{report.parameters / 1e6:.3f} M parameters (normalizations folded)",
    ]
    if not report.missing:
        return [*lines, "search: none, every structure has candidates"]
    return [
        *lines,
        f"search: {report.missing} structures without candidates x {trials} trials x "
        f"{report.seconds_per_trial:g} s = {report.search_s(trials) / 60:.1f} minutes",
    ]


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


if __name__ == "__main__":
    sys.exit(main())
