"""The keys of tenants: who sends queries for which model, how many of them and when."""

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from veltair.config.section import Name, Section, key


class Tenant(Section):
    """Who sends queries for one model; several may use one."""

    model: Annotated[Name, key("the model that it asks for")]
    share: Annotated[
        float | None, key("its share of the workload's queries, relative to the others'", gt=0)
    ] = None
    rate: Annotated[
        float | None,
        key(
            "in place of shares, of all tenants of the workload: its rate. Runs are made at these too, and "
            "at other loads all rates change alike",
            "queries/s",
            gt=0,
        ),
    ] = None
    qos_ms: Annotated[
        float | None,
        key("latency target of its queries, from their arrival; null: that of the model", "ms", gt=0),
    ] = None
    arrivals: Annotated[
        Literal["poisson", "gamma", "trace"],
        key(
            "when its queries come: as LoadGen draws them (`poisson`), with gamma-distributed gaps "
            "(`gamma`), or as recorded (`trace`), stretched to its rate and repeated; the last two are sent "
            "by our own client"
        ),
    ] = "poisson"
    cv: Annotated[
        float | None,
        key("coefficient of variation of the gaps of `gamma`: 1 is Poisson, more comes in bursts", gt=0),
    ] = None
    trace: Annotated[
        str | None,
        key(
            "CSV file of `trace`, from the folder of the run: a column `arrival_s`, ascending, and "
            "optionally `model`, by which a tenant takes the lines of its own",
            min_length=1,
        ),
    ] = None
    weight: Annotated[
        float, key("its part of the machine where admission protects parts, relative to the others'", gt=0)
    ] = 1.0

    @property
    def offered(self) -> float:
        """Its part of the workload's queries, relative to the others': its share or its rate."""
        return self.share or self.rate or 0.0

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.share is None) == (self.rate is None):
            raise ValueError("give `share` or `rate`, exactly one of them")
        for name, process in (("cv", "gamma"), ("trace", "trace")):
            if (getattr(self, name) is None) == (self.arrivals == process):
                raise ValueError(
                    f"arrivals is {self.arrivals} and {name} is {getattr(self, name)}; give `{name}` with "
                    f"`arrivals: {process}`, and only there"
                )
        return self


def not_measurable(workload: str, tenants: Mapping[str, Tenant], loadgen_per_model: bool) -> Iterator[str]:
    """Yield what cannot be measured: tenants with a LoadGen each, targets that the engine lacks."""
    listed = f"measured.workloads lists {workload}"
    where = f"tenants.{workload}"
    if tenants and loadgen_per_model:
        yield f"measured.loadgen_per_model: true, but {listed}, whose tenants share a client; make it false"
    asked: dict[str, tuple[str, float | None]] = {}
    for name, tenant in tenants.items():
        first, target = asked.setdefault(tenant.model, (name, tenant.qos_ms))
        if tenant.qos_ms != target:
            yield (
                f"{where}.{name}.qos_ms: {tenant.qos_ms}, and that of {first} is {target}, but {listed}, and "
                f"the engine knows one target of {tenant.model}; give them the same"
            )


Tenants = Annotated[dict[Name, Tenant], Field(min_length=1)]


def contradictions(
    mixes: Mapping[str, Mapping[str, Tenant]], models: Collection[str], workloads: Collection[str]
) -> Iterator[str]:
    """Yield what is wrong with the tenants of each workload beside the others and the configuration."""
    for workload, tenants in mixes.items():
        where = f"tenants.{workload}"
        if workload in workloads:
            yield f"{where}: `workloads.{workload}` is there too; give one of them another name"
        for name, tenant in tenants.items():
            if tenant.model not in models:
                yield (
                    f"{where}.{name}.model: '{tenant.model}' is not in `models` ({', '.join(models)}); add "
                    "it there or correct it"
                )
            if name in models and tenant.model != name:
                yield f"{where}.{name}: is called as a model, but asks for {tenant.model}; rename it"
        rated = [name for name, tenant in tenants.items() if tenant.rate is not None]
        if rated and len(rated) < len(tenants):
            others = [name for name in tenants if name not in rated]
            yield (
                f"{where}: {', '.join(rated)} have a rate, {', '.join(others)} a share; give all a rate, or "
                "all a share"
            )
