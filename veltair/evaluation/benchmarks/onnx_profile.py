"""What ONNX Runtime's own profile says: the seconds of each node, in each run.

Pure: of the events that its JSON file holds, in their order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veltair.evaluation.benchmarks.layer_operators import Operator, Shape, node_operator

KERNEL, RUN = "_kernel_time", "model_run"
Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ProfiledNode:
    """A node of the optimised graph: its name, and what it computes."""

    name: str
    operator: Operator


@dataclass(frozen=True, slots=True)
class OnnxProfile:
    """The nodes in their order, and for each run the seconds of each, in whole microseconds."""

    nodes: tuple[ProfiledNode, ...]
    runs: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.nodes or any(len(run) != len(self.nodes) for run in self.runs):
            counts = sorted({len(run) for run in self.runs})
            raise ValueError(
                f"profile of {len(self.nodes)} nodes with runs of {counts}; profile a session that runs its "
                "nodes one after the other"
            )


def read_profile(events: Sequence[Event]) -> OnnxProfile:
    """Return the profile of a session. Raises ValueError if there is no run, or its runs differ in nodes."""
    nodes: list[list[ProfiledNode]] = []
    runs: list[tuple[float, ...]] = []
    kernels: list[Event] = []
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(KERNEL):
            kernels.append(event)
        elif event["name"] == RUN:
            runs.append(tuple(1e-6 * kernel["dur"] for kernel in kernels))
            nodes = nodes or [[_node(kernel) for kernel in kernels]]
            kernels = []
    return OnnxProfile(tuple(nodes[0]) if nodes else (), tuple(runs))


def _node(kernel: Event) -> ProfiledNode:
    arguments = kernel["args"]
    inputs, outputs = (_shapes(arguments[f"{side}_type_shape"]) for side in ("input", "output"))
    name = kernel["name"].removesuffix(KERNEL)
    return ProfiledNode(name, node_operator(arguments["op_name"], inputs, outputs))


def _shapes(entries: Sequence[Mapping[str, Sequence[int]]]) -> list[Shape]:
    """Return the shapes of tensors, which the profile tells each as {element type: shape}."""
    return [tuple(shape) for entry in entries for shape in entry.values()]
