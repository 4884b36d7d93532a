"""Which tenant has which models in which versions, where each comes from and what state it is in.

A file of SQLite that outlives the process; one process writes it. All of it is held in memory too, so that a
request waits for no disk. Bytes lie elsewhere (`store.py`).
"""

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# What paths of the protocol have in the place of a name.
RESERVED = ("stats",)
VERSION = re.compile(r"[1-9][0-9]{0,8}")
# How long another process may have the file, as a copy for a backup does.
BUSY_S = 5.0

_TABLES = """
CREATE TABLE IF NOT EXISTS models (
    tenant TEXT, name TEXT, version INTEGER, digest TEXT NOT NULL, nbytes INTEGER NOT NULL,
    state TEXT NOT NULL, reason TEXT NOT NULL, built INTEGER NOT NULL, uploaded_s REAL NOT NULL,
    PRIMARY KEY (tenant, name, version)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uploads (
    time_s REAL NOT NULL, tenant TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL,
    digest TEXT NOT NULL, nbytes INTEGER NOT NULL
);
"""
_COLUMNS = "tenant, name, version, digest, nbytes, state, reason, built, uploaded_s"


class State(StrEnum):
    """Where a version of a model is in its life."""

    UPLOADED = "UPLOADED"
    CHECKING = "CHECKING"
    COMPILING = "COMPILING"
    PROFILING = "PROFILING"
    READY = "READY"
    TUNING = "TUNING"
    """It is served while better versions of its layers are searched."""
    UNAVAILABLE = "UNAVAILABLE"
    """It was unloaded, or cannot be served; the reason says which."""

    @property
    def is_served(self) -> bool:
        """Whether requests are answered."""
        return self in (State.READY, State.TUNING)


BEING_BUILT = (State.UPLOADED, State.CHECKING, State.COMPILING, State.PROFILING)
_NEXT: Mapping[State, tuple[State, ...]] = MappingProxyType(
    {
        State.UPLOADED: (State.CHECKING, State.READY),  # at once, where the same bytes were built before
        State.CHECKING: (State.COMPILING,),
        State.COMPILING: (State.PROFILING,),
        State.PROFILING: (State.READY,),
        State.READY: (State.TUNING,),
        State.TUNING: (State.READY,),
        State.UNAVAILABLE: (State.UPLOADED, State.READY),
    }
)


class RegistryError(ValueError):
    """What was asked of the registry cannot be done; the message says why."""


class ModelNameError(RegistryError):
    """A name or version that no model may have."""


class ExistsError(RegistryError):
    """There is such a version already, of other bytes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A version of a tenant's model. `digest` is the SHA-256 of its bytes, `built` says that it once was."""

    tenant: str
    name: str
    version: int
    digest: str
    nbytes: int
    state: State
    reason: str = ""
    built: bool = False
    uploaded_s: float = 0.0

    @property
    def key(self) -> tuple[str, str, int]:
        """What it is found by."""
        return self.tenant, self.name, self.version


def checked_name(name: str) -> str:
    """Return a model's name. Raises ModelNameError for one that is no plain word."""
    if name in RESERVED:
        raise ModelNameError("`stats` is a word of the protocol; rename the model")
    if not NAME.fullmatch(name):
        raise ModelNameError(
            "the model's name is not made of 1 to 128 letters, digits, '.', '_' and '-', the first a letter "
            "or digit; rename it"
        )
    return name


def checked_version(text: str) -> int:
    """Return a version. Raises ModelNameError for what is no whole number of 1 or more."""
    if not VERSION.fullmatch(text):
        raise ModelNameError("the version is not a whole number from 1 to 999999999; give one")
    return int(text)


