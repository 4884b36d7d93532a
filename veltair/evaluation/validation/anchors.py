"""Published numbers of the 3990X beside what its model says: never fitted to, only shown."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import mean

from veltair.evaluation.experiment.scenario import MakePolicy, TableClock, make_scenario
from veltair.evaluation.metrics.capacity import CapacitySearch
from veltair.evaluation.simulation.run import SimulationSettings, find_pooled_capacity
from veltair.evaluation.validation.co_run_errors import predicted_slowdowns
from veltair.evaluation.validation.co_runs import CoRunModel
from veltair.machine.costs.folder import Tables

RESNET, GOOGLENET, LAYER_WISE = "resnet50", "googlenet", "LayerWise"
TENANTS = 4
STRICT = 0.99  # the satisfaction of the third anchor


@dataclass(frozen=True, slots=True)
class Anchor:
    """A published number, the model's, and the model's without contention; all in `unit`.

    `value` is None where it was not computed, and `reason` says what to do about it. `null` is None where
    contention plays no part.
    """

    name: str
    statement: str
    unit: str
    published: float
    value: float | None = None
    null: float | None = None
    reason: str = ""

    @property
    def deviation(self) -> float | None:
        """The model's number ÷ the published one, less 1."""
        return None if self.value is None else self.value / self.published - 1.0


@dataclass(frozen=True, slots=True)
class AnchorStudy:
    """How the third anchor is searched. `make` is the policy's, None where the configuration has none.

    `policies_read` is as of `Scenario`.
    """

    make: MakePolicy | None
    settings: SimulationSettings
    qos_s: float
    relax: float
    resolution: float
    seeds: tuple[int, ...]
    policies_read: TableClock = "busy"


def anchors(tables: Tables, study: AnchorStudy, shipped: Tables | None = None) -> list[Anchor]:
    """Return the three anchors of Liu et al., ASPLOS 2022, on the machine of some tables.

    `shipped` are tables of the same machine derived from the shipped profile: an anchor about a model that
    `tables` lack is computed from these, and says so.
    """
    placement = study.settings.placement
    return [
        _from_either(RESNET, tables, shipped, whole_cpu),
        _from_either(GOOGLENET, tables, shipped, lambda given: four_tenants(given, placement)),
        _from_either(RESNET, tables, shipped, lambda given: layer_wise(given, study)),
    ]


def _from_either(
    model: str, tables: Tables, shipped: Tables | None, compute: Callable[[Tables], Anchor]
) -> Anchor:
    if model in tables.layers or shipped is None or model not in shipped.layers:
        return compute(tables)
    anchor = compute(shipped)
    return replace(anchor, statement=f"{anchor.statement} (shipped tables)")


def whole_cpu(tables: Tables) -> Anchor:
    """Return the latency of ResNet-50 alone on all cores, in the versions that are fastest alone."""
    empty = Anchor("resnet50_whole_cpu_ms", "ResNet-50 on the whole CPU", "ms", 6.0)
    if RESNET not in tables.layers:
        return _unprofiled(empty, RESNET)
    whole = tables.costs.core_index(tables.machine.cores)
    return replace(empty, value=1e3 * float(tables.costs.solo_seconds(RESNET)[:, whole].sum()))


def four_tenants(tables: Tables, placement: str) -> Anchor:
    """Return how much longer each of four GoogLeNets takes beside the others, a quarter of the cores each."""
    empty = Anchor(
        "four_googlenets_slowdown", "4 GoogLeNets on 16 cores each", "times as long as alone", 1.8, null=1.0
    )
    if GOOGLENET not in tables.layers:
        return _unprofiled(empty, GOOGLENET)
    versions = tuple(map(int, tables.costs.model(GOOGLENET).solo))
    tenants = [CoRunModel(GOOGLENET, "solo", versions, tables.machine.cores // TENANTS)] * TENANTS
    return replace(empty, value=mean(predicted_slowdowns(tables, tenants, placement)))


def layer_wise(tables: Tables, study: AnchorStudy) -> Anchor:
    """Return the QPS at 99 % satisfaction of ResNet-50 scheduled layer by layer, the mean over seeds.

    The source does not name the model: ResNet-50 is our reading.
    """
    empty = Anchor("layer_wise_qps_at_99", f"{LAYER_WISE}, ResNet-50, 99 % on time", "queries/s", 50.0)
    if RESNET not in tables.layers:
        return _unprofiled(empty, RESNET)
    if study.make is None:
        return replace(empty, reason=f"add policy {LAYER_WISE} to `policies`")
    flat = replace(study, settings=replace(study.settings, contention=0.0))
    return replace(empty, value=_qps(tables, study.make, study), null=_qps(tables, study.make, flat))


def _qps(tables: Tables, make: MakePolicy, study: AnchorStudy) -> float:
    given = make_scenario(tables, {RESNET: study.qos_s}, study.relax, RESNET, {RESNET: 1}, STRICT)
    scenario = replace(given, policies_read=study.policies_read)
    search = CapacitySearch(study.resolution, target=STRICT)
    found = [find_pooled_capacity(scenario, make, study.settings, search, seed).qps for seed in study.seeds]
    return mean(found)


def _unprofiled(anchor: Anchor, model: str) -> Anchor:
    reason = f"{model} is not in the cost tables: add it to `models` and profile it"
    return replace(anchor, null=None, reason=reason)
