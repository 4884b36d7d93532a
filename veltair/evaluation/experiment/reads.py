"""Which keys of the configuration steps read, by what they are about: rules declare these.

Too few are an error when the step runs (`config/part.py`), too many only repeat a step without need.
"""

from collections.abc import Iterable

from veltair.config import Config
from veltair.config.part import Key
from veltair.config.study_keys import Simulated
from veltair.evaluation.experiment.layout import HOST

# Where cost tables lie.
TABLES: tuple[Key, ...] = (("results",), ("profile", "costs"))
# What a described machine is assumed to be, and which noise it has.
ASSUMED_MACHINE = (
    *("core_unit", "steepness", "clock", "links", "link_bandwidth"),
    *("residency", "warm_weights", "noise"),
)
# What runs there are, not what one of them is.
RUNS = ("enabled", "machines", "workloads", "loads")
# Of the search for the highest rate, and of the loads that are shares of it.
SEARCH, LOADS = ("simulated", "resolution"), ("simulated", "loads")


def scenario_keys(config: Config, workloads: Iterable[str]) -> list[Key]:
    """Return the keys of some workloads on any machine: their tenants, and their models with targets."""
    named = list(workloads)
    models = dict.fromkeys(model for workload in named for model in config.models_of(workload))
    return [
        ("qos",),
        *(("tenants" if config.tenants_of(name) else "workloads", name) for name in named),
        *(("models", model, "qos_ms") for model in models),
    ]


def policy_keys(config: Config, policies: Iterable[str]) -> list[Key]:
    """Return the keys of some policies; that of the run's preset only if one of them goes by it."""
    named = list(policies)
    by_run = any(config.policies[name].preset is None for name in named)
    return [*(("policies", name) for name in named), *([("preset",)] if by_run else [])]


def assumption_keys(machines: Iterable[str]) -> list[Key]:
    """Return the keys that change the cost tables of machines before anything is simulated."""
    described = any(machine != HOST for machine in machines)
    names = ["versions", *(ASSUMED_MACHINE if described else ())]
    chosen: list[Key] = [("select",)] if described else []
    return [*TABLES, *(("simulated", name) for name in names), *chosen]


def simulation_keys(
    config: Config, machine: str, workloads: Iterable[str], policies: Iterable[str]
) -> list[Key]:
    """Return the keys of simulated runs at rates that nothing searches."""
    apart = {*RUNS, *ASSUMED_MACHINE, "resolution"}
    named = list(workloads)
    models = dict.fromkeys(model for workload in named for model in config.workloads[workload])
    return [
        *scenario_keys(config, named),
        *(("models", model, name) for model in models for name in ("batches", "built_batches")),
        *policy_keys(config, policies),
        *assumption_keys([machine]),
        *(("simulated", name) for name in Simulated.model_fields if name not in apart),
    ]


def study_keys(config: Config, policies: Iterable[str], *others: Key) -> list[Key]:
    """Return the keys of simulated runs on the study's machine, and others."""
    study = config.study
    keys = simulation_keys(config, study.machine, [study.workload], policies)
    return [*keys, ("study", "machine"), ("study", "workload"), *others]


def under_study(config: Config, policies: Iterable[str]) -> tuple[Config, list[Key]]:
    """Return a configuration of the study's, and the keys of the search for capacities under it."""
    return config, study_keys(config, policies, SEARCH)


def neighbour_keys(config: Config, policy: str) -> list[Key]:
    """Return the keys of the noisy neighbour under a policy."""
    study = config.study
    keys = simulation_keys(config, study.machine, [study.neighbours], [policy])
    return [*keys, *(("study", name) for name in ("machine", "workload", "noisy_neighbour"))]


def equal_drop_keys(config: Config, workload: str, policy: str) -> list[Key]:
    """Return the keys of a policy's capacity on the study's machine, for a workload."""
    keys = simulation_keys(config, config.study.machine, [workload], [policy])
    return [*keys, SEARCH, ("study", "machine")]


def layer_keys(config: Config) -> list[Key]:
    """Return the keys of what layers need on the study's machine."""
    return [
        *scenario_keys(config, config.simulated.workloads),
        *assumption_keys([config.study.machine]),
        *(("simulated", "workloads"), ("study", "machine"), ("study", "levels")),
    ]


def choice_keys(config: Config) -> list[Key]:
    """Return the keys of what choosing versions by pressure gains on the study's machine."""
    return [*layer_keys(config), ("study", "workload")]


def trace_keys(config: Config, workload: str, policy: str) -> list[Key]:
    """Return the keys of measured runs of a policy at given rates."""
    return _run_keys(config, workload, [policy])


def measurement_keys(config: Config, workload: str, policies: Iterable[str]) -> list[Key]:
    """Return the keys of the measurement of some policies in rounds, on this machine."""
    return [*_run_keys(config, workload, policies), ("measured", "minutes"), ("measured", "shares")]


def _run_keys(config: Config, workload: str, policies: Iterable[str]) -> list[Key]:
    return [
        *TABLES,
        *scenario_keys(config, [workload]),
        *policy_keys(config, policies),
        *(("measured", name) for name in ("seconds", "queries", "seed", "loadgen_per_model", "timeline")),
        ("engine",),
        ("simulated", "drain_qos"),
    ]


def validation_keys(config: Config) -> list[Key]:
    """Return the keys of the comparison of what was measured with what is simulated."""
    simulated = simulation_keys(config, HOST, config.workloads, config.policies)
    return [
        *(("models",), ("workloads",), ("policies",), ("qos",), ("preset",), ("engine", "placement"), SEARCH),
        *(key for key in simulated if key[0] == "simulated"),
        *(("simulated", "noise"), ("select",)),
    ]


def metrics_keys(config: Config, machines: Iterable[str]) -> list[Key]:
    """Return the keys of the metrics of all runs."""
    # Of measured runs: what intervals are drawn with, and the order in which policies are named.
    measured: list[Key] = [("measured", "seed"), ("policies",)] if config.measured.enabled else []
    return [
        *assumption_keys(machines),
        *(("models",), ("workloads",), ("tenants",), ("qos",), ("study", "enabled")),
        *measured,
    ]
