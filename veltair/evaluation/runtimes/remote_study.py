"""Servers over HTTP under LoadGen, all at the same rates in the same rounds, beside one that only answers.

What that one takes is the client's floor: the time of the protocol, the client and the network.
"""

import json
import os
import queue
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
from numpy.typing import NDArray

from veltair.compiler.frontend.samples import Samples, random_samples, read_inputs
from veltair.config import Config
from veltair.config.remote_keys import NULL_SERVER
from veltair.config.remote_keys import RemoteServer as ServerKeys
from veltair.evaluation.experiment.layout import HOST
from veltair.evaluation.experiment.tables_io import provenance_of, write_csv
from veltair.evaluation.loadgen.arrivals import share_samples
from veltair.evaluation.measurement.rounds import Attempt, Rounds, Server, attempt_rows, kept_records
from veltair.evaluation.measurement.run import SAMPLES_PER_MODEL
from veltair.evaluation.measurement.slots import Grid
from veltair.evaluation.metrics.measured_tables import slot_counts
from veltair.evaluation.remote.client import Client
from veltair.evaluation.remote.connection import Address, AddressError, Answer
from veltair.evaluation.remote.server_facts import Remote, RemoteError, tensors_of
from veltair.evaluation.runtimes.process import Field, write_field_samples
from veltair.evaluation.runtimes.registry import Runtime
from veltair.evaluation.runtimes.remote_page import Alone, remote_page
from veltair.evaluation.runtimes.remote_server import OK, bearer, check_remote, tensor_names
from veltair.evaluation.runtimes.server import RuntimeServer
from veltair.evaluation.runtimes.started_server import null_server, rival
from veltair.provenance import write_atomically, write_parquet
from veltair.wire.messages import ModelMetadata, TensorMetadata

Examples = Mapping[str, tuple[Samples, tuple[NDArray[Any], ...]]]
ALONE_TIMES = 5
LEAST_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class _Asked:
    """What all servers are asked: ONNX files by name, and each sample with its right answer."""

    workload: str
    models: Mapping[str, Path]
    sample_models: tuple[str, ...]
    samples: Sequence[tuple[Samples, tuple[NDArray[Any], ...]]]

    @property
    def examples(self) -> Examples:
        """A sample of each model."""
        return dict(zip(self.sample_models, self.samples, strict=True))


def measure_remote(config: Config, models: Mapping[str, str], table: Path, records: Path, page: Path) -> None:
    """Measure the servers of `remote`, and write a table of slots, all query records, and a page.

    `models` are the ONNX files. The workload is the first one that the configuration measures; targets are
    `qos_ms` as they are. Raises RemoteError before any run if a server is not there, or has other models.
    """
    asked = _checked(config, models)
    with TemporaryDirectory() as name, _opened(config, asked, Path(name)) as (takers, alone):
        best_qps = max(
            one.sequential_qps(asked.sample_models) for key, one in alone.items() if key != NULL_SERVER
        )
        grid = Grid(config.measured.shares, best_qps, config.measured.seed)
        rounds = Rounds(grid, 60.0 * config.measured.minutes, Path(name) / "rounds")
        attempts = rounds.measure(takers)
    _write(config, asked, alone, attempts, table, records, page)


def _checked(config: Config, models: Mapping[str, str]) -> _Asked:
    """Return what is asked, once all servers of the configuration have the models."""
    servers = [_remote(keys) for keys in config.remote.servers.values()]
    for remote in servers:
        remote.get(f"{remote.address.path}/v2/health/ready")
    asked = _asked(config, models)
    for remote in servers:
        check_remote(remote, asked.models, asked.examples)
    return asked


def _remote(keys: ServerKeys) -> Remote:
    try:
        address = Address.of(keys.url)
    except AddressError as error:
        raise RemoteError(str(error)) from None
    return Remote(address, keys.encoding == "binary", keys.names, keys.version, bearer(keys.token_variable))


def _asked(config: Config, models: Mapping[str, str]) -> _Asked:
    workload = config.measured.workloads[0]
    weights = config.models_of(workload)
    paths = {model: Path(models[model]) for model in weights}
    sessions = {
        model: onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for model, path in paths.items()
    }
    inputs = {
        model: read_inputs(onnx.load(str(path), load_external_data=False), model)
        for model, path in paths.items()
    }
    sample_models = share_samples(weights, SAMPLES_PER_MODEL)
    samples = []
    for number, model in enumerate(sample_models):
        values = random_samples(inputs[model], [config.measured.seed, number])
        given = {one.name: value for one, value in zip(inputs[model], values, strict=True)}
        samples.append((values, tuple(sessions[model].run(None, given))))
    return _Asked(workload, paths, sample_models, samples)


