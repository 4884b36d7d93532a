"""The search's record: a file for each structure, a line for each batch, each chained to those before it.

What a killed, truncated or tampered search still has is the prefix whose chain of SHA-256 holds.
"""

import gzip
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from veltair.compiler.footprint.version import Origin
from veltair.compiler.search.traces import TraceTable
from veltair.provenance import write_atomically

FORMAT = 1
SUFFIX = ".jsonl"
PACKED_SUFFIX = ".jsonl.gz"
MOVED_SUFFIX = ".refused"
EXHAUSTED = "exhausted"
FAILED = "failed"
# How much of an error is worth its bytes.
ERROR_CHARACTERS = 300

log = logging.getLogger("veltair.search")


@dataclass(frozen=True, slots=True)
class Header:
    """What a record's times are of: they may only be continued or compared where all of it is equal.

    `target` is the CPU that was compiled for, `cores` the count that loops were split for, `threads` how many
    ran a candidate, `repeats` the most times that it was timed.
    """

    structure: str
    target: str
    cores: int
    threads: int
    seed: int
    repeats: int
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class SearchTrial:
    """One candidate as it was measured: raw times in seconds (none: it failed, with the error).

    `origin` is "search", "schedule" for one written by hand, or "recipe", whose `trace` is a mapping.
    """

    trace: Any
    run_seconds: tuple[float, ...]
    origin: Origin
    error: str | None = None

    def __post_init__(self) -> None:
        if bool(self.run_seconds) == (self.error is not None):
            raise ValueError(
                f"Trial: {len(self.run_seconds)} times and error {self.error!r}; give one of both"
            )


@dataclass(frozen=True, slots=True)
class Batch:
    """Trials measured together in `wall_s`, choosing and building them included, on a CPU called `host`."""

    trials: tuple[SearchTrial, ...]
    wall_s: float
    host: str

    def __post_init__(self) -> None:
        if not self.trials:
            raise ValueError("Batch: no trials; give 1 or more")

    @property
    def seconds_per_trial(self) -> float:
        """What a trial of it took, in seconds."""
        return self.wall_s / len(self.trials)


@dataclass(frozen=True, slots=True)
class EarlyEnd:
    """Why a search stopped before its trials: there were no more candidates ("exhausted"), or it "failed"."""

    kind: str
    reason: str

    def __post_init__(self) -> None:
        if self.kind not in (EXHAUSTED, FAILED):
            raise ValueError(f"EarlyEnd: kind is {self.kind!r}; give {EXHAUSTED!r} or {FAILED!r}")


@dataclass(frozen=True, slots=True)
class Record:
    """What a record holds as far as its chain does, for `good_bytes`; `damage`: what is wrong after them."""

    header: Header | None
    batches: tuple[Batch, ...]
    ending: EarlyEnd | None
    good_bytes: int
    damage: str | None

    @property
    def trials(self) -> tuple[SearchTrial, ...]:
        """All trials, in the order in which they were measured."""
        return tuple(trial for batch in self.batches for trial in batch.trials)


class _Chain:
    """What reading or writing a line depends on: the digest of those before, and their instructions."""

    def __init__(self) -> None:
        self.digest = ""
        self.table = TraceTable()

    def line(self, body: dict[str, Any]) -> bytes:
        """Return the next line."""
        text = _canonical(body)
        self.digest = _digest(self.digest, text)
        return (_canonical({**body, "sha256": self.digest}) + "\n").encode()

    def batch_line(self, batch: Batch) -> bytes:
        """Return the next line, of a batch."""
        known = len(self.table)
        trials = [_written(trial, self.table) for trial in batch.trials]
        body = {"wall_s": round(batch.wall_s, 3), "host": batch.host, "new": self.table.since(known)}
        return self.line({"batch": {**body, "trials": trials}})

    def read(self, line: bytes) -> dict[str, Any]:
        """Return the body of the next line. Raises ValueError if it is not the one that was written."""
        body: dict[str, Any] = json.loads(line)
        written = body.pop("sha256")
        if written != _digest(self.digest, _canonical(body)):
            raise ValueError("its SHA-256 does not fit what it holds and follows")
        self.digest = written
        return body

    def read_batch(self, body: dict[str, Any]) -> Batch:
        """Return the batch of a line's body."""
        self.table.extend(body["new"])
        trials = tuple(
            SearchTrial(
                self.table.restore(trial), tuple(trial["run_seconds"]), trial["origin"], trial.get("error")
            )
            for trial in body["trials"]
        )
        return Batch(trials, body["wall_s"], body["host"])


def parse(content: bytes) -> Record:
    """Return what a record's bytes hold, as far as they are whole; never raises for their content."""
    return _parse(content)[0]


def read_record(path: Path) -> Record | None:
    """Return the record in a file, packed or not; None if there is none."""
    return parse(_content(path)) if path.exists() else None


def find_record(structure: str, folder: Path) -> Record | None:
    """Return the record of a structure in a folder, packed or not; None if there is none."""
    return read_record(folder / f"{structure}{SUFFIX}") or read_record(folder / f"{structure}{PACKED_SUFFIX}")


