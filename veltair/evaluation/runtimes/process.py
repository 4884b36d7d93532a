"""A runtime in a process of its own, which stays up and serves one slot after the other.

Run as `python -m veltair.evaluation.runtimes.process FIELD ORDERS OUTCOMES`, it reads what it serves, loads
the models and checks the answers to all samples. Then it reads an order a line from the pipe ORDERS, serves
LoadGen's queries, writes the records into the folder of the order, and an outcome a line into OUTCOMES.
"""

import json
import os
import queue
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from veltair.compiler.frontend.samples import Samples, relative_error
from veltair.evaluation.loadgen.client_runs import ServerRun
from veltair.evaluation.loadgen.logs import LoadGenError
from veltair.evaluation.measurement.core_use import core_times
from veltair.evaluation.measurement.run_quality import run_quality
from veltair.evaluation.measurement.write_run import QUERIES, write_run
from veltair.evaluation.metrics.capacity import warmup_s
from veltair.evaluation.metrics.policies_table import MEASURED
from veltair.evaluation.metrics.records import Run, to_frame
from veltair.evaluation.runtimes.query_tracker import Relay, serve_run
from veltair.evaluation.runtimes.registry import RuntimeBackend, open_backend
from veltair.evaluation.runtimes.timed_process import read_samples, write_samples

SETTLE_S = 60.0  # longer than any queue of a slot takes


@dataclass(frozen=True, slots=True)
class Field:
    """What all runtimes are given alike, in every slot.

    `models` are ONNX files by name; `samples` is a folder, see `write_field_samples`; `sample_models` names
    the model of each sample. A slot lasts `seconds` and has as many `queries`, both at least. Answers may
    differ by a relative error of `tolerance`. `machine`, `validated` and `workload` name the runs.
    """

    models: Mapping[str, Path]
    samples: Path
    sample_models: tuple[str, ...]
    qos_s: Mapping[str, float]
    cores: tuple[int, ...]
    seconds: float
    queries: int
    drain_s: float
    tolerance: float
    machine: str
    validated: bool
    workload: str


@dataclass(frozen=True, slots=True)
class Order:
    """One slot to serve: its rate and schedule, and where its logs and records go."""

    qps: float
    seed: int
    folder: str


def write_field_samples(folder: Path, samples: Sequence[tuple[Samples, tuple[NDArray[Any], ...]]]) -> None:
    """Write the inputs and the right answer of each sample index."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (values, answer) in enumerate(samples):
        write_samples(folder / f"{number}.npz", values)
        write_samples(folder / f"{number}_answer.npz", answer)


def field_text(field: Field, name: str, backend: str, options: Mapping[str, Any]) -> str:
    """Return what a process is told of its runtime and of what it serves, as JSON."""
    return json.dumps(
        {"field": asdict(field), "name": name, "backend": backend, "options": dict(options)}, default=str
    )


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


class ServedRuntime:
    """A runtime that was opened and checked in this process, which keeps to its cores from then on."""

    def __init__(self, field: Field, name: str, backend: str, options: Mapping[str, Any]) -> None:
        """Load the models. Raises ValueError if an answer is wrong."""
        os.sched_setaffinity(0, field.cores)
        self._field, self._name, self._relay = field, name, Relay()
        folder, samples, answers = Path(field.samples), [], []
        for number, model in enumerate(field.sample_models):
            samples.append((model, read_samples(folder / f"{number}.npz")))
            answers.append(read_samples(folder / f"{number}_answer.npz"))
        models = {model: Path(path) for model, path in field.models.items()}
        self._backend = open_backend(backend, options, models, samples, field.cores, self._relay.done)
        check_answers(self._backend, answers, field.tolerance)

    def serve(self, order: Order) -> dict[str, Any]:
        """Serve a slot, write its records, and return how well it could be measured.

        The outcome of one in which LoadGen failed has `failure` only.
        """
        field, folder = self._field, Path(order.folder)
        run = ServerRun(
            qps=order.qps,
            min_duration_ms=round(1e3 * field.seconds),
            min_query_count=field.queries,
            seed=order.seed,
            sample_models=field.sample_models,
            target_latency_s=min(field.qos_s.values()),
            outdir=folder,
        )
        begin = core_times(field.cores)
        try:
            records, summary = serve_run(run, field.qos_s, field.drain_s, self._backend, self._relay)
        except LoadGenError as error:
            return {"failure": str(error)}
        finally:
            self._relay.settle(SETTLE_S)
        use = begin.until(core_times(field.cores), len(field.cores))
        joined = summary.join(records, 0.0)
        first_s, last_s = joined[0].query.arrival_s, joined[-1].query.arrival_s
        count_from_s = first_s + warmup_s(last_s - first_s, max(field.qos_s.values()))
        named = Run(
            *(MEASURED, field.machine, field.validated, field.workload),
            *(self._name, order.qps, order.seed),
        )
        write_run(to_frame(joined, named, count_from_s), summary.verdicts, folder / QUERIES)
        return {"quality": asdict(run_quality(summary, use))}


def _read_orders(orders: int, found: "queue.SimpleQueue[Order]") -> None:
    with os.fdopen(orders) as lines:
        for line in lines:
            found.put(Order(**json.loads(line)))
    os._exit(1)  # whoever gave orders is gone


def _main(path: str, orders: str, outcomes: str) -> None:
    found: queue.SimpleQueue[Order] = queue.SimpleQueue()
    threading.Thread(target=_read_orders, args=(int(orders), found), daemon=True).start()
    given = json.loads(Path(path).read_text(encoding="utf-8"))
    field = given["field"]
    for name in ("sample_models", "cores"):
        field[name] = tuple(field[name])
    runtime = ServedRuntime(Field(**field), given["name"], given["backend"], given["options"])
    with os.fdopen(int(outcomes), "w") as lines:
        print(json.dumps({}), file=lines, flush=True)  # ready
        while True:
            print(json.dumps(runtime.serve(found.get())), file=lines, flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
