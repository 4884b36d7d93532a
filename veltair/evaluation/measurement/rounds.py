"""All servers measured in rounds: who serves, how a disturbed slot is repeated, and when it is given up.

A slot counts for all servers or for none: what one of them lost to a disturbance would else be compared with
what another had in peace.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from veltair.evaluation.loadgen.logs import LoadGenError
from veltair.evaluation.measurement.run_quality import RunQuality
from veltair.evaluation.measurement.slots import Grid, Slot
from veltair.evaluation.metrics.resampling import LEAST_ROUNDS

REPEATS = 2  # of a slot that something disturbed


@dataclass(frozen=True, slots=True, eq=False)
class ServedSlot:
    """What became of a slot that a server served: its query records, and how well they could be measured.

    `records` have the columns of `records.DTYPES`; `verdicts` are LoadGen's, a row a tenant (`verdict_rows`).
    `facts` is what else the server knows of it.
    """

    records: pd.DataFrame
    quality: RunQuality
    verdicts: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return it in one line."""
        counted = self.records[self.records["counted"]]
        on_time = f"{counted['on_time'].mean():.1%} on time, " if len(counted) else ""
        delay = f"issue delay p99 {1e3 * self.quality.issue_delay_p99_s:.2f} ms"
        others = f"others {self.quality.use.others:.1%} of the cores"
        return f"{len(counted)} counted queries, {on_time}{delay}, {others} {self.quality.problem}".rstrip()


class Server(Protocol):
    """Serves one slot after the other: it stays up between them, and nothing of a slot reaches the next."""

    def serve(self, slot: Slot, folder: Path) -> ServedSlot:
        """Return what became of a slot, whose logs are in a folder that is made.

        Raises LoadGenError where LoadGen failed; any other error ends the measurement.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """A server's try at a slot; `kept` tells that its records count, as do those of all servers there."""

    server: str
    slot: Slot
    number: int
    served: ServedSlot
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Rounds:
    """How long servers are measured on a grid: as many rounds as `seconds` hold, `LEAST_ROUNDS` at least.

    A round that may not end in time is not begun, and nothing is repeated any more once time is up. Logs of
    LoadGen go below `folder`.
    """

    grid: Grid
    seconds: float
    folder: Path
    clock: Callable[[], float] = field(default=time.monotonic, compare=False)

    def measure(self, servers: Mapping[str, Server]) -> list[Attempt]:
        """Return every try at every slot, in the order of time."""
        attempts: list[Attempt] = []
        end_s, number, longest_s = self.clock() + self.seconds, 0, 0.0
        while number < LEAST_ROUNDS or self.clock() + longest_s <= end_s:
            begin_s = self.clock()
            for slot, order in self.grid.round(number, list(servers)):
                attempts += self._serve(slot, {name: servers[name] for name in order}, end_s)
            longest_s = max(longest_s, self.clock() - begin_s)
            number += 1
        return attempts

    def _serve(self, slot: Slot, servers: Mapping[str, Server], end_s: float) -> list[Attempt]:
        """Return all tries of servers at a slot: those disturbed try again once the others are through."""
        found: list[Attempt] = []
        names = list(servers)
        for number in range(1 + REPEATS):
            if not names or (number and self.clock() > end_s):
                break
            tried = [self._attempt(name, servers[name], slot, number) for name in names]
            found += tried
            names = [attempt.server for attempt in tried if attempt.served.quality.problem]
        if names:
            print(f"{slot}: left out for all, as {', '.join(names)} was disturbed each time", flush=True)
            return found
        return [replace(attempt, kept=not attempt.served.quality.problem) for attempt in found]

    def _attempt(self, name: str, server: Server, slot: Slot, number: int) -> Attempt:
        path = self.folder / f"round{slot.round}" / f"{slot.share:g}" / f"{name}-{number}".replace(" ", "-")
        try:
            served = server.serve(slot, path)
        except LoadGenError as error:
            served = ServedSlot(_nothing(), RunQuality(str(error)))
        print(f"{slot}, {name}: {served}", flush=True)
        return Attempt(name, slot, number, served)


def kept_records(attempts: Sequence[Attempt]) -> pd.DataFrame:
    """Return the records of all slots that count. Raises RuntimeError if there is none."""
    frames = [attempt.served.records for attempt in attempts if attempt.kept]
    if not frames:
        raise RuntimeError("no slot could be measured: each was disturbed; the lines above say by what")
    return pd.concat(frames, ignore_index=True)


def attempt_rows(attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
    """Return a row a try: which slot, whether it counts, and how well it could be measured."""
    return [
        {
            "policy": attempt.server,
            "round": attempt.slot.round,
            "share": attempt.slot.share,
            "qps": attempt.slot.qps,
            "seed": attempt.slot.seed,
            "attempt": attempt.number,
            "kept": attempt.kept,
            "queries": len(attempt.served.records),
            **attempt.served.quality.columns(),
        }
        for attempt in attempts
    ]


def _nothing() -> pd.DataFrame:
    return pd.DataFrame({"counted": pd.Series(dtype="bool"), "on_time": pd.Series(dtype="bool")})
