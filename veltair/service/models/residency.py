"""Which models are in memory: those in demand, within a budget, without tenants displacing each other.

A model's demand is the core-seconds that are asked of it: of the queries that wait for it, and of those that
its recent rate lets expect. The absent model in most demand is loaded next; room for it is made by resident
ones in less demand. Pure; the time is an argument.

Source: the load tracker of Gujarati et al., "Clockwork", OSDI 2020.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# How long a model stays once loaded, in times of its load: else two models that do not fit together would
# take turns and the machine would do nothing but load.
STAYS_LOADS = 3.0
# For how long ahead the recent rate of a model counts.
HORIZON_S = 1.0


@dataclass(frozen=True, slots=True)
class ModelUse:
    """What is known of a model when it is decided: its owner, size, and what is asked of it.

    `waiting` queries wait for it, `rate` came a second lately, each holds `core_s` core-seconds. `load_s` is
    what a load takes. `loaded_s` is when its last load ended; None: it is not in memory. One in use stays.
    """

    name: str
    tenant: str
    nbytes: int
    core_s: float
    load_s: float
    rate: float = 0.0
    waiting: int = 0
    loaded_s: float | None = None
    in_use: bool = False

    @property
    def demand_core_s(self) -> float:
        """Core-seconds that are asked of it."""
        return self.core_s * (self.waiting + self.rate * HORIZON_S)


@dataclass(frozen=True, slots=True)
class Change:
    """Load a model once others are evicted."""

    load: str
    evict: tuple[str, ...] = ()


def next_change(
    models: Sequence[ModelUse],
    budget_bytes: int,
    guaranteed_bytes: Mapping[str, int],
    time_s: float,
) -> Change | None:
    """Return which model to load next and what gives way to it; None: leave all as it is.

    `guaranteed_bytes` are what each tenant's models may hold without giving way to others'. Of absent models
    the one in most demand is tried first, and one for which no room can be made does not hold up the others.
    """
    absent = [one for one in models if one.loaded_s is None and one.demand_core_s > 0]
    for wanted in sorted(absent, key=lambda one: -one.demand_core_s):
        leaving = _leaving(wanted, models, budget_bytes, guaranteed_bytes, time_s)
        if leaving is not None:
            return Change(wanted.name, leaving)
    return None


def stays_until_s(model: ModelUse) -> float:
    """Return until when a resident model does not give way."""
    return (model.loaded_s or 0.0) + STAYS_LOADS * model.load_s


def _leaving(
    wanted: ModelUse,
    models: Sequence[ModelUse],
    budget_bytes: int,
    guaranteed_bytes: Mapping[str, int],
    time_s: float,
) -> tuple[str, ...] | None:
    """Return the models that make room for one, no more than needed; None if there is not enough room."""
    resident = [one for one in models if one.loaded_s is not None]
    free_bytes = budget_bytes - sum(one.nbytes for one in resident)
    held: dict[str, int] = {}
    for one in resident:
        held[one.tenant] = held.get(one.tenant, 0) + one.nbytes
    # A tenant may claim what it is guaranteed, however much its models are in demand; more only by demand.
    claims = held.get(wanted.tenant, 0) + wanted.nbytes <= guaranteed_bytes.get(wanted.tenant, 0)
    leaving: list[str] = []
    for one in sorted(resident, key=lambda one: one.demand_core_s):
        if free_bytes >= wanted.nbytes:
            break
        if one.in_use or time_s < stays_until_s(one):
            continue
        foreign = one.tenant != wanted.tenant
        if foreign and held[one.tenant] - one.nbytes < guaranteed_bytes.get(one.tenant, 0):
            continue
        if one.demand_core_s >= wanted.demand_core_s and not (foreign and claims):
            continue
        leaving.append(one.name)
        held[one.tenant] -= one.nbytes
        free_bytes += one.nbytes
    return tuple(leaving) if free_bytes >= wanted.nbytes else None
