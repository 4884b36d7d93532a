"""The keys of what runs in virtual time: one run, the study of a many-core machine, and its variations."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, JsonValue, model_validator

from veltair.config.section import Count, Level, Load, Name, Section, Seed, is_ascending, key

MEASURED: Final = "measured"
BlockCost = Literal["measured"] | Annotated[float, Field(ge=0)]
Pace = Literal["measured"] | Annotated[float, Field(gt=0)]


class Simulated(Section):
    """Serving in virtual time, from cost tables."""

    enabled: Annotated[bool, key("whether to simulate at all")] = True
    machines: Annotated[
        tuple[Name, ...],
        key("`host` (the machine of the cost tables) or names in `veltair/data/machines`", min_length=1),
    ] = ("host", "threadripper-3990x")
    workloads: Annotated[tuple[Name, ...], key("workloads to serve", min_length=1)] = ("mix",)
    queries: Annotated[int, key("queries of one run at one rate", "queries", ge=1)] = 2000
    seeds: Annotated[
        tuple[Seed, ...], key("seeds of the schedule; each gives an answer of its own", min_length=1)
    ] = (1,)
    resolution: Annotated[
        float, key("the search for the highest rate stops at this relative width", "fraction", gt=0, lt=1)
    ] = 0.01
    loads: Annotated[
        tuple[Load, ...],
        key("loads at which query records are kept, ascending", "Planaria's QPS at 95 % QoS", min_length=1),
    ] = (0.3, 0.5, 0.7, 0.9, 1.1)
    placement: Annotated[
        Literal["spread", "pinned"],
        key(
            "which cores a simulated block gets: `spread` over all caches, or `pinned` to as few as possible"
        ),
    ] = "spread"
    start_cost_us: Annotated[
        BlockCost,
        key(
            "time charged for each start of a layer block; `measured`: that of the machine's profile, or, of "
            "machines without one, as described ones are, that recorded of the engine whose loop is in C",
            "µs",
        ),
    ] = MEASURED
    resize_cost_us: Annotated[
        BlockCost, key("time charged for each change of a running block's cores; `measured`: as above", "µs")
    ] = MEASURED
    grant_cost_us: Annotated[
        BlockCost,
        key(
            "time from the event that decides a change of cores until a layer end can adopt it; `measured`: "
            "as above",
            "µs",
        ),
    ] = MEASURED
    join_cost_us: Annotated[
        BlockCost,
        key("time charged to a block that grows, on top of the change; `measured`: as above", "µs"),
    ] = MEASURED
    yield_cost_us: Annotated[
        BlockCost,
        key(
            "time for which a block that yields holds its cores longer than its layer; `measured`: as above",
            "µs",
        ),
    ] = MEASURED
    decision_us: Annotated[
        BlockCost,
        key(
            "time of a decision on the machine of measured tables, for which the next one waits; `measured`: "
            "of recorded runs that are replayed as each was measured, and of others 0",
            "µs",
        ),
    ] = MEASURED
    loadgen_cores: Annotated[
        BlockCost,
        key(
            "cores that LoadGen keeps busy on the machine of measured tables, on which blocks wait; "
            "`measured`: as above",
            "cores",
        ),
    ] = MEASURED
    pace: Annotated[
        Pace,
        key(
            "what layers take on the machine of measured tables; `measured`: of recorded runs that are "
            "replayed as queries alone took just before and after each, and of others 1",
            "times as long as the tables say",
        ),
    ] = MEASURED
    drain_qos: Annotated[
        float,
        key(
            "time to finish after the last arrival; what is still open then is late",
            "times the longest latency target",
            ge=0,
        ),
    ] = 10.0
    memory_mb: Annotated[
        float | None,
        key(
            "memory for the weights of models, which policies that load models themselves begin empty; null, "
            "and to any other policy: all models are resident",
            "MB",
            gt=0,
        ),
    ] = None
    load_mb_per_s: Annotated[
        float | None,
        key(
            "bandwidth at which weights come into that memory; null: what one core of the machine reads from "
            "DRAM",
            "MB/s",
            gt=0,
        ),
    ] = None
    contention: Annotated[
        float,
        key("what co-runners add to a layer's time; 0: nothing, the null model", "times the modelled", ge=0),
    ] = 1.0
    proxy_error: Annotated[
        float,
        key(
            "standard deviation of the pressure that policies are told, in steps between profiled levels",
            "levels",
            ge=0,
        ),
    ] = 0.0
    steepness: Annotated[
        float,
        key(
            "how steeply traffic rises where data does not fit the cache: exponent of traffic over the bytes "
            "that must come in any case; described machines only",
            "times the modelled",
            ge=0,
        ),
    ] = 1.0
    oversubscription: Annotated[
        float,
        key(
            "what layers of blocks that share cores take longer than on an equal part of them; 0: nothing",
            "times the recorded",
            ge=0,
        ),
    ] = 1.0
    versions: Annotated[
        Annotated[int, Field(ge=1, le=8)] | None,
        key("versions of each layer that policies may choose among, the fastest alone included; null: all"),
    ] = None
    core_unit: Annotated[
        Count | None,
        key(
            "core unit of described machines, with an `alpha` so much lower that rounding up to it leaves as "
            "much headroom as rounding up to the described one; null: as described",
            "cores",
        ),
    ] = None
    clock: Annotated[
        bool, key("whether the clock of described machines depends on how many cores are at work")
    ] = True
    table_clock: Annotated[
        Literal["busy", "alone"],
        key(
            "the clock at which policies read times of described machines: that of all cores at work, which "
            "they will meet, or that of as many as a layer is alone with"
        ),
    ] = "busy"
    noise: Annotated[
        Literal["undisturbed", "all", "none"],
        key(
            "measured repeats that service times of described machines spread by: those whose core was not "
            "taken away, all of them, or none; where nobody noted that, those over 1.5 x their median count "
            "as disturbed"
        ),
    ] = "undisturbed"
    link_bandwidth: Annotated[
        float, key("bandwidth of the links of described machines", "times the described", gt=0)
    ] = 1.0
    links: Annotated[
        bool, key("whether cache groups of described machines share links of limited bandwidth")
    ] = True
    residency: Annotated[
        bool,
        key(
            "whether layers on described machines find in the L3 what earlier ones left there and write back "
            "what leaves it; false: each moves what it would alone"
        ),
    ] = True
    warm_weights: Annotated[
        bool,
        key(
            "whether they also find what older queries of their model left, its weights above all; false: "
            "every query finds them cold"
        ),
    ] = True

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if not is_ascending(self.loads):
            raise ValueError(f"loads {list(self.loads)} must ascend, such as [0.5, 0.7, 0.9]")
        return self


class Granularity(Section):
    """Satisfaction against the offered rate: how large a unit of scheduling should be."""

    policies: Annotated[tuple[Name, ...], key("policies compared")] = ()
    loads: Annotated[
        tuple[Load, ...], key("offered rates, ascending", "Planaria's QPS at 95 % QoS", min_length=1)
    ] = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if not is_ascending(self.loads):
            raise ValueError(f"loads {list(self.loads)} must ascend, such as [0.5, 1.0, 1.5]")
        return self


class Conflicts(Section):
    """Block starts and conflicts over the time of one run."""

    policies: Annotated[tuple[Name, ...], key("policies compared")] = ()
    load: Annotated[float, key("offered rate", "Planaria's QPS at 95 % QoS", gt=0)] = 0.7
    queries: Annotated[Count, key("queries of the run, which is kept block by block", "queries")] = 500


class NoisyNeighbour(Section):
    """One tenant sends ever more, the others what they did: what is left to them."""

    policies: Annotated[tuple[Name, ...], key("policies compared; none: it is not simulated")] = ()
    workload: Annotated[
        Name | None, key("the tenants' workload, of `tenants` or `workloads`; null: `study.workload`")
    ] = None
    aggressor: Annotated[Name | None, key("the tenant that sends more, by name")] = None
    load: Annotated[
        float, key("offered rate of all tenants at their shares", "Planaria's QPS at 95 % QoS", gt=0)
    ] = 0.5
    factors: Annotated[
        tuple[Annotated[float, Field(ge=0)], ...],
        key("what it sends, ascending; at 0 nothing", "times its share", min_length=1),
    ] = (0, 1, 2, 4, 6, 8, 10)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.policies and self.aggressor is None:
            raise ValueError(f"policies {list(self.policies)} are compared, but no aggressor is; name one")
        if not is_ascending(self.factors):
            raise ValueError(f"factors {list(self.factors)} must ascend, such as [0, 1, 10]")
        return self


class EqualDrops(Section):
    """The comparison of policies once more with one rule for late queries: shedding is not scheduling."""

    policies: Annotated[tuple[Name, ...], key("policies compared; none: it is not simulated")] = ()
    drop_late: Annotated[
        Literal["never", "at_deadline", "when_doomed"], key("the rule: option `drop_late` of all of them")
    ] = "when_doomed"


class Study(Section):
    """What is asked of one many-core machine, beside the comparison of policies."""

    enabled: Annotated[bool, key("whether to make the study's tables and the paper's figures")] = False
    machine: Annotated[Name, key("machine of all parts of the study")] = "threadripper-3990x"
    workload: Annotated[Name, key("workload of all parts of the study")] = "mix"
    policies: Annotated[
        tuple[Name, ...], key("policies of `sensitivity` and of the scale; ratios are to Planaria")
    ] = ()
    queries: Annotated[
        Count | None,
        key("queries of one run in `sensitivity` and the scale; null: `simulated.queries`", "queries"),
    ] = None
    seeds: Annotated[
        tuple[Seed, ...] | None, key("seeds in `sensitivity` and the scale; null: `simulated.seeds`")
    ] = None
    resolution: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | None,
        key("resolution in `sensitivity` and the scale; null: `simulated.resolution`", "fraction"),
    ] = None
    scale: Annotated[
        tuple[Name, ...], key("machines of the scale figure, described with few cores to many")
    ] = ()
    levels: Annotated[
        tuple[Level, ...],
        key("pressures of the figures of core need and slowdown, profiled ones", "fraction"),
    ] = (0.0, 0.5, 1.0)
    granularity: Annotated[Granularity, key("satisfaction against the offered rate")] = Granularity()
    conflicts: Annotated[Conflicts, key("conflicts over time")] = Conflicts()
    noisy_neighbour: Annotated[NoisyNeighbour, key("one tenant that sends more than its share")] = (
        NoisyNeighbour()
    )
    equal_drops: Annotated[EqualDrops, key("the comparison with one rule for late queries")] = EqualDrops()

    def named_policies(self) -> dict[str, tuple[str, ...]]:
        """Return the policies that each part names, by its key."""
        return {
            "policies": self.policies,
            "granularity.policies": self.granularity.policies,
            "conflicts.policies": self.conflicts.policies,
            "noisy_neighbour.policies": self.noisy_neighbour.policies,
            "equal_drops.policies": self.equal_drops.policies,
        }

    @property
    def neighbours(self) -> str:
        """The workload of the tenants among whom one sends more."""
        return self.noisy_neighbour.workload or self.workload


STUDY_WORKLOAD = "study.workload"
# Apart, for in the class below `key` is a key.
_ChangedKey = Annotated[
    str,
    key(
        "the key that changes, as a path such as `simulated.start_cost_us`; `*` in `policies.*` stands for "
        "each of the policies that `changed` names",
        min_length=1,
    ),
]


class Variation(Section):
    """One key of the configuration and the values that it takes in turn, all else unchanged."""

    title: Annotated[str, key("the assumption, as the figure names it", min_length=1)]
    unit: Annotated[str, key("unit of the values, as the figure prints it")] = ""
    values: Annotated[tuple[JsonValue, ...], key("its values in turn", min_length=1)]
    labels: Annotated[
        tuple[str, ...] | None, key("what the figure prints for the values; null: the values")
    ] = None
    default: Annotated[
        JsonValue, key("the value of the run itself, where a preset and not the configuration says it")
    ] = None
    plausible: Annotated[
        tuple[JsonValue, ...] | None,
        key("the values that a machine or a reading of the paper may well have; null: all"),
    ] = None
    policies: Annotated[tuple[Name, ...] | None, key("policies compared; null: `study.policies`")] = None
    workloads: Annotated[
        tuple[Name, ...] | None,
        key("workloads that it is varied for, a cell each; null: `study.workload`", min_length=1),
    ] = None
    changed: Annotated[tuple[Name, ...] | None, key("policies that `*` stands for; null: those compared")] = (
        None
    )
    key: _ChangedKey

    @property
    def is_numeric(self) -> bool:
        """Whether the values are positions on an axis; else they are categories."""
        return all(
            value == MEASURED or (isinstance(value, int | float) and not isinstance(value, bool))
            for value in self.values
        )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.labels is not None and len(self.labels) != len(self.values):
            raise ValueError(f"{len(self.labels)} labels for {len(self.values)} values; give one a value")
        unknown = [value for value in self.plausible or () if value not in self.values]
        if unknown:
            raise ValueError(f"plausible {unknown} are not among the values {list(self.values)}; list them")
        if self.workloads is not None and self.key == STUDY_WORKLOAD:
            raise ValueError(f"`key: {STUDY_WORKLOAD}` varies the workload itself; leave out `workloads`")
        return self
