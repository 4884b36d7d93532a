"""The same first-come-first-served queue in SimPy: what a general simulator takes for it, and an oracle."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import simpy
from numpy.typing import NDArray

from veltair.serving.loop.query import Query


@dataclass(frozen=True, slots=True)
class Service:
    """How every query of a model is served: on so many cores, layer by layer, in seconds without noise."""

    cores: int
    layers_s: tuple[float, ...]

    @property
    def core_s(self) -> float:
        """Core-seconds of a query."""
        return self.cores * sum(self.layers_s)


def simpy_ends_s(
    arrivals: Sequence[Query],
    services: Mapping[str, Service],
    factors: Iterable[NDArray[Any]],
    cores: int,
) -> dict[int, float]:
    """Return when each query ends if all wait in one line for the cores that they need.

    `factors` has for each arrival, in order, the service factors of its layers. Each layer end is an event,
    as it is in our simulator. Nobody slows anybody down.
    """
    environment = simpy.Environment()
    free = simpy.Container(environment, capacity=cores, init=cores)
    ends_s: dict[int, float] = {}

    def serve(query: Query, service: Service, drawn: NDArray[Any]) -> Generator[simpy.Event, Any, None]:
        yield free.get(service.cores)
        for layer_s, factor in zip(service.layers_s, drawn.tolist(), strict=True):
            yield environment.timeout(layer_s * factor)
        ends_s[query.id] = environment.now
        yield free.put(service.cores)

    def arrive() -> Generator[simpy.Event, Any, None]:
        for query, drawn in zip(arrivals, factors, strict=True):
            # SimPy knows delays only. From half of a time on, the difference to it is exact (Sterbenz).
            yield environment.timeout(query.arrival_s - environment.now)
            environment.process(serve(query, services[query.model], drawn))

    environment.process(arrive())
    environment.run()
    return ends_s
