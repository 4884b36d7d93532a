"""Policies as data: what a loop in C needs to decide as a policy's `allocate` would.

A policy that has a spec is simulated many times as fast and with the same records, to the last bit, and
decides without the interpreter on a real machine. Those of the paper that is evaluated here and of its
comparison have one; a policy of your own needs none. `allocate` remains the specification, which tests
compare the decisions in C with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from veltair.serving.loop.policy import Policy
from veltair.serving.policies.blocks import BlockFormer, Budgets
from veltair.serving.policies.discipline import Proposal, QueueOptions
from veltair.serving.policies.latency_tables import LatencyTables

FormBlock = Callable[[str, int, int], Proposal]
"""Returns the next block of a model by its first layer and the index of its budgets' scale in `SCALES`."""


class DecisionKind(Enum):
    """What a policy allocates cores to."""

    BLOCKS = "blocks"
    """Blocks of some layers with a need, as a `FormBlock` or a `BlockFormer` makes them."""
    ALL_CORES = "all_cores"
    """One whole model at a time."""
    SHARES = "shares"
    """Whole models that share the cores out by slack."""
    PREEMPTIVE = "preemptive"
    """Whole models, the earliest deadline first, for which later ones yield."""


@dataclass(frozen=True, slots=True)
class NativePolicySpec:
    """How a policy decides.

    Blocks come from `form`, or from `former` under limits that may follow the load. `budgets` are given where
    they are used; `alpha`, where there are none, is the share of the time to the deadline that is.
    """

    kind: DecisionKind
    tables: LatencyTables
    options: QueueOptions
    form: FormBlock | None = None
    former: BlockFormer | None = None
    budgets: Budgets | None = None
    grows: bool = False
    alpha: float = 1.0

    def __post_init__(self) -> None:
        makers = (self.form is not None) + (self.former is not None)
        if makers != (self.kind is DecisionKind.BLOCKS):
            raise ValueError(
                f"NativePolicySpec: kind is {self.kind.name}, with {makers} of `form` and `former`; "
                "give one with BLOCKS, else none"
            )


def spec_of(policy: Policy) -> NativePolicySpec | None:
    """Return a policy's spec, or None if it has none, for good or under its options.

    A subclass inherits the spec of a class that says how it decides only if it adds nothing to that but a
    constructor and options: one with methods of its own may decide otherwise.
    """
    for ancestor in type(policy).__mro__:
        make = vars(ancestor).get("native_spec")
        if make is not None:
            spec: NativePolicySpec | None = make(policy)
            return spec
        if any(not name.startswith("__") and name != "preset_exceptions" for name in vars(ancestor)):
            return None
    return None
