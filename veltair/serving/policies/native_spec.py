"""Policies as data: what the simulator's loop in C needs to decide as a policy's `allocate` would.

A policy that has a plan is simulated many times as fast and with the same records, to the last bit. The
policies here and in `baselines/` have one; a policy of your own needs none. `allocate` remains what decides
on a real machine, and the oracle that tests compare the plan with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from veltair.serving.loop.policy import Policy
from veltair.serving.policies.blocks import BlockFormer, Budgets
from veltair.serving.policies.discipline import Conflict, DropLate, Order, Proposal
from veltair.serving.policies.latency_tables import LatencyTables

FormBlock = Callable[[str, int, int], Proposal]
"""Returns the next block of a model by its first layer and the place of its budgets' scale in `SCALES`."""


class DecisionKind(IntEnum):
    """What a policy asks cores for; the numbers are those of serving_loop.c."""

    BLOCKS = 0
    """Blocks of some layers with a need, as a `FormBlock` or a `BlockFormer` makes them."""
    SLACK_BLOCKS = 1
    """Blocks of `block_layers` layers, on the fewest cores that bring the whole query home in time."""
    ALL_CORES = 2
    """One whole model at a time."""
    SHARES = 3
    """Whole models that share the cores out by slack."""


@dataclass(frozen=True, slots=True)
class NativePolicySpec:
    """How a policy decides.

    Blocks come from `form`, or from `former` under limits that may follow the load. `budgets` are given where
    they are used.
    """

    asks: DecisionKind
    tables: LatencyTables
    order: Order
    drop_late: DropLate
    conflict: Conflict = Conflict.WAIT
    form: FormBlock | None = None
    former: BlockFormer | None = None
    budgets: Budgets | None = None
    grows: bool = False
    alpha: float = 1.0
    block_layers: int = 0

    def __post_init__(self) -> None:
        makers = (self.form is not None) + (self.former is not None)
        if makers != (self.asks is DecisionKind.BLOCKS):
            raise ValueError(
                f"Plan: asks is {self.asks.name}, with {makers} of `form` and `former`; "
                "give one with BLOCKS, else none"
            )
        if self.asks is DecisionKind.SLACK_BLOCKS and self.block_layers < 1:
            raise ValueError(f"Plan: block_layers is {self.block_layers}; give 1 or more")


def plan_of(policy: Policy) -> NativePolicySpec | None:
    """Return a policy's plan, or None if it has none.

    Only a plan that the very class defines counts: a subclass that decides otherwise does not inherit it.
    """
    make = vars(type(policy)).get("plan")
    return None if make is None else make(policy)
