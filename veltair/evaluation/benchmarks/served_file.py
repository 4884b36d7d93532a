"""An ONNX file as a user meets it, in a process of its own: checked, served from nothing, searched.

Run as `python -m veltair.evaluation.benchmarks.served_file ORDER ANSWER`, it does what a JSON file orders and
writes what came out into another. The process's start and imports count, as they do for a user.
"""

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from veltair.compiler.frontend.fixed_inputs import Value

Answer = TypeVar("Answer")
CHECK, SERVE, SEARCH = "check", "serve", "search"


@dataclass(frozen=True, slots=True)
class Order:
    """What to do with which file, its choices and the folder for what is made.

    `search`, `select`, `cpu` and `tolerance` are keys of the configuration; `machine` describes this one.
    """

    task: str
    model: Path
    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Value]
    folder: Path
    machine: Path
    search: Mapping[str, Any] = field(default_factory=dict)
    select: Mapping[str, Any] = field(default_factory=dict)
    cpu: str = "auto"
    tolerance: float = 1e-4


@dataclass(frozen=True, slots=True)
class Checked:
    """What `check` says of a file; `refused` is why it cannot be served, and then nothing else is said.

    `estimated_s` are the seconds that its search should take, `own_estimated_s` those of
    `search.missing: own`.
    """

    refused: str = ""
    layers: int = 0
    structures: int = 0
    missing: int = 0
    macs: int = 0
    error: float = 0.0
    allowed: float = 0.0
    notes: tuple[str, ...] = ()
    estimated_s: float = 0.0
    own_estimated_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Served:
    """How long the search of a file took, and where the model and what was built of it lie."""

    searched_s: float
    model: Path
    build: Path


def in_fresh_process(order: Order, kind: type[Answer]) -> tuple[Answer, float]:
    """Do it in a process of its own; return what came out and the seconds, its start and imports included.

    Raises RuntimeError with its last line if it fails.
    """
    order.folder.mkdir(parents=True, exist_ok=True)
    ordered, answered = (order.folder / f"{order.task}.{end}.json" for end in ("order", "answer"))
    ordered.write_bytes(TypeAdapter(Order).dump_json(order))
    answered.unlink(missing_ok=True)
    start_s = time.perf_counter()
    command = [sys.executable, "-m", "veltair.evaluation.benchmarks.served_file", str(ordered), str(answered)]
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True, errors="replace")
    took_s = time.perf_counter() - start_s
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(f"{order.model}: {order.task} failed: {lines[-1]}")
    return TypeAdapter(kind).validate_json(answered.read_bytes()), took_s


def main() -> None:
    """Do what the file named first orders."""
    order = TypeAdapter(Order).validate_json(Path(sys.argv[1]).read_bytes())
    answer = _check(order) if order.task == CHECK else _serve(order)
    Path(sys.argv[2]).write_bytes(TypeAdapter(type(answer)).dump_json(answer))


def _check(order: Order) -> Checked:
    # TVM takes seconds to import, which count here and nowhere else.
    from veltair.compiler.check import check  # noqa: PLC0415
    from veltair.compiler.frontend.fix import Choices  # noqa: PLC0415
    from veltair.compiler.frontend.model_error import ModelError  # noqa: PLC0415
    from veltair.compiler.select.shipped import shipped_stores  # noqa: PLC0415

    try:
        report = check(order.model, shipped_stores(), Choices(order.shapes, order.constants), order.tolerance)
    except ModelError as error:
        return Checked(refused=str(error))
    proof = report.proof
    return Checked(
        layers=len(report.layers),
        structures=report.structures,
        missing=report.missing,
        macs=report.macs,
        error=proof.error if proof else 0.0,
        allowed=proof.allowed if proof else 0.0,
        notes=report.notes,
        estimated_s=report.search_s(order.search["trials"]),
        own_estimated_s=report.own_s,
    )


def _serve(order: Order) -> Served:
    """Do what the rules model, search, build and oracle do for a file, one after the other."""
    from veltair.compiler.search.schedules import own_schedules  # noqa: PLC0415
    from veltair.compiler.select.select import Selection  # noqa: PLC0415
    from veltair.compiler.select.shipped import shipped_stores  # noqa: PLC0415
    from veltair.compiler.steps import (  # noqa: PLC0415
        SearchOrder,
        build_model,
        search_models,
        search_settings,
        write_model,
    )
    from veltair.machine.steps import check_oracle, host_cores  # noqa: PLC0415
    from veltair.machine.topology.described import read_machine  # noqa: PLC0415

    model, build = order.folder / "model.onnx", order.folder / "build"
    write_model("model", None, str(order.model), model, order.shapes, order.constants, order.tolerance)
    settings, _ = search_settings({**order.search, "missing": "own" if order.task == SERVE else "search"})
    peak = read_machine(order.machine).core_peak_flops
    wanted = SearchOrder(order.search["cpu"], order.search["cores"], order.select["slack"], peak)
    schedules = partial(own_schedules, count=settings.few) if settings.few else own_schedules
    start_s = time.perf_counter()
    work, store = order.folder / "records", order.folder / "store"
    search_models([model], shipped_stores(), settings, wanted, work, store, schedules)
    searched_s = time.perf_counter() - start_s
    stores = [*shipped_stores(), store]
    build_model(
        model, stores, Selection(**order.select), len(host_cores()), settings.trials, build, None, order.cpu
    )
    check_oracle(model, build, order.tolerance, order.folder / "oracle.csv")
    return Served(searched_s, model, build)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, LookupError, OSError) as problem:
        sys.exit(f"error: {problem}")
