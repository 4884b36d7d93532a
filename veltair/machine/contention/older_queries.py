"""What older queries left in the caches: for the simulator, by the bytes that all layers moved since."""

from veltair.machine.contention.layer_demand import LayerDemand
from veltair.machine.topology.topology import Machine


class OlderQueries:
    """What is left in the caches of the older queries of each model: by how much was moved into them since.

    Weights last used `since` moved bytes ago are there with probability min(1, L3 of the machine / (copies x
    since)), for they were as likely thrown out as anything else. It does not matter which query used them.
    """

    def __init__(self, machine: Machine) -> None:
        """Begin with caches that hold nothing of any model."""
        self._machine = machine
        self._moved_bytes = 0.0
        self._last: dict[tuple[str, int], float] = {}

    def use(self, model: str, layer: int, demand: LayerDemand, groups: int) -> float:
        """Return the share that a layer finds as it begins, its cores in so many cache groups."""
        if demand.cost_model is None:
            return 1.0
        last = self._last.get((model, layer))
        self._last[model, layer] = self._moved_bytes
        if last is None:
            return 0.0
        held = min(float(groups), demand.cost_model.tiling.copies) * (self._moved_bytes - last)
        total = float(self._machine.total_l3_bytes)
        return total / held if held > total else 1.0

    def move(self, moved_bytes: float) -> None:
        """Note what a layer that ended moved."""
        self._moved_bytes += moved_bytes
