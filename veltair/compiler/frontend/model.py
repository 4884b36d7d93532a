"""What is served: models, their layers, and runs of consecutive layers."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layer:
    """One fused operator of a model.

    `structure` names the layer's computation: layers with equal loops and shapes have the same one, in
    every model, and share their versions. `macs` counts multiply-accumulates (0 where there are none),
    `weight_bytes` the bytes of its constants as they are given; None where nobody noted them.
    """

    name: str
    structure: str
    macs: int
    weight_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.macs < 0:
            raise ValueError(f"Layer {self.name}: macs is {self.macs}; give a count of 0 or more")
        if self.weight_bytes is not None and self.weight_bytes < 0:
            raise ValueError(
                f"Layer {self.name}: weight_bytes is {self.weight_bytes}; give 0 or more, or None"
            )


@dataclass(frozen=True, slots=True)
class Model:
    """A network as served: layers in execution order and the latency target of its queries."""

    name: str
    layers: tuple[Layer, ...]
    qos_s: float

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError(f"Model {self.name} has no layers")
        if not self.qos_s > 0:
            raise ValueError(f"Model {self.name}: qos_s is {self.qos_s}; give a time above 0")

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one query."""
        return sum(layer.macs for layer in self.layers)

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of all constants; None where they are not known of some layer."""
        known = [layer.weight_bytes for layer in self.layers if layer.weight_bytes is not None]
        return sum(known) if len(known) == len(self.layers) else None


@dataclass(frozen=True, slots=True, order=True)
class LayerBlock:
    """Layers [start, stop) of a model, run on one allocation."""

    model: str
    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(
                f"LayerBlock of {self.model}: [{self.start}, {self.stop}) is empty; give start < stop"
            )

    def __len__(self) -> int:
        return self.stop - self.start


def structures(models: Sequence[Model]) -> tuple[str, ...]:
    """Return each distinct layer structure of the models once, in the order of first use."""
    return tuple(dict.fromkeys(layer.structure for model in models for layer in model.layers))
