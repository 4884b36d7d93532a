"""What simulated and measured runs share: models and targets on a machine, a workload, and a policy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pandas as pd

from veltair.compiler.frontend.model import Model
from veltair.config import Config
from veltair.config.tenant_keys import Tenant
from veltair.config.trace_file import read_trace
from veltair.evaluation.experiment.invariants import LeastWork
from veltair.evaluation.loadgen.tenants import TenantLoad
from veltair.evaluation.metrics.capacity import Capacity, Status
from veltair.evaluation.metrics.targets import (
    SATISFACTION,
    TARGET_COLUMNS,
    fluid_bound,
    fluid_capacity,
    targets,
    work_optimal_core_s,
)
from veltair.machine.costs.cost_model import MachineCostModel
from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import CostTable
from veltair.serving.loop.policy import Context, Policy
from veltair.serving.policies.presets import PolicySource, make_policy

MakePolicy = Callable[[Context], Policy]
TableClock = Literal["busy", "alone"]
OptionsOf = Callable[[Context], Mapping[str, object]]
Batches = Mapping[str, Mapping[int, str]]
NO_BATCHES: Batches = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is compared on one machine: the models with their targets there, its tables, and a workload.

    `cost_model` is that of a described machine, which policies do not see, and `busy_costs` its table at the
    clock of all cores at work; None where costs were measured. Policies read the latter if `policies_read` is
    `busy`, and the context's own table if it is `alone`. `satisfaction` is the share of queries that must be
    on time. `simulator_validated` is whether simulated runs of it may be labelled validated.

    `weights` are the models' shares of the queries, relative to each other. `tenants` send them, none where
    each model has one tenant of its name; `nominal_qps` is the rate that these ask for, if they say so.
    """

    context: Context
    targets: pd.DataFrame
    workload: str
    weights: Mapping[str, float]
    cost_model: MachineCostModel | None = None
    satisfaction: float = SATISFACTION
    simulator_validated: bool = False
    busy_costs: CostTable | None = None
    policies_read: TableClock = "alone"
    tenants: tuple[TenantLoad, ...] = ()
    nominal_qps: float | None = None
    least_work: LeastWork = field(init=False, compare=False, repr=False)
    fluid_work: LeastWork = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "least_work", LeastWork(self.context))
        object.__setattr__(self, "fluid_work", LeastWork(self.context, self.busy_costs))

    @property
    def policy_context(self) -> Context:
        """The context as policies see it. Raises LookupError for tables without times at that clock."""
        if self.policies_read == "alone" or self.cost_model is None:
            return self.context
        if self.busy_costs is None:
            raise LookupError(
                f"the tables of {self.context.machine.name} have no times at the clock of all cores, as an "
                "earlier program made them; rerun rule `derive`, or set `simulated.table_clock: alone`"
            )
        return replace(self.context, costs=self.busy_costs)

    @property
    def senders(self) -> tuple[TenantLoad, ...]:
        """The tenants: those of the workload, or one a model."""
        if self.tenants:
            return self.tenants
        models = self.context.models
        return tuple(
            TenantLoad(name, name, weight, models[name].qos_s) for name, weight in self.weights.items()
        )

    @property
    def qos_s(self) -> dict[str, float]:
        """Latency targets by tenant: by model, where each has one."""
        return {tenant.name: tenant.qos_s for tenant in self.senders}

    @property
    def sender_targets(self) -> pd.DataFrame:
        """The targets of each tenant: columns of `TARGET_COLUMNS`, and `tenant`."""
        alone = self.targets.set_index("model")
        rows = []
        for tenant in self.senders:
            row = {"model": tenant.model, **alone.loc[tenant.model].to_dict(), "tenant": tenant.name}
            if self.tenants:
                work = work_optimal_core_s(self.context.costs, tenant.model, tenant.qos_s)
                row |= {"qos_table_s": tenant.asked_qos_s, "qos_s": tenant.qos_s, "work_optimal_core_s": work}
                row["relaxed"] = tenant.qos_s > tenant.asked_qos_s
            rows.append(row)
        return pd.DataFrame(rows, columns=[*TARGET_COLUMNS, "tenant"])

    @property
    def fluid_qps(self) -> float:
        """A bound that no policy passes: the rate at which on-time queries alone fill all cores.

        Where the clock depends on how many cores are at work, work is counted at that of all of them.
        """
        total, costs = sum(tenant.offered for tenant in self.senders), self.context.costs
        shares = {tenant.name: tenant.offered / total for tenant in self.senders}
        work = {
            tenant.name: work_optimal_core_s(costs, tenant.model, tenant.qos_s, self.busy_costs)
            for tenant in self.senders
        }
        return fluid_bound(work, shares, self.fluid_cores, satisfaction=self.satisfaction)

    @property
    def fluid_cores(self) -> float:
        """The core-seconds that the machine gets done in a second, counted as the fluid bound does."""
        machine = self.context.machine
        return float(machine.cores) if self.busy_costs is None else fluid_capacity(machine)

    @property
    def sequential_qps(self) -> float:
        """The rate at which queries, served one at a time on as many cores as suit each, fill the machine."""
        alone_s = dict(zip(self.targets["model"], self.targets["isolated_latency_s"], strict=True))
        total = sum(self.weights.values())
        return 1.0 / sum(weight / total * float(alone_s[name]) for name, weight in self.weights.items())


