"""The model of a service on the engine in this process: what a request takes without the service."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from veltair.compiler.frontend.model import Model
from veltair.compiler.frontend.samples import Samples
from veltair.evaluation.benchmarks.native_engine import opened
from veltair.machine.costs.folder import read_tables
from veltair.machine.models.buffers import layers_of
from veltair.machine.models.library import LoadedModel
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import Sample, on_cores
from veltair.serving.loop.policy import Context
from veltair.serving.policies.presets import make_policy

QOS_S = 10.0


def artifact_of(folder: Path, content: bytes) -> Path:
    """Return the folder in that of a service where lies what it built of a model. Raises LookupError."""
    for model in folder.glob("store/models/*/model.onnx"):
        if model.read_bytes() == content:
            return model.parent
    raise LookupError(f"{folder} has no such model")


@contextmanager
def in_process(
    artifact: Path, values: Samples, policy: str, preset: str, build_dir: Path
) -> Iterator[Callable[[], float]]:
    """Give what serves one request by a policy, and returns the seconds from its arrival to its end.

    Inputs are copied in and the answer is compared, as in every run of the engine.
    """
    tables = read_tables(artifact / "tables")
    (name,) = tables.costs.models
    model = LoadedModel(artifact / "build")
    context = Context({name: Model(name, layers_of(model.plan), QOS_S)}, tables.costs, tables.machine)
    instance = model.instance()
    with on_cores(tables.machine.core_ids):
        instance.set_inputs(values)
        right = tuple(instance.run([int(one) for one in tables.costs.model(name).solo]))
    launch = partial(NativePool, build_dir=build_dir)
    with opened(context, {name: model}, [(name, Sample(values, right))], launch) as engine:
        engine.warm_up()

        def ask() -> float:
            engine.begin(make_policy(policy, context, preset, {}))
            engine.arrive(0, 0, time.monotonic())
            engine.flush()
            (record,) = engine.serve()
            return record.latency_s

        yield ask
