"""A builder that builds nothing: what it publishes is sealed like what is built."""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field

from veltair.service.models.builder import Built
from veltair.service.models.registry import State
from veltair.service.models.store import Store

PLAN = """{"inputs": [{"name": "x", "shape": [1, 3], "dtype": "float32"}],
"outputs": [["layer", 0, 1], ["input", 0, 0]],
"layers": [{"outputs": [[9], [1, 5]], "dtypes": ["float32", "int64"]}]}"""


@dataclass
class FakeBuilder:
    """Builds at once, or once `gate` is set; with a `reason` all are refused for it."""

    store: Store
    reason: str = ""
    seconds: float = 1.0
    gate: asyncio.Event | None = None
    built: list[str] = field(default_factory=list)

    async def build(self, place: str, on_state: Callable[[State], None]) -> Built:
        """Publish a model of one layer."""
        for state in (State.CHECKING, State.COMPILING, State.PROFILING):
            on_state(state)
        if self.gate is not None:
            await self.gate.wait()
        self.built.append(place)
        if not self.reason:
            work = self.store.workplace()
            for name, text in (("build/kernels.so", place), ("build/plan.json", PLAN), ("tables/costs", "1")):
                (work / name).parent.mkdir(exist_ok=True)
                (work / name).write_text(text)
            self.store.publish(place, work)
            shutil.rmtree(work)
        return Built(self.seconds, self.reason)