def make_scenario(
    tables: Tables,
    qos_s: Mapping[str, float],
    relax: float,
    workload: str,
    weights: Mapping[str, float],
    satisfaction: float = SATISFACTION,
    batches: Batches = NO_BATCHES,
) -> Scenario:
    """Return a workload on a machine, its targets raised to what the machine can meet.

    `qos_s` are the targets asked for, by model, `batches` are those of `Context`. Raises LookupError for a
    model without tables.
    """
    missing = [name for name in weights if name not in tables.layers]
    if missing:
        raise LookupError(
            f"the cost tables of {tables.machine.name} lack {', '.join(missing)} (they have "
            f"{', '.join(tables.layers)}); profile here (`profile.costs: measured`)"
        )
    asked = [Model(name, tables.layers[name], qos_s[name]) for name in weights]
    table = targets(asked, tables.costs, relax)
    given = dict(zip(table["model"], table["qos_s"], strict=True))
    models = {model.name: Model(model.name, model.layers, given[model.name]) for model in asked}
    wanted = [*models, *(name for built in batches.values() for name in built.values())]
    # Indexing a table anew takes seconds, so it is done only where some models are left out.
    costs, busy = (
        known if known is None or set(wanted) == set(known.models) else known.select(wanted)
        for known in (tables.costs, tables.busy_costs)
    )
    assert costs is not None
    context = Context(models, costs, tables.machine, batches)
    shares = dict(weights)
    return Scenario(context, table, workload, shares, tables.cost_model, satisfaction, busy_costs=busy)


def scenario_of(config: Config, tables: Tables, workload: str, batches: Batches = NO_BATCHES) -> Scenario:
    """Return a workload of the configuration on the machine of some tables; `batches` are of `Context`.

    Where it has tenants, a model's target is the tightest of its tenants', for which policies plan.
    """
    weights, tenants = config.models_of(workload), config.tenants_of(workload)
    asked_s = {name: _asked_s(config, tenant) for name, tenant in tenants.items()}
    qos_s = {
        model: min([asked_s[name] for name, tenant in tenants.items() if tenant.model == model])
        if tenants
        else config.models[model].qos_ms / 1e3
        for model in weights
    }
    known = tables, qos_s, config.qos.relax, workload, weights, config.qos.satisfaction
    scenario = make_scenario(*known, batches)
    if not tenants:
        return scenario
    alone_s = dict(zip(scenario.targets["model"], scenario.targets["isolated_latency_s"], strict=True))
    loads = tuple(
        TenantLoad(
            *(name, tenant.model, tenant.offered),
            qos_s=max(asked_s[name], config.qos.relax * float(alone_s[tenant.model])),
            asked_qos_s=asked_s[name],
            weight=tenant.weight,
            cv=tenant.cv,
            trace=None if tenant.trace is None else read_trace(Path(tenant.trace), tenant.model, weights),
        )
        for name, tenant in tenants.items()
    )
    rates = [tenant.rate for tenant in tenants.values() if tenant.rate is not None]
    return replace(
        scenario,
        context=replace(scenario.context, tenants={load.name: load.weight for load in loads}),
        tenants=loads,
        nominal_qps=sum(rates) or None,
    )


def _asked_s(config: Config, tenant: Tenant) -> float:
    """Return the target that a tenant asks for: its own, or its model's."""
    return (config.models[tenant.model].qos_ms if tenant.qos_ms is None else tenant.qos_ms) / 1e3


def policy_maker(config: Config, policy: str, options_of: OptionsOf | None = None) -> MakePolicy:
    """Return what makes a fresh policy for a run.

    `options_of` gives its options in a context, where they are not those of the configuration.
    """
    served = config.policies[policy]
    preset = served.preset or config.preset

    def make(context: Context) -> Policy:
        options = served.options if options_of is None else options_of(context)
        return make_policy(served.path, context, preset, options)

    return make


def policy_source(config: Config, policy: str) -> PolicySource:
    """Return how `policy_maker` makes a policy, for the log of a run."""
    served = config.policies[policy]
    return PolicySource(served.path, served.preset or config.preset, dict(served.options))


def scenario_columns(scenario: Scenario, backend: str, validated: bool) -> dict[str, Any]:
    """Return what every row about a scenario says of it; `validated` is the backend's part of that claim."""
    machine = scenario.context.machine
    return {
        "backend": backend,
        "machine": machine.name,
        "validated": machine.validated and validated,
        "workload": scenario.workload,
    }


def capacity_columns(
    scenario: Scenario, policy: str, seed: int, pooled: Capacity, minimum: Capacity
) -> dict[str, Any]:
    """Return what the capacity table says of a policy's search on either backend."""
    return {
        "policy": policy,
        "seed": seed,
        "queries": pooled.queries,
        "fluid_qps": scenario.fluid_qps,
        "qps_at_95": pooled.qps,
        "high_qps": pooled.high_qps,
        "qps_at_95_minimum": minimum.qps,
        "resolution": pooled.resolution,
        "cut": pooled.status is Status.CUT,
        "unservable": pooled.status is Status.UNSERVABLE,
        "invalid": "the rate above it gave no valid run" if pooled.status is Status.INVALID else "",
        "answer": pooled.describe(),
    }
