"""Co-runs predicted by the simulator and compared with measured ones; one number, a scale, may be fitted."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log

import numpy as np
import pandas as pd

from veltair.compiler.frontend.model import LayerBlock, Model
from veltair.evaluation.validation.co_runs import ALONE, BESIDE, COLUMNS, CoRunModel
from veltair.evaluation.validation.perturbed_costs import with_demand, without_noise
from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import CostTable
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import Allocation, Answer, Context, Snapshot
from veltair.serving.loop.query import NEVER_S, Query, QueryRecord
from veltair.serving.simulator.noise import noise_batches
from veltair.serving.simulator.simulator import Simulator

SIDE = ["corun", "side"]
# Scales of demand that are tried: a factor of 8 both ways. Beyond, the model is wrong, not its scale.
SCALES = tuple(float(scale) for scale in 2.0 ** np.linspace(-3, 3, 25))
MOST_SLOWED = 8  # times as long as alone: runs of the short tenant are planned for that


@dataclass(frozen=True, slots=True)
class CoRun:
    """What a tenant of a measured co-run met: medians over all its runs, in seconds."""

    corun: int
    side: int
    alone_s: float
    beside_s: float

    def __post_init__(self) -> None:
        if not (0 < self.alone_s < float("inf") and 0 < self.beside_s < float("inf")):
            raise ValueError(
                f"co-run {self.corun}, side {self.side}: {self.alone_s} s alone, {self.beside_s} s beside; "
                "times are finite and above 0: measure the co-runs again"
            )

    @property
    def slowdown(self) -> float:
        """How many times as long it took beside the other as alone."""
        return self.beside_s / self.alone_s


def measured_co_runs(samples: pd.DataFrame) -> list[CoRun]:
    """Return the co-runs of a table of samples, two sides of each.

    Raises ValueError on missing columns, or where one of two sides or kinds has no sample.
    """
    missing = [column for column in COLUMNS if column not in samples]
    if missing:
        raise ValueError(f"co-runs: columns {missing} are missing; measure them again (rule `co_runs`)")
    medians = (
        samples.groupby([*SIDE, "kind"])["seconds"].median().unstack("kind").reindex(columns=[ALONE, BESIDE])
    )
    sides = medians.groupby("corun").size()
    if medians.isna().any().any() or (sides != 2).any():
        raise ValueError(
            "co-runs: each needs two sides, timed alone and beside each other; measure them again "
            "(rule `co_runs`)"
        )
    return [
        CoRun(int(row["corun"]), int(row["side"]), float(row[ALONE]), float(row[BESIDE]))
        for row in medians.reset_index().to_dict("records")
    ]


def held_out(corun: int) -> bool:
    """Return whether a co-run is for testing: every second one. Co-runs are numbered in a drawn order."""
    return corun % 2 == 1


def tenants_of(samples: pd.DataFrame, tables: Tables) -> dict[int, tuple[CoRunModel, CoRunModel]]:
    """Return the pair of each co-run. Raises LookupError for a model or core count without tables."""
    pairs: dict[int, tuple[CoRunModel, CoRunModel]] = {}
    rows = samples[[*SIDE, "model", "versions", "cores"]].drop_duplicates().sort_values(SIDE)
    for corun, group in rows.groupby("corun"):
        first, second = (_tenant(row, tables) for row in group.to_dict("records"))
        pairs[int(str(corun))] = (first, second)
    return pairs


def _tenant(row: Mapping[Hashable, object], tables: Tables) -> CoRunModel:
    model, choice, cores = str(row["model"]), str(row["versions"]), int(str(row["cores"]))
    tables.costs.core_index(cores)
    solo = tuple(map(int, tables.costs.model(model).solo))
    versions = {
        "solo": solo,
        "local": (0,) * len(solo),
        "parallel": tuple(len(group) - 1 for group in tables.tilings[model]),
    }
    if choice not in versions:
        raise LookupError(f"co-runs: {choice!r} names no choice of versions ({', '.join(versions)})")
    return CoRunModel(model, choice, versions[choice], cores)


# Prediction.


class Tenancy:
    """Gives tenants their cores for good: query i belongs to tenant i mod the number of tenants."""

    def __init__(self, tenants: Sequence[CoRunModel]) -> None:
        """Take the tenants, which fit beside each other."""
        self._tenants = tenants

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        """Return an allocation of the next query of each tenant that does not run."""
        count = len(self._tenants)
        busy = {run.query.id % count for run in snapshot.running}
        answers: list[Answer] = []
        for entry in snapshot.pending:
            number = entry.query.id % count
            if number not in busy:
                busy.add(number)
                tenant = self._tenants[number]
                block = LayerBlock(tenant.model, 0, len(tenant.versions))
                answers.append(Allocation(entry.query.id, block, tenant.versions, tenant.cores))
            if len(busy) == count:
                break
        return answers


def predicted_slowdowns(
    tables: Tables, tenants: Sequence[CoRunModel], placement: str = "spread", costs: CostTable | None = None
) -> list[float]:
    """Return how many times as long as alone each of some tenants takes beside the others, without noise.

    The simulator does what `co_runs.beside_each_other` does: all begin at once and run over and over until
    each has ended once, and the median of each one's runs counts. `costs` is a table of medians, those of
    `tables` unless given.
    """
    known = without_noise(tables.costs) if costs is None else costs
    beside = _simulated_s(tables, known, tenants, placement)
    return [
        seconds / _simulated_s(tables, known, [tenant], placement)[0]
        for tenant, seconds in zip(tenants, beside, strict=True)
    ]


def _simulated_s(
    tables: Tables, costs: CostTable, tenants: Sequence[CoRunModel], placement: str
) -> list[float]:
    cores = sum(tenant.cores for tenant in tenants)
    if cores > tables.machine.cores:
        raise ValueError(
            f"{', '.join(map(str, tenants))} need {cores} cores, but {tables.machine.name} has "
            f"{tables.machine.cores}; give tenants that fit beside each other"
        )
    names = dict.fromkeys(tenant.model for tenant in tenants)
    models = {name: Model(name, tables.layers[name], 1.0) for name in names}
    context = Context(models, costs, tables.machine)
    arrivals = _arrivals(costs, tenants)
    # The table has no spread, so whatever is drawn is 1.
    simulator = Simulator(
        arrivals,
        context,
        noise_batches(arrivals, context, np.random.default_rng(0)),
        drain_s=NEVER_S,
        placement=placement,
        cost_model=tables.cost_model,
    )
    records = list(serve(Dispatcher(Tenancy(tenants), context), simulator))
    return _medians(records, len(tenants))


def _arrivals(costs: CostTable, tenants: Sequence[CoRunModel]) -> list[Query]:
    alone_s = [
        float(
            costs.model(one.model)
            .seconds[range(len(one.versions)), one.versions, costs.core_index(one.cores), 0]
            .sum()
        )
        for one in tenants
    ]
    count = len(tenants)
    # Enough that nobody is done with all of its runs before each has ended once.
    runs = [1 + ceil(MOST_SLOWED * max(alone_s) / own_s) if count > 1 else 1 for own_s in alone_s]
    numbers = sorted(index + count * run for index in range(count) for run in range(runs[index]))
    return [Query(number, tenants[number % count].model, 0.0, 1.0) for number in numbers]


def _medians(records: Sequence[QueryRecord], count: int) -> list[float]:
    ends: list[list[QueryRecord]] = [[] for _ in range(count)]
    for record in records:
        ends[record.query.id % count].append(record)
    last_s = max(min(record.end_s for record in own) for own in ends)
    return [
        float(np.median([record.end_s - record.start_s for record in own if record.end_s <= last_s]))
        for own in ends
    ]


# Errors, and the one number that is fitted.


def co_run_table(
    measured: Sequence[CoRun],
    pairs: Mapping[int, tuple[CoRunModel, CoRunModel]],
    fitted: Mapping[int, Sequence[float]],
    unfitted: Mapping[int, Sequence[float]],
) -> pd.DataFrame:
    """Return a row each side of each co-run: measured and modelled slowdowns, and their errors.

    `fitted` and `unfitted` are the predictions by co-run, of both sides. The null model's slowdown is 1.
    """
    rows = []
    for one in measured:
        tenant, other = pairs[one.corun][one.side], pairs[one.corun][1 - one.side]
        modelled, plain = fitted[one.corun][one.side], unfitted[one.corun][one.side]
        rows.append(
            {
                "corun": one.corun,
                "models": f"{tenant.model} beside {other.model}",
                "versions": f"{tenant.choice} beside {other.choice}",
                "cores": tenant.cores,
                "beside_cores": other.cores,
                "held_out": held_out(one.corun),
                "measured_slowdown": one.slowdown,
                "modelled_slowdown": modelled,
                "unfitted_slowdown": plain,
                "error": slowdown_error(modelled, one.slowdown),
                "unfitted_error": slowdown_error(plain, one.slowdown),
                "null_error": slowdown_error(1.0, one.slowdown),
            }
        )
    return pd.DataFrame(rows)


def slowdown_error(predicted: float, measured: float) -> float:
    """Return |predicted - measured| ÷ measured."""
    return abs(predicted - measured) / measured


def fit_demand(measured: Sequence[CoRun], predict: Callable[[float], Mapping[int, Sequence[float]]]) -> float:
    """Return the scale of demand, one of `SCALES`, whose predictions err least on the pairs to fit on.

    `predict` gives the slowdowns of both sides by co-run at a scale. Errors are averaged; of equal ones the
    scale nearest to 1 is kept, so data that say nothing change nothing. Raises ValueError without a pair to
    fit on.
    """
    fitted_on = [one for one in measured if not held_out(one.corun)]
    if not fitted_on:
        raise ValueError("no co-run to fit the demand on; measure two pairs at least")

    def mean_error(scale: float) -> float:
        slowdowns = predict(scale)
        errors = [slowdown_error(slowdowns[one.corun][one.side], one.slowdown) for one in fitted_on]
        return float(np.mean(errors))

    return min(SCALES, key=lambda scale: (round(mean_error(scale), 12), abs(log(scale))))


def predict_pairs(
    tables: Tables,
    pairs: Mapping[int, tuple[CoRunModel, CoRunModel]],
    placement: str,
    scale: float,
    only: Callable[[int], bool] = lambda _: True,
) -> dict[int, list[float]]:
    """Return the predicted slowdowns of both sides of co-runs at a scale of demand."""
    costs = without_noise(with_demand(tables.costs, scale))
    return {
        corun: predicted_slowdowns(tables, pair, placement, costs)
        for corun, pair in pairs.items()
        if only(corun)
    }
