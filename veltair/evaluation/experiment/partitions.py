"""Whether the partitions of each policy fit on each machine: checked before any run."""

import os
from collections.abc import Iterator

from veltair.config import Config, ConfigError
from veltair.evaluation.experiment.layout import HOST, SHIPPED_COSTS, Layout
from veltair.machine.costs.folder import MACHINE
from veltair.machine.topology.described import described, read_machine
from veltair.serving.policies.presets import least_partitions


def check_partitions(config: Config) -> None:
    """Raise ConfigError if a policy that is compared needs more partitions than a machine has cores for.

    The machines are those that are measured or simulated. A policy says how many it needs in
    `least_partitions`.
    """
    found = [line for name in Layout(config).compared for line in _too_many(config, name)]
    if found:
        raise ConfigError("\n  ".join(["the policies do not fit on the machines:", *found]))


def _too_many(config: Config, name: str) -> Iterator[str]:
    policy = config.policies[name]
    tenants = max(len(config.models_of(workload)) for workload in _workloads(config))
    count = least_partitions(policy.path, policy.preset or config.preset, policy.options, tenants)
    for machine, (cores, step) in _machines(config).items():
        if count > cores // step:
            yield (
                f"policies.{name}: options {dict(policy.options)} with {tenants} models make {count} "
                f"partitions, but {machine} has {cores} cores, given {step} at a time; ask for at most "
                f"{cores // step}"
            )


def _workloads(config: Config) -> list[str]:
    measured = config.measured.workloads if config.measured.enabled else ()
    simulated = config.simulated.workloads if config.simulated.enabled else ()
    return [*measured, *simulated]


def _machines(config: Config) -> dict[str, tuple[int, int]]:
    """Return the cores of each machine and in which step they are given."""
    names = list(config.simulated.machines) if config.simulated.enabled else []
    if config.measured.enabled and HOST not in names:
        names.append(HOST)
    found = {}
    for name in names:
        if name == HOST and config.profile.costs == "measured":
            found[name] = len(os.sched_getaffinity(0)), 1
            continue
        machine = read_machine(SHIPPED_COSTS / MACHINE) if name == HOST else described(name)
        found[name] = machine.cores, machine.core_unit
    return found