class RecordFile:
    """The record of one structure, open to be continued; what was appended is on the disk."""

    def __init__(self, folder: Path, header: Header) -> None:
        """Open or begin it; damage is cut off, a record of another search moved aside, both are logged."""
        self.path, self.header = folder / f"{header.structure}{SUFFIX}", header
        self.record, self._chain = _parse(self.path.read_bytes() if self.path.exists() else b"")
        if self.path.exists() and self.record.header != header:
            self._move_aside(_difference(self.record, header))
            self.record, self._chain = _parse(b"")
        if not self.path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically({self.path: self._chain.line({"header": asdict(header)})})
            self.record = parse(self.path.read_bytes())
        elif self.record.damage is not None:
            log.warning(
                "%s: %s; its first %d trials are kept, the others are searched anew",
                self.path, self.record.damage, len(self.record.trials),
            )  # fmt: skip
            os.truncate(self.path, self.record.good_bytes)
            self.record, self._chain = _parse(self.path.read_bytes())

    def append(self, batch: Batch) -> None:
        """Write a batch."""
        line = self._chain.batch_line(batch)
        self._write(line)
        # As it is read: an error is cut short, times are whole nanoseconds.
        read = self._chain.read_batch(json.loads(line)["batch"])
        self.record = replace(
            self.record,
            batches=(*self.record.batches, read),
            ending=None,
            good_bytes=self.record.good_bytes + len(line),
        )

    def end(self, ending: EarlyEnd) -> None:
        """Write why the search stopped, unless that is what was last written."""
        if self.record.ending == ending:
            return
        line = self._chain.line({"ending": asdict(ending)})
        self._write(line)
        self.record = replace(self.record, ending=ending, good_bytes=self.record.good_bytes + len(line))

    def _write(self, line: bytes) -> None:
        with self.path.open("ab") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    def _move_aside(self, reason: str) -> None:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}{MOVED_SUFFIX}-{number}")).exists():
            number += 1
        log.warning("%s: %s; moved to %s and searched anew", self.path, reason, aside.name)
        self.path.rename(aside)


def pack(folder: Path, into: Path) -> list[Path]:
    """Compress every record of a folder; return the files that were written.

    The same record always gives the same bytes. One that is packed already with more batches is left alone.
    """
    written = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        content = _good(path.read_bytes())
        packed = into / f"{path.name}.gz"
        if not content or (packed.exists() and _good(_content(packed)).startswith(content)):
            continue
        write_atomically({packed: gzip.compress(content, 9, mtime=0)})
        written.append(packed)
    return written


def unpack(folder: Path, into: Path, structures: Iterable[str]) -> list[str]:
    """Unpack the records of structures, to be continued; return those that were.

    A record that is there already is only replaced by one that continues it.
    """
    unpacked = []
    for structure in structures:
        packed, path = folder / f"{structure}{PACKED_SUFFIX}", into / f"{structure}{SUFFIX}"
        content = _good(_content(packed)) if packed.exists() else b""
        if packed.exists() and (damage := parse(_content(packed)).damage):
            log.warning("%s: %s; only what is before is used", packed, damage)
        present = _good(path.read_bytes()) if path.exists() else b""
        if len(content) > len(present) and content.startswith(present):
            write_atomically({path: content})
            unpacked.append(structure)
    return unpacked


def _parse(content: bytes) -> tuple[Record, _Chain]:
    chain = _Chain()
    header, ending, damage = None, None, None
    batches: list[Batch] = []
    good_bytes = 0
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        before = chain.digest
        try:
            if not line.endswith(b"\n"):
                raise ValueError("it was cut off")
            body = chain.read(line)
            if number == 1:
                header = Header(**body["header"])
            elif "batch" in body:
                batches.append(chain.read_batch(body["batch"]))
            ending = EarlyEnd(**body["ending"]) if "ending" in body else None
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            chain.digest = before
            damage = f"line {number} is damaged ({error})"
            break
        good_bytes += len(line)
    return Record(header, tuple(batches), ending, good_bytes, damage), chain


def _difference(record: Record, header: Header) -> str:
    """Return in words why a record cannot be continued under a header."""
    if record.header is None:
        return record.damage or "it is empty"
    differing = (
        f"{field.name} {getattr(record.header, field.name)!r}, wanted {getattr(header, field.name)!r}"
        for field in fields(Header)
        if getattr(record.header, field.name) != getattr(header, field.name)
    )
    return f"it is of another search ({'; '.join(differing)})"


def _written(trial: SearchTrial, table: TraceTable) -> dict[str, Any]:
    """Return a trial for JSON; the clock that timed it counts nanoseconds, so no more is written."""
    error = {} if trial.error is None else {"error": trial.error[-ERROR_CHARACTERS:]}
    seconds = [max(round(second, 9), 1e-9) for second in trial.run_seconds]
    return {**table.shorten(trial.trace), "run_seconds": seconds, "origin": trial.origin, **error}


def _content(path: Path) -> bytes:
    """Return what a file holds, unpacked as far as it can be."""
    content = path.read_bytes()
    if not path.name.endswith(PACKED_SUFFIX):
        return content
    unpacking = zlib.decompressobj(wbits=31)
    found = b""
    for start in range(0, len(content), 4096):
        try:
            found += unpacking.decompress(content[start : start + 4096])
        except zlib.error:
            break
    return found


def _good(content: bytes) -> bytes:
    return content[: parse(content).good_bytes]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(previous: str, text: str) -> str:
    return hashlib.sha256((previous + text).encode()).hexdigest()


def seconds_per_trial(records: Sequence[Record]) -> float | None:
    """Return what a trial of records took in the mean, in seconds; None if they have none."""
    batches = [batch for record in records for batch in record.batches]
    trials = sum(len(batch.trials) for batch in batches)
    return sum(batch.wall_s for batch in batches) / trials if trials else None
