"""What is measured of a service that runs, beside a server that computes nothing and the engine alone."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from veltair.evaluation.benchmarks.service.figures import OK, QUOTA_TIMES, Load, Paired
from veltair.evaluation.benchmarks.service.senders import Caller, Sender, send
from veltair.evaluation.benchmarks.service.started import StartedService
from veltair.evaluation.remote.connection import Address
from veltair.evaluation.remote.server_facts import RemoteError

# Long enough for every thread to sleep: each request of a pair finds the machine at rest.
REST_S = 0.002
READINGS = 20
# A model that was loaded gives way only after three times as long as that took, one that was asked after 1 s.
STAY_S, STAYS = 1.5, 4.0


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured: rounds of requests in turn, slots of a load, refusals, swaps, loads."""

    rounds: int = 5
    requests: int = 200
    slot_rounds: int = 3
    slot_s: float = 3.0
    refusals: int = 300
    swaps: int = 7
    cycles: int = 200


def paired_rounds(
    served: Caller, in_process: Callable[[], float], null: Caller, message: bytes, extent: Extent
) -> list[Paired]:
    """Ask the service, the engine in process and the null server in turn, each at rest."""

    def asked_s(caller: Caller) -> float:
        time.sleep(REST_S)
        seconds, answer = caller.ask(message)
        if answer.code != OK:
            raise RemoteError(f"an answer of {answer.code}: {answer.body[:200]!r}")
        return seconds

    def bare_s() -> float:
        time.sleep(REST_S)
        return in_process()

    kinds: list[Callable[[], float]] = [lambda: asked_s(served), bare_s, lambda: asked_s(null)]
    for ask in kinds:  # whatever is slow the first time
        ask()
    rounds = []
    for _ in range(extent.rounds):
        times = np.array([[ask() for ask in kinds] for _ in range(extent.requests)])
        rounds.append(Paired(times[:, 0], times[:, 1], times[:, 2]))
    return rounds


def isolation_rounds(
    address: Address, victim: Sender, aggressor: Sender, extent: Extent, seed: int
) -> tuple[list[dict[int, Load]], list[float]]:
    """Let a victim send in slots beside an aggressor that sends 0, 1 and 10 times its quota, in turn.

    `aggressor` sends its quota. Each round has the same arrivals at all servers that are asked with one seed.
    Also returns how late the client was in each slot, in seconds.
    """
    rounds, late_s = [], []
    for number in range(extent.slot_rounds):
        loads = {}
        for times in QUOTA_TIMES:
            senders = {"victim": victim}
            if times:
                senders["aggressor"] = Sender(aggressor.message, times * aggressor.qps)
            generator = np.random.default_rng([seed, number])
            found, late = send(address, senders, extent.slot_s, generator)
            loads[times] = found["victim"]
            late_s.append(late)
        rounds.append(loads)
    return rounds, late_s


def refused_s(caller: Caller, message: bytes, code: int, count: int) -> list[float]:
    """Return the seconds of so many answers of a code. Raises RemoteError if they do not come."""
    times: list[float] = []
    for _ in range(20 * count):
        seconds, answer = caller.ask(message)
        if answer.code == code:
            times.append(seconds)
        if len(times) == count:
            return times
    raise RemoteError(f"of {20 * count} answers {len(times)} were {code}, not {count}")


def swap_ins_s(callers: Mapping[str, Caller], messages: Mapping[str, bytes], swaps: int) -> list[float]:
    """Return what a request takes longer for a model that must be loaded first, of models in turn.

    They displace one another; each is asked again at once, when it is in memory.
    """
    added, rest_s = list[float](), STAY_S
    for number in range(swaps + 1):
        name = list(messages)[number % len(messages)]
        time.sleep(rest_s)
        cold, warm = (callers[name].ask(messages[name]) for _ in range(2))
        if (cold[1].code, warm[1].code) != (OK, OK):
            raise RemoteError(f"{name}: {cold[1].code}, {warm[1].code}: {cold[1].body[:200]!r}")
        added.append(cold[0] - warm[0])
        rest_s = max(STAY_S, STAYS * cold[0])
    return added[1:]  # the first one may have found its model in memory


def load_rounds(
    service: StartedService, victim: Sender, owner: str, model: str, extent: Extent, seed: int
) -> tuple[list[tuple[Load, Load]], int]:
    """Let a victim send in slots in which no model loads, and in ones in which one always does.

    Also returns how many loads there were.
    """
    rounds, loads = [], 0
    for number in range(extent.slot_rounds):
        both = []
        for is_busy in (False, True):
            ends = threading.Event()
            done: list[int] = []
            loader = threading.Thread(target=_load_on, args=(service, owner, model, ends, done))
            if is_busy:
                loader.start()
            try:
                generator = np.random.default_rng([seed, number])
                found, _ = send(service.address, {"victim": victim}, extent.slot_s, generator)
            finally:
                ends.set()
                if is_busy:
                    loader.join()
            loads += len(done)
            both.append(found["victim"])
        rounds.append((both[0], both[1]))
    if not loads:
        raise RemoteError(f"{model} was not loaded once")
    return rounds, loads


def _load_on(service: StartedService, owner: str, model: str, ends: threading.Event, done: list[int]) -> None:
    while not ends.is_set():
        service.change(owner, model, "unload")
        service.change(owner, model, "load")
        done.append(1)


def resident_readings(service: StartedService, owner: str, model: str, cycles: int) -> list[int]:
    """Unload and load a model so often; return the engine's memory at READINGS even steps, and before."""
    found = [service.resident_bytes()]
    each = max(cycles // READINGS, 1)
    for cycle in range(1, cycles + 1):
        service.change(owner, model, "unload")
        service.change(owner, model, "load")
        if cycle % each == 0:
            found.append(service.resident_bytes())
    return found
