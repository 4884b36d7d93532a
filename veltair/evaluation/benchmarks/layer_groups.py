"""Where a network's time goes, ours beside ONNX Runtime's: layers in groups that compute the same.

Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from veltair.evaluation.benchmarks.layer_operators import Operator

# What a network takes beyond its kernels: calls of them, copies, and what a median of sums is off.
BETWEEN = "between kernels"


@dataclass(frozen=True, slots=True)
class TimedOperator:
    """A layer, or a node of ONNX Runtime: what it computes, for how long, and its multiply-accumulates."""

    operator: Operator
    seconds: float
    macs: int = 0


@dataclass(frozen=True, slots=True)
class NetworkTimes:
    """A network: its layers or nodes, and the seconds of all of it, measured apart from them."""

    operators: tuple[TimedOperator, ...]
    latency_s: float

    def __post_init__(self) -> None:
        if not self.operators or not self.latency_s > 0:
            raise ValueError(
                f"network of {len(self.operators)} operators in {self.latency_s} s; give one or more, a time"
            )

    @property
    def between_s(self) -> float:
        """What the network took beyond its operators."""
        return self.latency_s - sum(one.seconds for one in self.operators)


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Our layers and ONNX Runtime's nodes that compute the same, in seconds of one run of a network.

    Either may have none. `macs` are those of our layers as the model defines them, however they compute.
    """

    name: str
    layers: int
    nodes: int
    macs: int
    ours_s: float
    onnxruntime_s: float

    @property
    def lost_s(self) -> float:
        """How much longer ours takes; below 0 where it is faster."""
        return self.ours_s - self.onnxruntime_s

    @property
    def ours_gflops(self) -> float:
        """Our speed, NaN where there is none: two operations a multiply-accumulate."""
        return _gflops(self.macs, self.ours_s)

    @property
    def onnxruntime_gflops(self) -> float:
        """ONNX Runtime's."""
        return _gflops(self.macs, self.onnxruntime_s)


def layer_groups(ours: NetworkTimes, theirs: NetworkTimes) -> list[LayerGroup]:
    """Return all groups, that with most lost time first; each sum over them is the whole network's.

    A group has the name that our layers share. Where ONNX Runtime pads two kinds of ours to one, it has the
    name of this one.
    """
    keys = dict.fromkeys(one.operator.padded for one in (*ours.operators, *theirs.operators))
    groups = [
        _group(
            key,
            [one for one in ours.operators if one.operator.padded == key],
            [one for one in theirs.operators if one.operator.padded == key],
        )
        for key in keys
    ]
    groups.append(LayerGroup(BETWEEN, 0, 0, 0, ours.between_s, theirs.between_s))
    return sorted(groups, key=lambda group: -group.lost_s)


def _group(key: Operator, ours: Sequence[TimedOperator], theirs: Sequence[TimedOperator]) -> LayerGroup:
    names = {one.operator.name for one in ours}
    return LayerGroup(
        name=names.pop() if len(names) == 1 else key.name,
        layers=len(ours),
        nodes=len(theirs),
        macs=sum(one.macs for one in ours),
        ours_s=sum(one.seconds for one in ours),
        onnxruntime_s=sum(one.seconds for one in theirs),
    )


def _gflops(macs: int, seconds: float) -> float:
    return 2e-9 * macs / seconds if macs and seconds > 0 else float("nan")
