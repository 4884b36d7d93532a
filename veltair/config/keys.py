"""The keys of the configuration: range, unit, default and meaning of each, and what contradicts what."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from veltair.config.compiler_keys import Build, Oracle, Search, Select
from veltair.config.model_keys import ServedModel, built_name
from veltair.config.model_keys import contradictions as model_contradictions
from veltair.config.output_keys import Figures, Results
from veltair.config.readings_keys import Readings
from veltair.config.section import (
    SEED_MAX,
    Count,
    ImportPath,
    Level,
    Load,
    Name,
    Section,
    Weight,
    is_ascending,
    key,
)
from veltair.config.study_keys import Simulated, Study, Variation
from veltair.config.tenant_keys import Tenant, Tenants, contradictions, not_measurable

Preset = Literal["paper", "tuned"]


class Profile(Section):
    """The cost tables: measured here, or shipped with the package."""

    costs: Annotated[
        Literal["measured", "shipped"],
        key("where cost tables come from; shipped ones serve the simulator only, the engine refuses them"),
    ] = "measured"
    cores: Annotated[
        Literal["all"] | Annotated[tuple[Count, ...], Field(min_length=1)],
        key("core counts to profile: all, or an ascending list of counts", "cores"),
    ] = "all"
    levels: Annotated[
        tuple[Level, ...],
        key("pressure levels to profile, ascending from 0 (alone) to at most 1", "fraction", min_length=1),
    ] = (0.0, 0.5, 1.0)
    repeats: Annotated[int, key("measurements of each version, core count and level", "repeats", ge=1)] = 10

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.levels[0] != 0 or not is_ascending(self.levels):
            raise ValueError(f"levels {list(self.levels)} must ascend from 0, such as [0, 0.5, 1.0]")
        if self.cores != "all" and not is_ascending(self.cores):
            raise ValueError(f"cores {list(self.cores)} must ascend, each count once, such as [1, 2, 4]")
        return self


class Qos(Section):
    """Latency targets."""

    relax: Annotated[
        float,
        key(
            "a target is raised to this multiple of the model's latency alone on the whole machine, "
            "where `qos_ms` is less",
            "times the latency alone",
            ge=1,
        ),
    ] = 2.3
    satisfaction: Annotated[
        float,
        key("share of queries that must be on time for a rate to count as served", "fraction", gt=0, lt=1),
    ] = 0.95


class ServedPolicy(Section):
    """One scheduling policy."""

    path: Annotated[ImportPath, key("`module:Class` of the policy")]
    preset: Annotated[Preset | None, key("its preset; null: that of the run")] = None
    options: Annotated[
        dict[str, JsonValue], key("keyword arguments of the policy, over those of the preset")
    ] = Field(default={})


class Measured(Section):
    """Serving on this machine: LoadGen against real kernels on pinned cores."""

    enabled: Annotated[bool, key("whether to measure on this machine at all")] = True
    workloads: Annotated[tuple[Name, ...], key("workloads to serve", min_length=1)] = ("mix",)
    shares: Annotated[
        tuple[Load, ...],
        key(
            "rates to measure, ascending; 1 is the rate at which queries, served one at a time on the cores "
            "that suit each best, fill the machine",
            "sequential rate",
            min_length=1,
        ),
    ] = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
    minutes: Annotated[
        float,
        key(
            "time for all policies of a workload, in rounds of all policies and rates, of which more narrow "
            "the intervals; at least 3 are made",
            "min",
            gt=0,
        ),
    ] = 9.0
    seconds: Annotated[float, key("length of one run at one rate, at least", "s", gt=0)] = 2.0
    queries: Annotated[
        int, key("queries of one run at one rate, at least, a tenth of which warms up", "queries", ge=1)
    ] = 45
    seed: Annotated[int, key("seed of LoadGen's schedules and of the order of runs", ge=0, le=SEED_MAX)] = 1
    loadgen_per_model: Annotated[
        bool, key("a LoadGen process for each model, so that each gets LoadGen's official verdict")
    ] = False
    timeline: Annotated[
        bool, key("record which block ran where in each run at a rate: a Perfetto trace and a picture")
    ] = False

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if not is_ascending(self.shares):
            raise ValueError(f"shares {list(self.shares)} must ascend, such as [0.2, 0.4, 0.6]")
        return self


class Engine(Section):
    """What serves on this machine: who runs kernels, on which cores, and how pressure is read."""

    placement: Annotated[
        Literal["spread", "pinned"],
        key("which cores a block gets: `spread` over all caches, or `pinned` to as few as possible"),
    ] = "spread"
    interference: Annotated[
        Literal["auto", "perf", "probe", "slowdown"],
        key(
            "what tells the pressure: counters (`perf`), short reads beside the load (`probe`), how much "
            "longer blocks took than profiled (`slowdown`), or `auto`: the first of these that works here"
        ),
    ] = "slowdown"
    spin: Annotated[
        bool,
        key(
            "workers that have nothing to do look for work all the time, instead of sleeping after 2 ms: "
            "blocks start sooner on idle cores, which are never free for others"
        ),
    ] = False
    memory_mb: Annotated[
        float | None,
        key(
            "budget for the weights of loaded models, of which the least recently used give way; null: all "
            "models stay loaded",
            "MB",
            gt=0,
        ),
    ] = None


class Config(Section):
    """Everything that a run depends on, besides the machine and the code."""

    models: Annotated[dict[Name, ServedModel], key("the models served, by name", min_length=1)]
    workloads: Annotated[
        dict[Name, Annotated[dict[Name, Weight], Field(min_length=1)]],
        key(
            "mixes of models, by name: each model's share of the queries, relative to the others",
            min_length=1,
        ),
    ]
    tenants: Annotated[
        dict[Name, Tenants],
        key(
            "further workloads, by name: those of tenants, several of which may ask for one model. Those of "
            "`workloads` have one tenant a model"
        ),
    ] = Field(default={})
    policies: Annotated[
        dict[Name, ServedPolicy], key("the scheduling policies compared, by the name shown", min_length=1)
    ]
    compared: Annotated[
        tuple[Name, ...] | None,
        key("policies of the comparison, measured and simulated; null: all. Others serve `study` only"),
    ] = None
    preset: Annotated[
        Preset,
        key(
            "defaults of the options that policies share: as in the paper, or as tuned in our simulator "
            "(`veltair/serving/policies/presets.py`)"
        ),
    ] = "paper"
    qos: Annotated[Qos, key("latency targets")] = Qos()
    search: Annotated[Search, key("the search for candidates")] = Search()
    select: Annotated[Select, key("the choice of versions among the candidates")] = Select()
    build: Annotated[Build, key("the compilation of versions")] = Build()
    oracle: Annotated[Oracle, key("the comparison of outputs with ONNX Runtime")] = Oracle()
    profile: Annotated[Profile, key("the cost tables")] = Profile()
    measured: Annotated[Measured, key("serving on this machine")] = Measured()
    engine: Annotated[Engine, key("what serves on this machine")] = Engine()
    simulated: Annotated[Simulated, key("serving in virtual time")] = Simulated()
    study: Annotated[Study, key("the study of a many-core machine")] = Study()
    sensitivity: Annotated[
        dict[Name, Variation],
        key("the run with one key changed, a value at a time, by name"),
    ] = Field(default={})
    readings: Annotated[Readings, key("the study of readings of a paper")] = Readings()
    results: Annotated[Results, key("where results go")] = Results()
    figures: Annotated[Figures, key("where figures go")] = Figures()

    @property
    def mixes(self) -> dict[str, Mapping[str, object]]:
        """All workloads, those of tenants too: by name, what the names of their tenants stand for."""
        return {**self.workloads, **self.tenants}

    def tenants_of(self, workload: str) -> Mapping[str, Tenant]:
        """Return the tenants of a workload by name; none if it is one of `workloads`.

        Of a part of a configuration that declares no tenants there are none: whoever reads the workload then
        finds that it is not declared either.
        """
        mixes: dict[str, dict[str, Tenant]] = self.__dict__.get("tenants", {})
        return dict.get(mixes, workload, {})

    def networks(self) -> dict[str, tuple[str, int]]:
        """Return what is built, by name: the model, and how many of its queries go together."""
        alone = {name: (name, 1) for name in self.models}
        return alone | {
            built_name(name, queries): (name, queries)
            for name, model in self.models.items()
            for queries in model.built_batches
        }

    def models_of(self, workload: str) -> dict[str, float]:
        """Return the models of a workload and each one's share of its queries, relative to the others'."""
        if not (tenants := self.tenants_of(workload)):
            return dict(self.workloads[workload])
        shares = dict.fromkeys((tenant.model for tenant in tenants.values()), 0.0)
        for tenant in tenants.values():
            shares[tenant.model] += tenant.offered
        return shares

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if found := list(_contradictions(self)):
            raise ValueError("\n".join(found))
        return self


def _contradictions(config: Config) -> Iterator[str]:
    for workload, weights in config.workloads.items():
        yield from _unknown(f"workloads.{workload}", weights, "models", config.models)
    yield from contradictions(config.tenants, config.models, config.workloads)
    if config.measured.enabled:
        for name in config.measured.workloads:
            yield from not_measurable(name, config.tenants_of(name), config.measured.loadgen_per_model)
            for policy, served in config.policies.items() if name in config.tenants else ():
                if served.options.get("admission", "all") != "all":
                    yield (
                        f"policies.{policy}.options.admission: {served.options['admission']}, but "
                        f"measured.workloads lists {name}, and the engine does not tell policies the tenant "
                        "of a query; simulate it alone, or set it to all"
                    )
    for part, section in (("measured", config.measured), ("simulated", config.simulated)):
        yield from _unknown(f"{part}.workloads", section.workloads, "workloads", config.mixes)
        yield from _repeated(f"{part}.workloads", section.workloads)
    yield from _unknown("compared", config.compared or (), "policies", config.policies)
    yield from _repeated("compared", config.compared or ())
    yield from _repeated("simulated.machines", config.simulated.machines)
    yield from _repeated("simulated.seeds", config.simulated.seeds)
    yield from _repeated("figures.formats", config.figures.formats)
    yield from _unknown("figures.styles", config.figures.styles, "policies", config.policies)
    yield from _repeated("figures.styles", config.figures.styles)
    for family, members in config.figures.families.items():
        yield from _unknown(f"figures.families.{family}", members, "policies", config.policies)
    yield from _repeated("figures.families", tuple(chain(*config.figures.families.values())))
    yield from _study(config)
    yield from _readings(config)
    if config.measured.enabled and config.profile.costs == "shipped":
        yield (
            "measured.enabled: true, but profile.costs is 'shipped', and the engine refuses cost tables of "
            "another machine; set `profile.costs: measured` or `measured.enabled: false`"
        )
    yield from model_contradictions(
        config.models, config.measured.enabled, config.profile.costs == "measured"
    )
    if not config.measured.enabled and not config.simulated.enabled:
        yield "measured.enabled, simulated.enabled: both are false, so nothing would run; set one to true"


def _study(config: Config) -> Iterator[str]:
    study = config.study
    if not study.enabled:
        return
    if not config.simulated.enabled:
        yield "study.enabled: true, but simulated.enabled is false; set one to the other's value"
    workloads = config.mixes
    yield from _unknown("study.workload", [study.workload], "workloads", workloads)
    neighbour = study.noisy_neighbour
    if neighbour.policies:
        where = "study.noisy_neighbour"
        yield from _unknown(f"{where}.workload", [study.neighbours], "workloads", workloads)
        tenants = workloads.get(study.neighbours, {})
        group = f"tenants of {study.neighbours}"
        yield from _unknown(f"{where}.aggressor", [str(neighbour.aggressor)], group, tenants)
        if len(tenants) == 1:
            yield f"{where}.workload: {study.neighbours} has no other tenant; give one of several"
    for part, names in study.named_policies().items():
        yield from _unknown(f"study.{part}", names, "policies", config.policies)
    for name, variation in config.sensitivity.items():
        where = f"sensitivity.{name}.policies"
        yield from _unknown(where, variation.policies or (), "study.policies", study.policies)
        where = f"sensitivity.{name}.changed"
        yield from _unknown(where, variation.changed or (), "study.policies", study.policies)
        where = f"sensitivity.{name}.workloads"
        yield from _unknown(where, variation.workloads or (), "workloads", workloads)


def _readings(config: Config) -> Iterator[str]:
    asked = config.readings
    if not asked.options:
        return
    if not config.simulated.enabled:
        yield "readings.options: there are some, but simulated.enabled is false; set it to true"
    for part, name in (("policy", asked.policy), ("against", asked.against)):
        yield from _unknown(f"readings.{part}", [name], "policies", config.policies)
    for name, values in asked.options.items():
        yield from _repeated(f"readings.options.{name}", values)


def _unknown(where: str, names: Iterable[str], group: str, known: Iterable[str]) -> Iterator[str]:
    known = list(known)
    for name in names:
        if name not in known:
            yield f"{where}: '{name}' is not in `{group}` ({', '.join(known)}); add it there or correct it"


def _repeated(where: str, values: tuple[object, ...]) -> Iterator[str]:
    for value in dict.fromkeys(values):
        if values.count(value) > 1:
            yield f"{where}: {value!r} is listed {values.count(value)} times; list it once"