@contextmanager
def _opened(
    config: Config, asked: _Asked, folder: Path
) -> Iterator[tuple[dict[str, Server], dict[str, Alone]]]:
    """Give all servers, ready, and how long each takes for a request alone."""
    keys = dict(config.remote.servers)
    cores = tuple(sorted(os.sched_getaffinity(0)))
    with ExitStack() as stack:
        null = stack.enter_context(null_server(_described(asked), folder / "null-server"))
        for name in config.remote.rivals:
            place, environments = folder / f"{name}-server", Path(config.remote.environments)
            try:
                url = stack.enter_context(rival(name, asked.models, len(cores), environments, place)).url
            except RemoteError as error:
                print(f"{name} is left out: {error}", flush=True)
                continue
            keys[name] = ServerKeys(url=url, encoding="json" if name in JSON_ONLY else "binary")
        if not keys:
            raise RemoteError("no server is left to be measured; the lines above say why")
        alone = {name: _alone(_remote(one), asked) for name, one in keys.items()}
        null_keys = ServerKeys(url=null.url)
        alone[NULL_SERVER] = _alone(_remote(null_keys), asked)
        field = _field(config, asked, cores, folder / "samples")
        zeros = _field(config, _zeroed(asked), cores, folder / "null-samples")
        takers: dict[str, Server] = {}
        for server, one in {**keys, NULL_SERVER: null_keys}.items():
            runtime = Runtime(server, (), "remote", _options(config, one, field))
            own = zeros if server == NULL_SERVER else field
            takers[server] = stack.enter_context(RuntimeServer(own, runtime, folder / server))
        yield takers, alone


# Of rivals that do not have the extension for binary data over HTTP.
JSON_ONLY = ("mlserver",)


def _options(config: Config, keys: ServerKeys, field: Field) -> dict[str, Any]:
    return {
        **keys.model_dump(mode="json"),
        "timeout_s": max(LEAST_TIMEOUT_S, field.drain_s),
        "connections": config.remote.connections,
        "tolerance": config.oracle.tolerance,
    }


def _field(config: Config, asked: _Asked, cores: tuple[int, ...], folder: Path) -> Field:
    write_field_samples(folder, asked.samples)
    qos_s = {model: config.models[model].qos_ms / 1e3 for model in asked.models}
    return Field(
        models={model: path.resolve() for model, path in asked.models.items()},
        samples=folder,
        sample_models=asked.sample_models,
        qos_s=qos_s,
        cores=cores,
        seconds=config.measured.seconds,
        queries=config.measured.queries,
        drain_s=config.simulated.drain_qos * max(qos_s.values()),
        tolerance=config.oracle.tolerance,
        machine=HOST,
        validated=True,
        workload=asked.workload,
    )


def _zeroed(asked: _Asked) -> _Asked:
    """Return the same with the answers of the null server."""
    samples = [(values, tuple(map(np.zeros_like, answer))) for values, answer in asked.samples]
    return replace(asked, samples=samples)


def _described(asked: _Asked) -> list[ModelMetadata]:
    described = []
    for model, (values, answer) in asked.examples.items():
        inputs, outputs = tensor_names(asked.models[model])
        told = [
            [TensorMetadata(one.name, one.datatype, list(one.shape)) for one in tensors_of(names, arrays)]
            for names, arrays in ((inputs, values), (outputs, answer))
        ]
        described.append(ModelMetadata(model, ["1"], "null", *told))
    return described


def _alone(remote: Remote, asked: _Asked) -> Alone:
    """Return the median seconds of a request of each model with no other under way.

    Raises RemoteError if one is not answered.
    """
    found: queue.SimpleQueue[tuple[float, Answer | Exception]] = queue.SimpleQueue()
    client = Client(
        remote.address, 60.0, lambda number, start_s, answer: found.put((time.monotonic() - start_s, answer))
    )
    try:
        times = {}
        for model, (values, _) in asked.examples.items():
            names, outputs = tensor_names(asked.models[model])
            request = remote.request(model, tensors_of(names, values), outputs)
            seconds = []
            for number in range(1 + ALONE_TIMES):
                client.send(number, request)
                took_s, answer = found.get()
                if isinstance(answer, Exception) or answer.code != OK:
                    told = (
                        answer if isinstance(answer, Exception) else f"{answer.code}: {answer.body[:200]!r}"
                    )
                    raise RemoteError(f"http://{remote.address.authority} did not answer {model}: {told}")
                seconds.append(took_s)
            times[model] = statistics.median(seconds[1:])
        return Alone(times, len(request), client.is_loopback)
    finally:
        client.stop()


def _write(
    config: Config,
    asked: _Asked,
    alone: Mapping[str, Alone],
    attempts: Sequence[Attempt],
    table: Path,
    records: Path,
    page: Path,
) -> None:
    kept = kept_records(attempts)
    rows = [
        {"workload": asked.workload, **row, **_columns(one.served.facts)}
        for row, one in zip(attempt_rows(attempts), attempts, strict=True)
    ]
    slots = pd.DataFrame(rows)
    provenance = provenance_of(config, list(asked.models.values()), seed=config.measured.seed)
    write_parquet(records, kept, provenance)
    write_csv(table, slots, provenance)
    generator = np.random.default_rng(config.measured.seed)
    counts = slot_counts(kept, slots)
    lines = remote_page(kept, slots, counts, alone, config.qos.satisfaction, generator)
    write_atomically({page: "\n".join([*lines, ""]).encode()})


def _columns(facts: Mapping[str, Any]) -> dict[str, Any]:
    misses = facts.get("misses", {})
    return {
        "client_cpu_s": facts.get("cpu_s", 0.0),
        "connections_opened": facts.get("connections_opened", 0),
        "misses": sum(misses.values()),
        "miss_reasons": "; ".join(f"{reason} ({count})" for reason, count in misses.items()),
        "server_counts": json.dumps(facts.get("server", {}), sort_keys=True),
    }
