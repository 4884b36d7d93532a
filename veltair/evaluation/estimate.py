"""How many jobs a configuration is and how long they take, from tables, before anything starts."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, log2

from veltair.compiler.progress import SECONDS_PER_TRIAL
from veltair.config import Config
from veltair.evaluation.layout import HOST, SHIPPED_COSTS
from veltair.evaluation.study import LOADS
from veltair.machine.described import described
from veltair.machine.tables import Tables, read_tables

# What one unit of each kind of work took on the machine of the shipped tables (2 cores, with LLVM's
# compile time
# and the simulator's events as `snakemake --cores all benchmarks_main` and the logs of a run tell them).
BUILD_S_PER_VERSION = 0.35
LAYER_ENDS_PER_S = 60_000.0
START_S = 4.0  # Python, TVM and LoadGen come up
# Layers and versions of a model that has no tables yet: those of ResNet-50.
UNKNOWN = "resnet50"


@dataclass(frozen=True, slots=True)
class Work:
    """Jobs of one kind: how many, how long all of them take on one core, and whether they need it alone."""

    kind: str
    jobs: int
    seconds: float
    exclusive: bool


def estimate(config: Config) -> list[Work]:
    """Return the work of a configuration by kind, as if nothing were done yet."""
    tables = read_tables(SHIPPED_COSTS)
    return [*_compile(config, tables), *_simulate(config, tables), *_measure(config, tables)]


def hours(work: list[Work], cores: int) -> float:
    """Return the hours of all work on some cores: exclusive jobs one by one, the others side by side."""
    alone = sum(part.seconds for part in work if part.exclusive)
    shared = sum(part.seconds for part in work if not part.exclusive)
    return (alone + shared / cores) / 3600.0


def _like(tables: Tables, model: str) -> str:
    return model if model in tables.layers else UNKNOWN


def _compile(config: Config, tables: Tables) -> Iterator[Work]:
    if config.profile.costs == "shipped":
        return
    names = [_like(tables, name) for name in config.models]
    structures = {layer.structure: layer for name in names for layer in tables.layers[name]}
    versions = len(structures) * config.select.count
    if not config.search.reuse:
        seconds = len(structures) * config.search.trials * SECONDS_PER_TRIAL
        yield Work("search", 1, seconds, exclusive=True)
    yield Work("build", len(names), versions * BUILD_S_PER_VERSION, exclusive=False)
    latency_s = {name: tables.costs.isolated_latency_s(name) for name in set(names)}
    runs = sum(len(tables.layers[name]) * config.select.count * latency_s[name] for name in names)
    yield Work("compare with ONNX Runtime", len(names), runs + START_S * len(names), exclusive=False)
    counts = len(config.profile.cores) if config.profile.cores != "all" else tables.machine.cores
    cells = counts * len(config.profile.levels) * config.select.count
    passes = sum(latency_s[name] * tables.machine.cores for name in names) * config.profile.repeats
    yield Work("profile", 1, cells * passes + START_S, exclusive=True)


def _simulate(config: Config, tables: Tables) -> Iterator[Work]:
    if not config.simulated.enabled and not config.measured.enabled:
        return
    simulated = config.simulated
    # Bracketing by doubling, bisection, checks; then the minimum over models, which reuses most rates.
    rates = ceil(log2(1.0 / simulated.resolution)) + 10
    sites = [(machine, name) for machine in simulated.machines for name in simulated.workloads]
    layer_ends = 0.0
    for _, workload in sites:
        weights = config.workloads[workload]
        layers = sum(len(tables.layers[_like(tables, name)]) * weight for name, weight in weights.items())
        layer_ends += simulated.queries * layers / sum(weights.values())
    runs = len(config.policies) * len(simulated.seeds)
    jobs = len(config.policies) * len(sites)
    yield Work(
        "simulate: QPS at 95 % QoS", jobs, runs * rates * layer_ends / LAYER_ENDS_PER_S, exclusive=False
    )
    loads = len(LOADS) + 1
    yield Work("simulate: shared loads", jobs, runs * loads * layer_ends / LAYER_ENDS_PER_S, exclusive=False)
    for machine in simulated.machines:
        if machine != HOST:
            described(machine)


def _measure(config: Config, tables: Tables) -> Iterator[Work]:
    if not config.measured.enabled:
        return
    slowest_s = max(
        max(
            config.models[name].qos_ms / 1e3,
            config.qos.relax * tables.costs.isolated_latency_s(_like(tables, name)),
        )
        for name in config.models
    )
    jobs = len(config.policies) * len(config.measured.workloads)
    drain_s = slowest_s * config.simulated.drain_qos
    seconds = jobs * (START_S + config.measured.max_rates * (config.measured.seconds + drain_s + START_S))
    yield Work("measure on this machine", jobs, seconds, exclusive=True)