class Registry:
    """The models of all tenants."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it. Raises RegistryError if it is none of ours."""
        try:
            self._file = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._file.executescript(_TABLES)
            rows = self._file.execute(f"SELECT {_COLUMNS} FROM models").fetchall()
        except sqlite3.Error as error:
            raise RegistryError(f"{path} cannot be opened as the registry: {error}; move it away") from None
        self._entries = {entry.key: entry for entry in map(_entry, rows)}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def of(self, tenant: str) -> Sequence[Entry]:
        """Return all that a tenant has, by name and version."""
        return sorted(
            (one for one in self._entries.values() if one.tenant == tenant), key=lambda one: one.key
        )

    def find(self, tenant: str, name: str, version: int | None = None) -> Entry | None:
        """Return a version of a tenant's model, or its newest: of those served if any is."""
        if version is not None:
            return self._entries.get((tenant, name, version))
        versions = [one for one in self._entries.values() if (one.tenant, one.name) == (tenant, name)]
        return max(versions, key=lambda one: (one.state.is_served, one.version), default=None)

    def versions(self, tenant: str, name: str) -> Sequence[Entry]:
        """Return the versions of a tenant's model, the oldest first."""
        return [one for one in self.of(tenant) if one.name == name]

    def upload(
        self, tenant: str, name: str, version: int, digest: str, nbytes: int, time_s: float
    ) -> tuple[Entry, bool]:
        """Note an upload; return its entry and whether it is to be built.

        The same bytes again change nothing, unless what they were could not be served. Raises ExistsError
        for other bytes under the same version while that is served or being built.
        """
        known = self._entries.get((tenant, name, version))
        if known is not None and known.state is not State.UNAVAILABLE:
            if known.digest != digest:
                raise ExistsError(
                    f"version {version} of {name} is there with other bytes; upload them as version "
                    f"{1 + max(one.version for one in self.versions(tenant, name))}, or unload it first"
                )
            return known, False
        built = known is not None and known.digest == digest and known.built
        entry = Entry(tenant, name, version, digest, nbytes, State.UPLOADED, "", built, time_s)
        with self._transaction():
            self._write(entry)
            self._file.execute(
                "INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?)",
                (time_s, tenant, name, version, digest, nbytes),
            )
        return entry, True

    def move(self, entry: Entry, state: State, reason: str = "") -> Entry:
        """Bring an entry into another state. Raises RegistryError for a step that its life does not have."""
        known = self._entries.get(entry.key)
        if known is None or known.digest != entry.digest:
            raise RegistryError(f"{entry.name} version {entry.version} is not there any more")
        if state is not State.UNAVAILABLE and state not in _NEXT[known.state]:
            raise RegistryError(f"{entry.name} is {known.state}, from which it cannot become {state}")
        moved = replace(known, state=state, reason=reason, built=known.built or state is State.READY)
        self._write(moved)
        return moved

    def remove(self, entry: Entry) -> None:
        """Forget an entry. Its upload stays noted."""
        self._file.execute("DELETE FROM models WHERE tenant=? AND name=? AND version=?", entry.key)
        self._entries.pop(entry.key, None)

    def unfinished(self) -> Sequence[Entry]:
        """Return what was being built when the process ended, brought back to the beginning."""
        found = [one for one in self._entries.values() if one.state in BEING_BUILT]
        again = [replace(one, state=State.UPLOADED, reason="") for one in found]
        for entry in again:
            self._write(entry)
        return sorted(again, key=lambda one: one.uploaded_s)

    def served(self) -> Sequence[Entry]:
        """Return all entries whose requests are answered."""
        return [one for one in self._entries.values() if one.state.is_served]

    def uploads(self, tenant: str) -> Sequence[tuple[float, str, int, str, int]]:
        """Return when a tenant uploaded what: time, name, version, digest, bytes; oldest first."""
        rows = self._file.execute(
            "SELECT time_s, name, version, digest, nbytes FROM uploads WHERE tenant=? ORDER BY rowid",
            (tenant,),
        )
        return rows.fetchall()

    def _write(self, entry: Entry) -> None:
        values = (
            *entry.key, entry.digest, entry.nbytes, entry.state.value, entry.reason, int(entry.built),
            entry.uploaded_s,
        )  # fmt: skip
        self._file.execute(
            f"INSERT OR REPLACE INTO models ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values
        )
        self._entries[entry.key] = entry

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._file)

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries.values()))


class _Transaction:
    def __init__(self, file: sqlite3.Connection) -> None:
        self._file = file

    def __enter__(self) -> None:
        self._file.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.execute("COMMIT" if kind is None else "ROLLBACK")


def _entry(row: tuple[str, str, int, str, int, str, str, int, float]) -> Entry:
    tenant, name, version, digest, nbytes, state, reason, built, uploaded_s = row
    return Entry(tenant, name, version, digest, nbytes, State(state), reason, bool(built), uploaded_s)
