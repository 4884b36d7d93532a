"""Service noise: which measured repeat stretches each layer of each query.

It is drawn for whole queries, in the order in which they arrive and from one stream. So a trace and a seed
give each query the same factors under every policy and at every rate: common random numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from veltair.serving.loop.policy import Context
from veltair.serving.loop.query import Query

# Queries that are drawn for at a time: enough to pay for the call, few enough to stay in a cache.
BATCH = 512


@dataclass(frozen=True, eq=False)
class NoiseBatch:
    """Some queries that arrive one after the other, and the noise of their layers.

    `models`, shape (queries,), are the indices of their models in the context. `noise_index`, shape (queries,
    most layers of a model), are indices into the `noise` of the model's costs; they are 0 beyond its layers.
    """

    queries: Sequence[Query]
    models: NDArray[np.int32]
    noise_index: NDArray[np.uint32]

    @cached_property
    def digest(self) -> bytes:
        """What tells batches apart: by their models, targets and noise."""
        targets_s = np.array([query.qos_s for query in self.queries])
        columns = (self.models, self.noise_index, targets_s)
        return blake2b(b"".join(values.tobytes() for values in columns)).digest()


def noise_batches(
    arrivals: Sequence[Query], context: Context, rng: np.random.Generator, *, size: int = BATCH
) -> Iterator[NoiseBatch]:
    """Yield the noise of a trace, `size` queries at a time. Raises LookupError for a model not served."""
    indices = {name: index for index, name in enumerate(context.models)}
    layers = np.array([len(model.layers) for model in context.models.values()])
    repeats = np.array([len(context.costs.model(name).noise) for name in context.models])
    for first in range(0, len(arrivals), size):
        queries = arrivals[first : first + size]
        models = np.fromiter((indices[query.model] for query in queries), np.int32, len(queries))
        drawn = np.arange(layers.max()) < layers[models, None]
        noise_index = np.zeros(drawn.shape, np.uint32)
        noise_index[drawn] = rng.integers(np.repeat(repeats[models], layers[models]))
        yield NoiseBatch(queries, models, noise_index)


def noise_rows(batches: Iterator[NoiseBatch], context: Context) -> Iterator[NDArray[np.uint32]]:
    """Yield the noise indices of each query, shape (layers,)."""
    return (noise_index for _, noise_index in _rows(batches, context))


def service_factors(batches: Iterator[NoiseBatch], context: Context) -> Iterator[NDArray[np.float64]]:
    """Yield what the times of each query's layers are multiplied by, shape (layers,)."""
    noise = [context.costs.model(name).noise for name in context.models]
    return (noise[model][noise_index] for model, noise_index in _rows(batches, context))


def _rows(batches: Iterator[NoiseBatch], context: Context) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """Yield the index of each query's model, and the noise indices of its layers."""
    layers = [len(model.layers) for model in context.models.values()]
    for batch in batches:
        for model, noise_index in zip(batch.models.tolist(), batch.noise_index, strict=True):
            yield model, noise_index[: layers[model]]
