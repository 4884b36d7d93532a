"""Who asks, and for how much: bearer token -> tenant, and the account of what each tenant still may use.

No clock is read here; whoever calls says what time it is, in seconds of any one clock.
"""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from veltair.service.keys.tenant_keys import TenantKeys

SCHEME = "bearer"
DAY_S = 86_400.0
# Over how long a tenant may save up core-seconds that it did not use.
SAVED_S = 1.0


class Tokens:
    """The valid tokens of all tenants, of which only digests are kept."""

    def __init__(self, tenants: Iterable[TenantKeys]) -> None:
        self._known = [(digest.encode(), tenant) for tenant in tenants for digest in tenant.digests]

    def tenant_of(self, authorization: str) -> TenantKeys | None:
        """Return whose token an `Authorization` header carries; None for no token, or one of nobody.

        It takes as long for a wrong token as for a right one.
        """
        scheme, _, token = authorization.partition(" ")
        given = sha256(token.strip().encode("utf-8", "surrogateescape")).hexdigest().encode()
        found = None
        for digest, tenant in self._known:
            if hmac.compare_digest(digest, given):
                found = tenant
        return found if scheme.lower() == SCHEME else None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A quota is used up: the key that bounds it, its value, and in how many seconds to try again."""

    quota: str
    value: float
    retry_after_s: float

    def __str__(self) -> str:
        return (
            f"the quota {self.quota} of {self.value:g} is used up; try again in {self.retry_after_s:.3g} s, "
            "or ask the operator for more"
        )


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a request under way holds of its tenant's quotas, until it is settled."""

    number: int
    nbytes: int
    core_s: float


class Bucket:
    """Units that come at a steady rate and are saved up to a bound."""

    def __init__(self, rate: float, most: float, time_s: float) -> None:
        """Begin full."""
        self._rate, self._most = rate, most
        self._units, self._time_s = most, time_s

    def wait_s(self, amount: float, time_s: float) -> float:
        """Return the seconds until so many units are there, 0 if they are; for more than fit, until full."""
        self._fill(time_s)
        return max(0.0, (min(amount, self._most) - self._units) / self._rate)

    def take(self, amount: float, time_s: float) -> None:
        """Take units, or give some back if `amount` is below 0; what is left may be below 0."""
        self._fill(time_s)
        self._units = min(self._most, self._units - amount)

    def _fill(self, time_s: float) -> None:
        if time_s > self._time_s:
            self._units = min(self._most, self._units + self._rate * (time_s - self._time_s))
            self._time_s = time_s


# What bounds requests under way is free again when one of them ends, which may be at any time.
SOON_S = 0.05


class Account:
    """What one tenant uses of its quotas."""

    def __init__(self, keys: TenantKeys, time_s: float) -> None:
        """Begin with nothing used."""
        self.keys = keys
        self._requests = None if keys.rate is None else Bucket(keys.rate, keys.burst, time_s)
        cores = keys.core_seconds_per_s
        self._cores = None if cores is None else Bucket(cores, cores * SAVED_S, time_s)
        self._compiling = Bucket(keys.compile_s_per_day / DAY_S, keys.compile_s_per_day, time_s)
        self._open: dict[int, Ticket] = {}
        self._bytes = 0
        self._next = 0

    @property
    def in_flight(self) -> int:
        """How many of its requests are under way."""
        return len(self._open)

    @property
    def queued_bytes(self) -> int:
        """Bytes of their tensors."""
        return self._bytes

    def admit(self, nbytes: int, core_s: float, time_s: float) -> Ticket | Refusal:
        """Take what a request of so many bytes and core-seconds needs, or nothing if a quota lacks it."""
        if refused := self._refusal(nbytes, core_s, time_s):
            return refused
        if self._requests is not None:
            self._requests.take(1, time_s)
        if self._cores is not None:
            self._cores.take(core_s, time_s)
        ticket = Ticket(self._next, nbytes, core_s)
        self._next += 1
        self._open[ticket.number] = ticket
        self._bytes += nbytes
        return ticket

    def settle(self, ticket: Ticket, core_s: float, time_s: float) -> None:
        """End a request that held so many core-seconds. Raises LookupError if it has ended before."""
        if self._open.pop(ticket.number, None) is None:
            raise LookupError(f"request {ticket.number} of {self.keys.name} has ended; settle each once")
        self._bytes -= ticket.nbytes
        if self._cores is not None:
            self._cores.take(core_s - ticket.core_s, time_s)

    def compile_refusal(self, time_s: float) -> Refusal | None:
        """Return why the builder may not work for it now; None if it may."""
        wait_s = self._compiling.wait_s(1.0, time_s)
        limit = self.keys.compile_s_per_day
        return Refusal("compile_s_per_day", limit, wait_s) if wait_s > 0 else None

    def compiled(self, seconds: float, time_s: float) -> None:
        """Pay for what the builder took."""
        self._compiling.take(seconds, time_s)

    def _refusal(self, nbytes: int, core_s: float, time_s: float) -> Refusal | None:
        keys = self.keys
        if len(self._open) >= keys.in_flight:
            return Refusal("in_flight", keys.in_flight, SOON_S)
        if self._bytes + nbytes > keys.queued_mb * 1e6:
            return Refusal("queued_mb", keys.queued_mb, SOON_S)
        if self._requests is not None and (wait_s := self._requests.wait_s(1, time_s)):
            return Refusal("rate", keys.rate or 0.0, wait_s)
        if self._cores is not None and (wait_s := self._cores.wait_s(core_s, time_s)):
            return Refusal("core_seconds_per_s", keys.core_seconds_per_s or 0.0, wait_s)
        return None
