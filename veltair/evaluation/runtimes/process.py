"""A runtime at one rate, in a process of its own: fresh threads and memory, nothing left of the rate before.

Run as `python -m veltair.evaluation.runtimes.process ORDER PIPE`, it reads an order, loads the models, checks
the answers to all samples, serves LoadGen's queries, and writes the outcome beside the order.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from veltair.compiler.frontend.samples import Samples, relative_error
from veltair.evaluation.loadgen.client import END_TIMEOUT_S, ServerRun
from veltair.evaluation.loadgen.logs import LoadGenError
from veltair.evaluation.runtimes.query_tracker import RateResult, serve_rate
from veltair.evaluation.runtimes.registry import Runtime, RuntimeBackend, open_backend
from veltair.evaluation.runtimes.timed_process import read_samples, write_samples

ORDER_FILE, OUTCOME_FILE, OUTPUT_FILE = "order.json", "outcome.json", "runtime_output.txt"
MODULE = "veltair.evaluation.runtimes.process"
LOAD_TIMEOUT_S = 600.0  # BERT-Large on 64 sessions takes minutes


class ServedRuntimeError(RuntimeError):
    """A runtime's process failed; the message says what it wrote."""


@dataclass(frozen=True, slots=True)
class Field:
    """What all runtimes are given alike, at every rate.

    `models` are ONNX files by name; `samples` is a folder, see `write_field_samples`; `sample_models` names
    the model of each sample. Answers may differ by a relative error of `tolerance`.
    """

    models: Mapping[str, Path]
    samples: Path
    sample_models: tuple[str, ...]
    qos_s: Mapping[str, float]
    cores: tuple[int, ...]
    seconds: float
    drain_s: float
    tolerance: float


def write_field_samples(folder: Path, samples: Sequence[tuple[Samples, tuple[NDArray[Any], ...]]]) -> None:
    """Write the inputs and the right answer of each sample index."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (values, answer) in enumerate(samples):
        write_samples(folder / f"{number}.npz", values)
        write_samples(folder / f"{number}_answer.npz", answer)


def measure_runtime(field: Field, runtime: Runtime, qps: float, seed: int, folder: Path) -> RateResult:
    """Return what became of a rate that a runtime served.

    A run in which LoadGen failed has a problem. Raises ServedRuntimeError if the runtime itself failed or its
    answers
    are wrong.
    """
    folder.mkdir(parents=True, exist_ok=True)
    order = {
        **asdict(field),
        "backend": runtime.backend,
        "options": dict(runtime.options),
        "qps": qps,
        "seed": seed,
    }
    (folder / ORDER_FILE).write_text(json.dumps(order, default=str))
    (folder / OUTCOME_FILE).unlink(missing_ok=True)
    timeout_s = LOAD_TIMEOUT_S + field.seconds + field.drain_s + END_TIMEOUT_S
    try:
        code = _run(folder, timeout_s)
    except subprocess.TimeoutExpired as error:
        raise ServedRuntimeError(
            f"{runtime.name} at {qps:.4g} QPS did not end in {timeout_s:.0f} s"
        ) from error
    if code != 0:
        said = (folder / OUTPUT_FILE).read_text(errors="replace").strip().splitlines()[-1:]
        raise ServedRuntimeError(
            f"{runtime.name} at {qps:.4g} QPS ended with exit status {code}: {' '.join(said)}"
        )
    return RateResult(**json.loads((folder / OUTCOME_FILE).read_text()))


def _run(folder: Path, timeout_s: float) -> int:
    """Return the exit status; whatever ends this process, the pipe's end tells the child of it."""
    alive, held = os.pipe()
    try:
        with (folder / OUTPUT_FILE).open("w") as output:
            done = subprocess.run(
                [sys.executable, "-m", MODULE, str(folder / ORDER_FILE), str(alive)],
                pass_fds=[alive],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
            )
    finally:
        os.close(alive)
        os.close(held)
    return done.returncode


def serve_order(path: Path) -> RateResult:
    """Serve what an order says in this process, which keeps to its cores from now on."""
    order = json.loads(path.read_text())
    os.sched_setaffinity(0, order["cores"])
    count, folder = len(order["sample_models"]), Path(order["samples"])
    samples = [
        (name, read_samples(folder / f"{number}.npz")) for number, name in enumerate(order["sample_models"])
    ]
    answers = [read_samples(folder / f"{number}_answer.npz") for number in range(count)]
    run = ServerRun(
        qps=order["qps"],
        min_duration_ms=round(1e3 * order["seconds"]),
        min_query_count=1,
        seed=order["seed"],
        sample_models=tuple(order["sample_models"]),
        target_latency_s=min(order["qos_s"].values()),
        outdir=path.parent,
    )
    models = {name: Path(model) for name, model in order["models"].items()}
    opened = partial(open_backend, order["backend"], order["options"], models, samples, order["cores"])
    check = partial(check_answers, answers=answers, tolerance=order["tolerance"])
    try:
        return serve_rate(run, order["qos_s"], order["drain_s"], opened, check)
    except LoadGenError as error:
        return RateResult(order["qps"], 0, 0.0, 0.0, 0.0, str(error))


def check_answers(backend: RuntimeBackend, answers: Sequence[Samples], tolerance: float) -> None:
    """Raise ValueError unless every session's answer to each sample is right; it is warmed up then."""
    for sample, right in enumerate(answers):
        for answer in backend.answers(sample):
            error = max(relative_error(*pair) for pair in zip(answer, right, strict=True))
            if not error <= tolerance:
                raise ValueError(
                    f"the answer to sample {sample} is off by {error:.2g} relative (allowed: {tolerance:g}); "
                    "run rule `oracle` to find whose is wrong"
                )


def _end_with_parent(alive: int) -> None:
    os.read(alive, 1)  # nobody writes: it returns once the other end is closed
    os._exit(1)


def _main(order: str, alive: str) -> None:
    threading.Thread(target=_end_with_parent, args=(int(alive),), daemon=True).start()
    path = Path(order)
    outcome = serve_order(path)
    (path.parent / OUTCOME_FILE).write_text(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
