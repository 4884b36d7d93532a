"""What the front knows of the engine process: models, slots of memory for requests, and outcomes.

Pure data and one protocol, `EngineLink`. `engine_client.py` is the link to the real process; tests of the
front may have one of their own. Nothing here is for several threads: a link belongs to one event loop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np

TENANT_BYTES = 64
"""The longest name of a tenant, in UTF-8."""


class EngineDownError(RuntimeError):
    """The engine process is not there, or ended before it answered; it is being started anew."""


class EngineRefusalError(RuntimeError):
    """The engine cannot do what was asked for; the message says why and names no path."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a model: its name, its numpy dtype and its shape, without open extents."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its elements, row-major, without gaps."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that the engine serves under `key`.

    `qos_s` is the latency target that policies plan for, and the deadline of requests without one. `alone_s`
    is the profiled time of a request alone on the cores that suit it best, `core_s` the least core-seconds of
    one. `weight_bytes` are held in memory while it is served, `buffer_bytes` by its activations; `slots`
    requests may be under way at once. `load_s` is how long it took until it could be asked.
    """

    key: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    qos_s: float
    alone_s: float
    core_s: float
    weight_bytes: int
    buffer_bytes: int
    slots: int
    load_s: float


class OutcomeKind(StrEnum):
    """What became of a request."""

    FINISHED = "finished"
    """The outputs are in the slot, in time."""
    LATE = "late"
    """The outputs are in the slot, after the deadline."""
    REJECTED = "rejected"
    """The policy gave it up: nothing of it runs any more, and there are no outputs."""
    CANCELLED = "cancelled"
    """It was cancelled before it had begun."""
    FAILED = "failed"
    """The engine ended meanwhile, or could not serve it; `reason` says so."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a request. Times are seconds.

    `queue_s` is from its receipt by the engine to the start of its first layer, `compute_s` from there to its
    end, waits between blocks included; both are 0 where nothing was begun. `core_s` are the core-seconds that
    it held.
    """

    kind: OutcomeKind
    queue_s: float = 0.0
    compute_s: float = 0.0
    core_s: float = 0.0
    reason: str = ""

    @property
    def has_outputs(self) -> bool:
        """Whether the slot holds the answer."""
        return self.kind in (OutcomeKind.FINISHED, OutcomeKind.LATE)


class Slot(Protocol):
    """Memory that front and engine share, for one request of one model at a time.

    What an earlier request left is not seen: inputs are to be overwritten whole, and outputs read zero until
    the engine has written them.
    """

    @property
    def key(self) -> str:
        """The model that it is for."""

    @property
    def inputs(self) -> Sequence[memoryview]:
        """Writable bytes of each input, of its exact size."""

    @property
    def outputs(self) -> Sequence[memoryview]:
        """Read-only bytes of each output, of its exact size; valid until `release`."""

    def release(self) -> None:
        """Give it back: to others as soon as the engine is done with it. A second call does nothing."""


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """Of one model, since it was added: requests by what became of them, and sums of seconds of the ended."""

    ended: Mapping[OutcomeKind, int]
    queue_s: float
    compute_s: float
    core_s: float
    under_way: int
    slots_free: int


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """What the engine process says of itself now.

    `policy` decides on `cores`; `restarts` counts how often the process was started anew. `models` are by
    key, `core_s_by_tenant` the core-seconds held by each tenant's requests since the front began.
    """

    policy: str
    cores: int
    restarts: int
    resident_bytes: int
    models: Mapping[str, ModelCounts]
    core_s_by_tenant: Mapping[str, float]


class EngineLink(Protocol):
    """The engine process as the front sees it."""

    @property
    def is_up(self) -> bool:
        """Whether the process takes requests: not while it is started anew, nor once it drains."""

    @property
    def models(self) -> Mapping[str, ServedModel]:
        """The models that can be asked now, by key."""

    async def add_model(self, key: str, folder: Path, qos_s: float, slots: int) -> ServedModel:
        """Serve the model of an artifact folder under a key; requests of others go on meanwhile.

        The folder has `build/`, as the compiler's `build` leaves it, and `tables/`, as the profile step
        leaves it, of this machine; both of this one model, under any name. The link adds the model again
        whenever the engine is started anew. Raises EngineRefusalError if the folder is no such one, another
        machine's, or the key is in use; EngineDownError.
        """

    async def remove_model(self, key: str) -> None:
        """Take no more requests of a model, wait for those under way, then free its memory.

        Raises EngineRefusalError for a key that is not served; EngineDownError.
        """

    def slot(self, key: str) -> Slot | None:
        """Return a slot of a model; None if all are in use.

        Raises EngineRefusalError for a key that is not served, EngineDownError.
        """

    async def infer(self, slot: Slot, deadline_s: float, tenant: str) -> Outcome:
        """Ask the engine for the outputs of the inputs in a slot, by `deadline_s` of the monotonic clock.

        The slot stays the caller's, to read the outputs from, until it is released. If the task is cancelled,
        the request is too, unless it has begun. Whatever happens to the engine, the outcome says so: this
        raises nothing but CancelledError, and ValueError for a slot that is under way or was released.
        """

    async def statistics(self) -> EngineStatistics:
        """Return the engine's counts. Raises EngineDownError."""

    async def drain(self) -> None:
        """Take no more requests, and return once all that were taken have ended."""

    async def close(self) -> None:
        """End the connection; what is under way fails."""
