"""An engine that is none: it holds models in name, and answers with what a test tells it to."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from veltair.service.engine.link import (
    EngineDownError,
    EngineRefusalError,
    EngineStatistics,
    ModelCounts,
    Outcome,
    OutcomeKind,
    ServedModel,
    Slot,
    Tensor,
)

SERVED = Outcome(OutcomeKind.FINISHED, queue_s=0.001, compute_s=0.002, core_s=0.004)


class FakeSlot:
    """Memory of one request, filled with what must never be seen."""

    def __init__(self, model: ServedModel) -> None:
        self.key = model.key
        self._inputs = [bytearray(b"\xaa" * one.nbytes) for one in model.inputs]
        self._outputs = [bytearray(one.nbytes) for one in model.outputs]
        self.released = 0

    @property
    def inputs(self) -> list[memoryview]:
        """Writable bytes of each input."""
        return [memoryview(one) for one in self._inputs]

    @property
    def outputs(self) -> list[memoryview]:
        """Bytes of each output, writable for the engine only."""
        return [memoryview(one).toreadonly() for one in self._outputs]

    def answer(self) -> None:
        """Copy the inputs into the outputs, as the model `echo` computes."""
        for given, made in zip(self._inputs, self._outputs, strict=True):
            made[:] = given

    def release(self) -> None:
        """Give it back."""
        self.released += 1


def echo(key: str, shape: tuple[int, ...] = (1, 4), dtype: str = "float32", **others: float) -> ServedModel:
    """Return a model that answers with its input."""
    given = {"alone_s": 0.002, "core_s": 0.004, "weight_bytes": 100, "load_s": 0.0} | others
    return ServedModel(
        key=key,
        inputs=(Tensor("x", dtype, shape),),
        outputs=(Tensor("y", dtype, shape),),
        qos_s=0.1,
        buffer_bytes=0,
        slots=8,
        **given,
    )


@dataclass
class FakeLink:
    """The engine process as a test wants it: `outcome` is every request's, once `gate` is set."""

    outcome: Outcome = SERVED
    is_up: bool = True
    folders: dict[Path, ServedModel] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    slots: list[FakeSlot] = field(default_factory=list)
    asked: list[tuple[str, float, str]] = field(default_factory=list)
    cancelled: int = 0
    gate: asyncio.Event | None = None
    load: asyncio.Event | None = None
    models: dict[str, ServedModel] = field(default_factory=dict)

    async def add_model(self, key: str, folder: Path, qos_s: float, slots: int) -> ServedModel:
        """Serve what was put under the folder, else `echo`; wait for `load` before, if there is one."""
        if self.load is not None:
            await self.load.wait()
        if not self.is_up:
            raise EngineDownError("the engine is being started")
        if key in self.models:
            raise EngineRefusalError(f"{key} is served")
        model = self.folders.get(folder) or echo(key)
        self.models[key] = ServedModel(
            key, model.inputs, model.outputs, qos_s, model.alone_s, model.core_s, model.weight_bytes,
            model.buffer_bytes, slots, model.load_s,
        )  # fmt: skip
        self.added.append(key)
        return self.models[key]

    async def remove_model(self, key: str) -> None:
        """Serve a model no more."""
        if key not in self.models:
            raise EngineRefusalError(f"{key} is not served")
        del self.models[key]
        self.removed.append(key)

    def slot(self, key: str) -> Slot | None:
        """Return a new slot while there are fewer in use than the model has."""
        if not self.is_up:
            raise EngineDownError("the engine is being started")
        if key not in self.models:
            raise EngineRefusalError(f"{key} is not served")
        in_use = sum(one.key == key and not one.released for one in self.slots)
        if in_use >= self.models[key].slots:
            return None
        self.slots.append(FakeSlot(self.models[key]))
        return self.slots[-1]

    async def infer(self, slot: Slot, deadline_s: float, tenant: str) -> Outcome:
        """Answer by copying, once the gate is open."""
        assert isinstance(slot, FakeSlot)
        self.asked.append((slot.key, deadline_s, tenant))
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.outcome.has_outputs:
            slot.answer()
        return self.outcome

    async def statistics(self) -> EngineStatistics:
        """Return counts of nothing."""
        counts: Mapping[str, ModelCounts] = {}
        return EngineStatistics("none", 2, 0, 0, counts, {})

    async def drain(self) -> None:
        """Take no more."""
        self.is_up = False

    async def close(self) -> None:
        """End."""
