"""What decides whether a request comes in: its tenant's quotas first, then whether it would be in time.

Pure: what time it is, what was measured and what is in memory are arguments. The prediction is that of
`veltair.serving.policies.in_time`, by which the simulator admits queries too.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from veltair.service.keys.tenant_keys import AdmissionKeys, TenantKeys
from veltair.service.tenancy.tenants import Account, Refusal, Ticket
from veltair.serving.policies.in_time import InTime, Prediction, Work

# Of memory, until loads and copies were measured; below what disks and memories of servers do.
ASSUMED_LOAD_BYTES_PER_S = 500e6
ASSUMED_COPY_BYTES_PER_S = 1e9
# What a copy of fewer bytes takes is the interpreter's time and tells nothing of the memory.
TELLING_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as admission sees it: whose it is, what for, and what it needs.

    `alone_s` and `core_s` are profiled; `load_bytes` are the weights to load first, 0 for a model in memory.
    """

    tenant: str
    model: str
    alone_s: float
    core_s: float
    input_bytes: int
    output_bytes: int
    load_bytes: int = 0


class Rates:
    """How long loads and copies take: of each model the slowest of its last loads, of copies the last few."""

    def __init__(self, window: int, percentile: float) -> None:
        self._window, self._percentile = window, percentile
        self._loads: dict[str, deque[float]] = {}
        self._copies: deque[float] = deque(maxlen=window)

    def loaded(self, model: str, seconds: float) -> None:
        """Take note of what a load took."""
        self._loads.setdefault(model, deque(maxlen=self._window)).append(seconds)

    def copied(self, nbytes: int, seconds: float) -> None:
        """Take note of a copy; one of few bytes tells nothing."""
        if nbytes >= TELLING_BYTES and seconds > 0:
            self._copies.append(nbytes / seconds)

    def load_s(self, model: str, nbytes: int) -> float:
        """Return what a load of a model will take; 0 for no bytes."""
        if not nbytes:
            return 0.0
        if known := sorted(self._loads.get(model, ())):
            return known[ceil(self._percentile * len(known)) - 1]
        return nbytes / ASSUMED_LOAD_BYTES_PER_S

    def copy_s(self, nbytes: int) -> float:
        """Return what a copy of so many bytes will take."""
        return nbytes / (min(self._copies) if self._copies else ASSUMED_COPY_BYTES_PER_S)


class Admission:
    """Who comes in, of all tenants. A request enters (its quotas), is offered (its deadline) and ends."""

    def __init__(self, tenants: Sequence[TenantKeys], keys: AdmissionKeys, cores: int, time_s: float) -> None:
        """Begin with nothing under way on so many cores."""
        self.rates = Rates(keys.window, keys.percentile)
        self._accounts = {tenant.name: Account(tenant, time_s) for tenant in tenants}
        self._in_time = InTime(
            {tenant.name: tenant.weight for tenant in tenants},
            cores,
            buffer_s=keys.buffer_ms / 1e3,
            window=keys.window,
            percentile=keys.percentile,
        )
        self._next = 0

    @property
    def accounts(self) -> Mapping[str, Account]:
        """The tenants' accounts by name."""
        return self._accounts

    def enter(self, asked: Asked, time_s: float) -> Ticket | Refusal:
        """Take what a request needs of its tenant's quotas, before its body is read."""
        nbytes = asked.input_bytes + asked.output_bytes
        return self._accounts[asked.tenant].admit(nbytes, asked.core_s, time_s)

    def offer(self, asked: Asked, deadline_s: float, time_s: float) -> tuple[int, Prediction]:
        """Predict a request whose inputs are there; return its number and whether it would be in time.

        If so, later ones are predicted to wait for it, until it has `ended`.
        """
        work = Work(
            execution_s=asked.alone_s,
            core_s=asked.core_s,
            copy_in_s=self.rates.copy_s(asked.input_bytes),
            load_s=self.rates.load_s(asked.model, asked.load_bytes),
            copy_out_s=self.rates.copy_s(asked.output_bytes),
        )
        number, self._next = self._next, self._next + 1
        return number, self._in_time.offer(number, asked.tenant, asked.model, work, deadline_s, time_s)

    def ended(self, number: int, execution_s: float | None, time_s: float) -> None:
        """End a request that was predicted to be in time and ran so long; None: it did not run.

        Raises LookupError for one that is not under way.
        """
        self._in_time.ended(number, execution_s, time_s)

    def leave(self, tenant: str, ticket: Ticket, core_s: float, time_s: float) -> None:
        """Give back what a request held of its tenant's quotas; it used so many core-seconds."""
        self._accounts[tenant].settle(ticket, core_s, time_s)

    def factor(self, model: str, time_s: float) -> float:
        """Return by what the profiled time of a model is multiplied now."""
        return self._in_time.factor(model, time_s)
