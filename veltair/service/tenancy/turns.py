"""Whose request goes to the engine next: tenants take turns by core-seconds, the engine has few at a time.

The engine's policy decides about those that it has. What it has not yet, it cannot prefer, so a tenant that
sends a thousand requests at once has as many of them there as its turns allow.
"""

import asyncio
from collections.abc import Mapping

from veltair.serving.policies.fair import FairQueue, Order


class Turns:
    """The door to the engine, for one event loop."""

    def __init__(self, weights: Mapping[str, float], most: int) -> None:
        """Let at most so many requests be in the engine at once."""
        self._queue: FairQueue[tuple[asyncio.Future[None], float]] = FairQueue(weights)
        self._most, self._inside = most, 0

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._queue)

    @property
    def inside(self) -> int:
        """How many have had their turn and not ended."""
        return self._inside

    async def take(self, tenant: str, core_s: float, order: Order) -> None:
        """Return when it is a request's turn; of a tenant's the least `order` comes first.

        It is then in the engine until `end`. If the task is cancelled, it never was.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (turn, core_s)
        self._queue.push(tenant, entry, order)
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if not self._queue.remove(tenant, entry):
                self.end(tenant, core_s, 0.0)
            raise

    def end(self, tenant: str, paid_core_s: float, core_s: float) -> None:
        """Let the next in: a request has left the engine that held so many core-seconds."""
        self._queue.settle(tenant, paid_core_s, core_s)
        self._inside -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._inside < self._most and len(self._queue):
            _, core_s = self._queue.peek()
            turn, _ = self._queue.pop(core_s)
            self._inside += 1
            turn.set_result(None)
