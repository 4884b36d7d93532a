"""`python -m veltair.compiler`: what serving an ONNX file takes."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from veltair.compiler.check import Report, check
from veltair.compiler.frontend.fix import Choices
from veltair.compiler.frontend.fixed_inputs import Value
from veltair.compiler.frontend.model_error import ModelError
from veltair.compiler.oracle.proof import Proof
from veltair.compiler.select.shipped import shipped_stores
from veltair.compiler.select.store import StoreError
from veltair.config.compiler_keys import Search
from veltair.terminal import count, print_utf8


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 for a model that cannot be served, or 2 for a store that cannot be read."""
    print_utf8()
    given = _parser().parse_args(arguments)
    if given.command == "operators":
        return _write_operators(given.output)
    stores = [given.store] if given.store else shipped_stores()
    choices = Choices(dict(given.shape), dict(given.constant))
    try:
        report = check(
            given.model, stores, choices, tell=lambda text: print(text, file=sys.stderr, flush=True)
        )
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
    command.add_argument("model", type=Path, metavar="MODEL.onnx", help="an ONNX file")
    command.add_argument(
        "--shape",
        type=_shape_option,
        action="append",
        default=[],
        metavar="INPUT=1,3,224,224",
        help="sizes of an input whose dimensions are open, as `models.NAME.shapes`; may be repeated",
    )
    command.add_argument(
        "--constant",
        type=_constant_option,
        action="append",
        default=[],
        metavar="INPUT=16000",
        help="a number, or several with commas, for an input that is always the same, as "
        "`models.NAME.constants`; may be repeated",
    )
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
    table = commands.add_parser(
        "operators",
        help="write which operators of ONNX are served, by its own tests of each: minutes",
    )
    table.add_argument(
        "--output", type=Path, default=Path("docs/operators.md"), help="(default: %(default)s)"
    )
    return parser


def _write_operators(output: Path) -> int:
    from veltair.compiler.operator_table import operator_table, page  # noqa: PLC0415  # imports all tests

    output.write_text(page(operator_table(lambda name: print(name, flush=True))), encoding="utf-8")
    return 0


def _shape_option(text: str) -> tuple[str, tuple[int, ...]]:
    name, found, sizes = text.rpartition("=")
    parts = [part.strip() for part in sizes.replace("x", ",").split(",") if part.strip()]
    if not (found and name and parts and all(part.isdecimal() and int(part) > 0 for part in parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form INPUT=1,3,224,224, sizes of 1 or more")
    return name, tuple(map(int, parts))


def _constant_option(text: str) -> tuple[str, Value]:
    name, found, values = text.rpartition("=")
    try:
        if not (found and name):
            raise ValueError
        numbers = [_number(part.strip()) for part in values.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form INPUT=16000, or INPUT=1,2,3") from None
    return name, numbers[0] if len(numbers) == 1 else numbers


def _number(text: str) -> float | int | bool:
    words = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return int(text)
    except ValueError:
        return float(text)


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
        *(f"note: {note}" for note in report.notes),
        f"inputs: {inputs}",
        *_proof(report.proof),
        f"candidates: {', '.join(map(str, stores)) or 'none are shipped that this CPU can run'}",
        f"{len(report.layers)} layers of {report.structures} structures, {report.macs / 1e9:.3f} GMACs, "
        f"{report.parameters / 1e6:.3f} M parameters (normalizations folded)",
    ]
    if not report.missing:
        return [*lines, "search: none, every structure has candidates"]
    return [
        *lines,
        f"search: {report.missing} structures without candidates x {report.measured(trials)} candidates x "
        f"{report.seconds_per_trial:g} s = {report.search_s(trials) / 60:.1f} minutes; "
        f"{report.own_s / 60:.1f} minutes with `search.missing: own`",
    ]


def _proof(proof: Proof | None) -> list[str]:
    if proof is None:
        return []
    line = (
        f"right: within {proof.error:.2g} of ONNX Runtime on random inputs (allowed: "
        f"{proof.allowed:.2g}; its own levels of optimisation differ by {proof.noise:.2g})"
    )
    if proof.half_error is None:
        return [line]
    return [line, f"float32 instead of float16: the answers differ by {proof.half_error:.2g}"]


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


if __name__ == "__main__":
    sys.exit(main())
