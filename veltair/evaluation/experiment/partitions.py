"""Whether each policy fits the machines and the models: its partitions, cores and batches, before any run."""

import os
from collections.abc import Iterator

from veltair.config import Config, ConfigError
from veltair.evaluation.experiment.layout import HOST, SHIPPED_COSTS, Layout
from veltair.machine.costs.folder import MACHINE
from veltair.machine.topology.described import described, read_machine
from veltair.serving.policies.presets import blocks_share_cores, least_partitions, wanted_batches


def check_partitions(config: Config) -> None:
    """Raise ConfigError if a policy that is compared asks for what a machine or a model does not have.

    The machines are those that are measured or simulated. Its class says how many partitions it needs
    (`least_partitions`), which batches (`wanted_batches`), and whether its blocks share cores
    (`blocks_share_cores`), which they cannot where each is pinned to cores of its own.
    """
    checks = (_too_many, _not_built, _pinned)
    found = [line for name in Layout(config).compared for check in checks for line in check(config, name)]
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


def _not_built(config: Config, name: str) -> Iterator[str]:
    policy = config.policies[name]
    wanted = wanted_batches(policy.path, policy.preset or config.preset, policy.options)
    models = dict.fromkeys(model for workload in _workloads(config) for model in config.models_of(workload))
    for model in models:
        if missing := sorted({*wanted} - {*config.models[model].batches}):
            yield (
                f"policies.{name}: options {dict(policy.options)} want batches of "
                f"{', '.join(map(str, missing))}, but models.{model}.batches is "
                f"{list(config.models[model].batches)}; add them there, or leave them out"
            )


def _pinned(config: Config, name: str) -> Iterator[str]:
    policy, simulated = config.policies[name], config.simulated
    if simulated.enabled and simulated.placement == "pinned" and blocks_share_cores(policy.path):
        yield (
            f"simulated.placement: pinned, but policies.{name} lets blocks share cores, of which each would "
            "have its own; set it to spread, or leave the policy out of `compared`"
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
