"""Finds layers and policies that hang, and cores that are taken away while blocks run."""

import time
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from veltair.machine.costs.table import CostTable
from veltair.machine.topology.cpu_limits import allowance
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.pool import BlockRun
from veltair.serving.engine.running_blocks import RunningBlock
from veltair.serving.loop.open_queries import PolicyError
from veltair.serving.loop.policy import Policy
from veltair.serving.policies.deciders import Decider

PERIOD_S = 0.25  # between checks
HANG_FACTOR = 10.0
# Workers give way to everything else on the machine: a layer may wait for its core longer than it takes.
HANG_S = 1.0
# Far more than a decision takes, though Python may wait for a core, and the first one may make tables.
DECISION_HANG_S = 10.0
_LOOK_S = 0.001


class EngineError(RuntimeError):
    """A run on real cores failed; the message says where and what to do."""


def check_tables(costs: CostTable, machine: Machine) -> None:
    """Raise EngineError if a cost table is another machine's."""
    if costs.machine != machine.name:
        raise EngineError(
            f"the cost table is of {costs.machine}, this machine is {machine.name}; measure it here "
            "(`profile.costs: measured`) or only simulate (`measured.enabled: false`)"
        )


def failed_error(layer: int, model: str, error: Exception) -> EngineError:
    """Return the error that a kernel raised."""
    return EngineError(f"layer {layer} of {model} failed: {error}; build the model anew (rule `build`)")


def left_error(workers: int) -> EngineError:
    """Return the error that so many workers do not end."""
    return EngineError(f"{workers} workers do not end: a kernel hangs; build the models anew (rule `build`)")


class BlockStates(Protocol):
    """Says what running blocks are at: a worker pool, or whoever reads what workers say of themselves."""

    def ended_layers(self, block: BlockRun) -> int:
        """Return how many layers of a running block have ended."""

    def layer_started_s(self, block: BlockRun) -> float:
        """Return when the current layer of a running block began, on the monotonic clock."""


class Watchdog:
    """Checks now and then the running blocks, and the cores and the quota that the system allows.

    `found_hang` tells that a worker will never end.
    """

    def __init__(self, states: BlockStates, costs: CostTable, core_ids: Sequence[int]) -> None:
        """Remember what this thread may use now: it must keep that."""
        self._states, self._costs, self._core_ids = states, costs, core_ids
        self._allowed = allowance()
        self._checked_s = time.monotonic()
        self.found_hang = False

    @property
    def period_s(self) -> float:
        """The longest wait before the next check."""
        return PERIOD_S

    def read(self, costs: CostTable) -> None:
        """Go by other costs from now on: those of the models that are served by now."""
        self._costs = costs

    def check(self, blocks: Iterable[RunningBlock]) -> None:
        """Check, unless that was just done.

        Raises EngineError for a layer that takes far longer than it ever did, and as `check_allowance`.
        """
        now_s = time.monotonic()
        if now_s - self._checked_s < PERIOD_S:
            return
        self._checked_s = now_s
        self.check_allowance()
        for started in blocks:
            self._check_layer(started, now_s - self._states.layer_started_s(started.run))

    def check_allowance(self) -> None:
        """Raise EngineError if cores, or time on them, were taken away since the begin."""
        if taken := self._allowed.taken(allowance(), self._core_ids):
            raise EngineError(taken)

    def _check_layer(self, started: RunningBlock, layer_s: float) -> None:
        if layer_s <= HANG_S:
            return
        block = started.allocation.block
        layer = min(block.start + self._states.ended_layers(started.run), block.stop - 1)
        seconds = self._costs.model(block.model).seconds[layer]
        profiled_s = float(seconds[np.isfinite(seconds)].max())  # infinite where there is no version
        if layer_s > HANG_FACTOR * profiled_s:
            self.found_hang = True
            raise EngineError(
                f"layer {layer} of {block.model} has been running for {layer_s:.1f} s, but took "
                f"{1e3 * profiled_s:.3g} ms at most when it was profiled: its kernel hangs; build the "
                "model anew (rule `build`); if other programs kept its core meanwhile, end those"
            )


class DecisionWatch:
    """Looks now and then whether a policy still decides what it decided when looked at last."""

    def __init__(self, policy: Policy, decider: Decider) -> None:
        """Watch a policy that is called back by its decider."""
        self._policy, self._decider = policy, decider
        self._decision, self._since_s = 0, 0.0

    @property
    def is_deciding(self) -> bool:
        """Whether the decision that was under way at the last check still is."""
        return self._decision != 0 and self._decider.decision == self._decision

    def outlasts(self) -> bool:
        """Wait until the decision under way has ended, and return True; False if it hangs."""
        decision, began_s = self._decider.decision, time.monotonic()
        if decision == self._decision:
            began_s = self._since_s
        while decision and self._decider.decision == decision:
            if time.monotonic() - began_s > DECISION_HANG_S:
                return False
            time.sleep(_LOOK_S)
        return True

    def check(self) -> None:
        """Raise PolicyError if a decision has been under way for long."""
        if not self.is_deciding:
            self._decision, self._since_s = self._decider.decision, time.monotonic()
            return
        if (seconds := time.monotonic() - self._since_s) > DECISION_HANG_S:
            raise PolicyError(
                f"{type(self._policy).__name__} has been deciding for {seconds:.1f} s and goes on: its "
                "`allocate` hangs"
            )
