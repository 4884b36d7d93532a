"""The speed and the isolation of the service, started as its users start it: results/benchmarks/service.json.

Over loopback, with the client on the same cores. Beside each figure stands the same of a server that
computes nothing. A whole run takes about three minutes on two cores.
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from veltair.compiler.frontend.samples import Samples
from veltair.config import Config
from veltair.evaluation.benchmarks.service.figures import (
    COMMAND,
    added_figures,
    growth_figure,
    isolation_figures,
    loads_figures,
    rejection_figures,
    server_figures,
)
from veltair.evaluation.benchmarks.service.in_process import artifact_of, in_process
from veltair.evaluation.benchmarks.service.measure import (
    READINGS,
    Extent,
    isolation_rounds,
    load_rounds,
    paired_rounds,
    refused_s,
    resident_readings,
    swap_ins_s,
)
from veltair.evaluation.benchmarks.service.networks import dense_network, image_network
from veltair.evaluation.benchmarks.service.senders import Caller, Sender
from veltair.evaluation.benchmarks.service.started import StartedService
from veltair.evaluation.experiment.benchmark_file import BenchmarkResult, median_result, write_benchmark
from veltair.evaluation.remote.connection import Address
from veltair.evaluation.runtimes.remote_server import counted
from veltair.evaluation.runtimes.started_server import null_server

POLICY, PRESET = "veltair.serving.policies.adaptive:VeltairFULL", "tuned"
# The deadline of victim and aggressor; requests a second, of which the victim sends half its quota.
QOS_S, VICTIM_QUOTA, AGGRESSOR_QUOTA = 0.05, 200.0, 50.0
OWNER, VICTIM, AGGRESSOR = "owner", "victim", "aggressor"
# Of weights: two models of 102 MB do not fit together.
MEMORY_MB = 160.0
TENANTS: Mapping[str, Mapping[str, Any]] = {
    OWNER: {"qos_ms": 10_000.0},
    VICTIM: {"qos_ms": 1e3 * QOS_S, "rate": VICTIM_QUOTA},
    AGGRESSOR: {"qos_ms": 1e3 * QOS_S, "rate": AGGRESSOR_QUOTA},
}
SIZES = {"9kb": (24, 32, 2), "600kb": (224, 224, 8)}
"""By the bytes of a request: height, width and stride of a network that computes little."""
MEAN = "_mean_ms"
WORK, HEAVY, CYCLED = "work", ("heavy_1", "heavy_2"), "cycled"


def write_service(config: Config, machine: Path, output: Path) -> None:
    """Measure all figures on this machine, which a file describes, and write them."""
    with TemporaryDirectory(prefix="veltair-") as folder:
        figures = service_figures(machine, Path(folder), Extent(), config.measured.seed)
    write_benchmark(output, figures, config, [machine])


def service_figures(machine: Path, folder: Path, extent: Extent, seed: int) -> dict[str, BenchmarkResult]:
    """Start a service in a folder, upload networks, measure, and end it; print figures as they come."""
    place = folder / "service"
    place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(machine, place / "machine.yaml")
    contents = {size: image_network(*shape) for size, shape in SIZES.items()}
    contents[WORK] = image_network(28, 28, 1, channels=32, convolutions=2)
    owned = [*((OWNER, size) for size in SIZES), (VICTIM, WORK), (AGGRESSOR, WORK)]
    keys = {"memory_mb": MEMORY_MB, "policy": {"path": POLICY, "preset": PRESET}}
    figures: dict[str, BenchmarkResult] = {}

    def take(found: Mapping[str, BenchmarkResult]) -> None:
        figures.update(found)
        for name, one in found.items():
            print(f"{name}: {one.value:.4g} {one.unit}", flush=True)

    with StartedService(place, TENANTS, **keys) as service:
        take(uploads([service.upload_s(tenant, name, contents[name]) for tenant, name in owned]))
        told = [service.metadata(tenant, name) for tenant, name in owned[:-1]]
        with null_server(told, folder / "null") as null:
            nothing = Address.of(null.url)
            take(added(service, place, nothing, contents, extent))
            take(isolation(service, nothing, contents[WORK], extent, seed))
            take(rejections(service, nothing, contents, extent))
        take(loads(service, contents, dense_network(1600, 10), extent, seed))
        take(growth(service, contents["9kb"], extent))
    return figures


def uploads(ready_s: Sequence[float]) -> dict[str, BenchmarkResult]:
    """Return how long small networks took from their first byte until they were ready."""
    unit = f"s from the first byte to ready, own schedules, longest of {len(ready_s)} small networks"
    return {"upload_to_ready_s": BenchmarkResult(max(ready_s), unit, tuple(ready_s), COMMAND)}


def added(
    service: StartedService, place: Path, null: Address, contents: Mapping[str, bytes], extent: Extent
) -> dict[str, BenchmarkResult]:
    """Return what the service adds to the engine in process, by size of body."""
    figures: dict[str, BenchmarkResult] = {}
    for size in SIZES:
        values = values_of(contents[size])
        message = service.request(OWNER, size, values)
        artifact = artifact_of(place, contents[size])
        with (
            Caller(service.address) as served,
            Caller(null) as nothing,
            in_process(artifact, values, POLICY, PRESET, place / "native") as bare,
        ):
            before, cpu_s = service.steps(OWNER, size), service.front_cpu_s()
            rounds = paired_rounds(served, bare, nothing, message, extent)
            cpu_s = service.front_cpu_s() - cpu_s
            steps = counted(before, service.steps(OWNER, size))
        means = {name.removesuffix(MEAN): value for name, value in steps.items() if name.endswith(MEAN)}
        figures |= added_figures(size, rounds)
        figures |= server_figures(size, means, cpu_s, extent.rounds * extent.requests)
    return figures


def isolation(
    service: StartedService, null: Address, content: bytes, extent: Extent, seed: int
) -> dict[str, BenchmarkResult]:
    """Return what a victim at half its quota loses by an aggressor, and what it would by the client alone."""
    values = values_of(content)
    victim = Sender(service.request(VICTIM, WORK, values), VICTIM_QUOTA / 2)
    aggressor = Sender(service.request(AGGRESSOR, WORK, values), AGGRESSOR_QUOTA)
    figures: dict[str, BenchmarkResult] = {}
    for who, address in (("victim", service.address), ("null_victim", null)):
        rounds, late_s = isolation_rounds(address, victim, aggressor, extent, seed)
        for one in rounds:
            codes = {times: load.codes for times, load in one.items()}
            print(f"{who}: answers by code, by times of the aggressor's quota: {codes}", flush=True)
        figures |= isolation_figures(who, rounds, QOS_S)
        late = [1e3 * one for one in late_s]
        text = "ms, p99 of what requests were sent late by the client, of slots"
        figures[f"{who}_client_late_p99_ms"] = median_result(late, text, COMMAND)
    return figures


def rejections(
    service: StartedService, null: Address, contents: Mapping[str, bytes], extent: Extent
) -> dict[str, BenchmarkResult]:
    """Return how soon a request beyond a quota, and one that would be late, is refused."""
    size = next(iter(SIZES))
    beyond = service.request(AGGRESSOR, WORK, values_of(contents[WORK]))
    late = service.request(OWNER, size, values_of(contents[size]), {"timeout": 1})
    with ExitStack() as stack:
        ours, nothing = (stack.enter_context(Caller(one)) for one in (service.address, null))
        found = {
            429: refused_s(ours, beyond, 429, extent.refusals),
            503: refused_s(ours, late, 503, extent.refusals),
        }
        floor = refused_s(nothing, late, 200, extent.refusals)
    return rejection_figures(found, floor)


def loads(
    service: StartedService, contents: Mapping[str, bytes], heavy: bytes, extent: Extent, seed: int
) -> dict[str, BenchmarkResult]:
    """Return what loads of models cost who asks for them, and others."""
    built_s = [service.upload_s(OWNER, name, heavy) for name in HEAVY]
    text = "s from the first byte to ready, a network of 102 MB of dense layers"
    figures = {"upload_to_ready_s_102mb": BenchmarkResult(built_s[0], text, (built_s[0],), COMMAND)}
    victim = Sender(service.request(VICTIM, WORK, values_of(contents[WORK])), VICTIM_QUOTA / 2)
    rounds, count = load_rounds(service, victim, OWNER, HEAVY[0], extent, seed)
    figures |= loads_figures(rounds, count, QOS_S)
    for quiet, busy in rounds:
        print(f"answers by code, none loads: {quiet.codes}; models load: {busy.codes}", flush=True)
    messages = {name: service.request(OWNER, name, values_of(heavy)) for name in HEAVY}
    with Caller(service.address) as caller:
        added_s = swap_ins_s(dict.fromkeys(HEAVY, caller), messages, extent.swaps)
    unit = f"ms longer for a model of 102 MB that is loaded first, kept by the system, {len(added_s)} loads"
    figures["swap_in_ms_102mb"] = median_result([1e3 * one for one in added_s], unit, COMMAND)
    return figures


def growth(service: StartedService, content: bytes, extent: Extent) -> dict[str, BenchmarkResult]:
    """Return how much the engine's memory grows by loads and unloads."""
    service.upload_s(OWNER, CYCLED, content)
    readings = resident_readings(service, OWNER, CYCLED, extent.cycles)
    found = growth_figure(readings, max(1, READINGS // 10), extent.cycles)
    return {"rss_growth_loads": found}


def values_of(content: bytes) -> Samples:
    """Return random inputs of a network with one input."""
    (given,) = onnx.load_model_from_string(content).graph.input
    shape = [one.dim_value for one in given.type.tensor_type.shape.dim]
    return (np.random.default_rng(0).standard_normal(shape, dtype=np.float32),)
