"""How many jobs a configuration is and how long they take, from tables, before anything starts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, log2

from veltair.compiler.frontend.model import Model
from veltair.compiler.select.store import FEW, SECONDS_PER_TRIAL
from veltair.config import Config
from veltair.evaluation.experiment.layout import HOST, SHIPPED_COSTS, Layout
from veltair.evaluation.experiment.scenario import policy_maker
from veltair.evaluation.metrics.resampling import LEAST_ROUNDS
from veltair.evaluation.simulation.run import LEAST_RUN_QOS
from veltair.evaluation.simulation.sensitivity_cells import sensitivity_cells
from veltair.machine.costs.folder import Tables, read_tables
from veltair.machine.topology.described import described
from veltair.serving.loop.policy import Context
from veltair.serving.policies.native_spec import spec_of

# What one unit of each kind of work took on the machine of the shipped tables: 2 cores, with LLVM's compile
# time and the simulator's events as `benchmarks_simulator` and the logs of a run tell them.
BUILD_S_PER_VERSION = 0.35
LAYER_ENDS_PER_S = 1_300_000.0  # of policies that C decides for
# Of others, called in Python: those of `baselines` at 0.6 of the bound end 30 000 (DREAM) to 370 000 a
# second, 140 000 all together; beyond their capacity, where a search asks too, queues are longer.
CALLED_LAYER_ENDS_PER_S = 70_000.0
CELL_S = 3.0  # a job of a simulation comes up and reads its tables
DRAWING_S = 60.0  # all figures of the study
MINIMUM_RATES = 6
START_S = 4.0  # Python, TVM and LoadGen come up
SLOT_START_S = 0.3  # LoadGen comes up, and writes its logs
ANY_QOS_S = 1.0  # of a policy that is only asked who decides for it
# A model that the tables lack counts as this one, or as the longest where they lack this one too.
UNKNOWN = "resnet50"


@dataclass(frozen=True, slots=True)
class Work:
    """Jobs of one kind: how many, how long all of them take on one core, and whether they need it alone."""

    kind: str
    jobs: int
    seconds: float
    exclusive: bool


def estimate(config: Config, tables: Tables | None = None) -> list[Work]:
    """Return the work of a configuration by kind, as if nothing were done yet.

    It is told from `tables`, those that are shipped unless others are given.
    """
    tables = tables or read_tables(SHIPPED_COSTS)
    runs = _Runs(config, tables, _deciding_in_c(config, tables))
    return [*_compile(config, tables), *_simulate(runs), *_measure(config, tables)]


def hours(work: list[Work], cores: int) -> float:
    """Return the hours of all work on some cores: exclusive jobs one by one, the others side by side."""
    alone = sum(part.seconds for part in work if part.exclusive)
    shared = sum(part.seconds for part in work if not part.exclusive)
    return (alone + shared / cores) / 3600.0


def _like(tables: Tables, model: str) -> str:
    longest = max(tables.layers, key=lambda name: len(tables.layers[name]))
    return next(name for name in (model, UNKNOWN, longest) if name in tables.layers)


def _compile(config: Config, tables: Tables) -> Iterator[Work]:
    if config.profile.costs == "shipped":
        return
    names = [_like(tables, name) for name in config.models]
    structures = {layer.structure: layer for name in names for layer in tables.layers[name]}
    versions = len(structures) * config.select.count
    if searched := _searched(config, tables):
        each = 2 * FEW if config.search.reuse and config.search.missing == "own" else config.search.trials
        yield Work("search", 1, searched * each * SECONDS_PER_TRIAL, exclusive=True)
    yield Work("build", len(names), versions * BUILD_S_PER_VERSION, exclusive=False)
    latency_s = {name: tables.costs.isolated_latency_s(name) for name in set(names)}
    runs = sum(len(tables.layers[name]) * config.select.count * latency_s[name] for name in names)
    yield Work("compare with ONNX Runtime", len(names), runs + START_S * len(names), exclusive=False)
    counts = len(config.profile.cores) if config.profile.cores != "all" else tables.machine.cores
    cells = counts * len(config.profile.levels) * config.select.count
    passes = sum(latency_s[name] * tables.machine.cores for name in names) * config.profile.repeats
    yield Work("profile", 1, cells * passes + START_S, exclusive=True)


def _searched(config: Config, tables: Tables) -> int:
    """Return how many layer structures are searched: of all models, or of those that the tables lack."""
    if config.search.reuse and config.search.missing == "error":
        return 0
    names = [name for name in config.models if not config.search.reuse or name not in tables.layers]
    return len({layer.structure for name in names for layer in tables.layers[_like(tables, name)]})


def _deciding_in_c(config: Config, tables: Tables) -> frozenset[str]:
    """Return the policies whose decisions C makes, under their options: all others are called in Python."""
    models = {name: Model(name, layers, ANY_QOS_S) for name, layers in tables.layers.items()}
    context, found = Context(models, tables.costs, tables.machine), set[str]()
    for name in config.policies if config.simulated.enabled else ():
        try:
            policy = policy_maker(config, name)(context)
        except Exception:  # what is wrong with it is told where it is to run
            continue
        if spec_of(policy) is not None:
            found.add(name)
    return frozenset(found)


def _simulate(runs: "_Runs") -> Iterator[Work]:
    config = runs.config
    if not config.simulated.enabled:
        return
    simulated, policies = config.simulated, Layout(config).compared
    sites = [(machine, name) for machine in simulated.machines for name in simulated.workloads]
    jobs = len(policies) * len(sites)
    run_s = sum(runs.seconds(policy, *site) for policy in policies for site in sites)
    seconds = len(simulated.seeds) * run_s
    # The minimum over models reuses most rates of the pooled search.
    rates = _rates(simulated.resolution) + MINIMUM_RATES
    yield Work("simulate: QPS at 95 % QoS", jobs, jobs * CELL_S + rates * seconds, exclusive=False)
    loads = len(simulated.loads) + 1
    yield Work("simulate: shared loads", jobs, jobs * CELL_S + loads * seconds, exclusive=False)
    if config.study.enabled:
        yield from _study(runs)


def _study(runs: "_Runs") -> Iterator[Work]:
    config = runs.config
    study, simulated = config.study, config.simulated
    site = (study.machine, study.workload)

    def seconds(policies: Sequence[str], machine: str = site[0], workload: str = site[1]) -> float:
        return sum(runs.seconds(policy, machine, workload) for policy in policies)

    asked = study.granularity
    if asked.policies:
        count = len(asked.loads) * len(simulated.seeds)
        jobs = len(asked.policies)
        yield Work(
            "study: granularity", jobs, jobs * CELL_S + count * seconds(asked.policies), exclusive=False
        )
    if policies := study.noisy_neighbour.policies:
        # Each factor adds that much of one tenant's queries to those of all.
        factors, mix = study.noisy_neighbour.factors, config.mixes[study.neighbours]
        more = len(factors) + sum(factors) / len(mix)
        work_s = more * len(simulated.seeds) * seconds(policies, workload=study.neighbours)
        yield Work("study: noisy neighbour", len(policies), len(policies) * CELL_S + work_s, exclusive=False)
    if policies := study.equal_drops.policies:
        jobs = len(policies) * len(simulated.workloads)
        rates = (_rates(simulated.resolution) + MINIMUM_RATES) * len(simulated.seeds)
        work_s = rates * sum(seconds(policies, workload=workload) for workload in simulated.workloads)
        yield Work("study: one rule for late queries", jobs, jobs * CELL_S + work_s, exclusive=False)
    # Fewer or more queries than in the comparison of policies.
    part = (study.queries or simulated.queries) / simulated.queries
    runs_s = part * len(study.seeds or simulated.seeds) * _rates(study.resolution or simulated.resolution)
    cells = {path: cell for cell, path in sensitivity_cells(config).items()}
    if cells:
        work_s = runs_s * sum(
            seconds(config.sensitivity[cell.assumption].policies or study.policies, workload=cell.workload)
            for cell in cells.values()
        )
        yield Work("study: sensitivity", len(cells), len(cells) * CELL_S + work_s, exclusive=False)
    if study.scale:
        work_s = runs_s * sum(seconds(study.policies, machine) for machine in study.scale)
        yield Work("study: scale", len(study.scale), len(study.scale) * CELL_S + work_s, exclusive=False)
    others = sum(runs.seconds(policy, *site) for policy in study.conflicts.policies)
    yield Work(
        "study: conflicts, layers, tables, figures", 4, 4 * CELL_S + others + DRAWING_S, exclusive=False
    )


def _rates(resolution: float) -> int:
    """Return the rates of a search: the bracket by doubling, its halvings, the checks."""
    return ceil(log2(1.0 / resolution)) + 7


@dataclass(frozen=True, slots=True)
class _Runs:
    """Simulated runs of a configuration; `in_c` are the policies whose decisions C makes."""

    config: Config
    tables: Tables
    in_c: frozenset[str]

    def seconds(self, policy: str, machine_name: str, workload: str) -> float:
        """Return the seconds that one rate takes: its layer ends at the speed of the policy.

        A run has at least so many queries, and lasts `LEAST_RUN_QOS` x the longest target at least.
        """
        config, tables = self.config, self.tables
        weights, simulated = config.models_of(workload), config.simulated
        like = {name: _like(tables, name) for name in weights}
        machine = tables.machine if machine_name == HOST else described(machine_name)
        faster = machine.cores * machine.core_peak_flops
        faster /= tables.machine.cores * tables.machine.core_peak_flops
        latency_s = {name: tables.costs.isolated_latency_s(like[name]) / faster for name in weights}
        total = sum(weights.values())
        mean_s = sum(latency_s[name] * weight for name, weight in weights.items()) / total
        longest_s = max(
            max(config.models[name].qos_ms / 1e3, config.qos.relax * latency_s[name]) for name in weights
        )
        queries = max(simulated.queries, LEAST_RUN_QOS * longest_s / mean_s)
        layers = sum(len(tables.layers[like[name]]) * weight for name, weight in weights.items()) / total
        return queries * layers / (LAYER_ENDS_PER_S if policy in self.in_c else CALLED_LAYER_ENDS_PER_S)


def _measure(config: Config, tables: Tables) -> Iterator[Work]:
    if not config.measured.enabled:
        return
    measured, policies = config.measured, len(Layout(config).compared)
    seconds = 0.0
    for workload in measured.workloads:
        weights = config.models_of(workload)
        alone_s = sum(
            weight * tables.costs.isolated_latency_s(_like(tables, name)) for name, weight in weights.items()
        ) / sum(weights.values())
        # A slot lasts at least so long, and has at least so many queries.
        slots_s = sum(max(measured.seconds, measured.queries * alone_s / share) for share in measured.shares)
        round_s = policies * (slots_s + SLOT_START_S * len(measured.shares))
        seconds += START_S + max(60.0 * measured.minutes, LEAST_ROUNDS * round_s)
    yield Work("measure on this machine", len(measured.workloads), seconds, exclusive=True)
