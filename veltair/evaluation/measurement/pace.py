"""How fast the machine is just now: queries alone on it, beside what the profile says of them.

The clock of a processor, and on a shared host what a virtual core gets of a real one, change within minutes.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from statistics import geometric_mean, median

from veltair.compiler.frontend.model import LayerBlock
from veltair.evaluation.measurement.equal_blocks import EqualBlocks
from veltair.serving.engine.log_entries import Entry, EntryKind
from veltair.serving.engine.native_engine import NativeEngine
from veltair.serving.engine.running_blocks import profiled_s
from veltair.serving.loop.policy import Context

QUERIES = 7  # of a model: their median is not that of a moment


def measure_pace(engine: NativeEngine, context: Context, sample_models: Sequence[str]) -> float:
    """Return how many times as long as profiled a query takes that has the whole machine.

    Several queries of each model run one after the other, on all cores, in one block each and in the versions
    that are fastest alone, as they were profiled. `sample_models` are the models of the engine's samples.
    Raises EngineError.
    """
    layers = max(len(model.layers) for model in context.models.values())
    samples = [sample_models.index(name) for name in context.models for _ in range(QUERIES)]
    engine.begin(EqualBlocks(context, layers, context.machine.cores), rings_at_ends=True)
    ended = engine.serve()
    for number, sample in enumerate(samples):
        engine.arrive(number, sample, time.monotonic())
        next(ended)
    engine.flush()
    for _ in ended:  # none is left: the run ends
        pass
    return pace_of(engine.entries(), [sample_models[sample] for sample in samples], profiled_alone_s(context))


def profiled_alone_s(context: Context) -> dict[str, float]:
    """Return the profiled seconds of a query on all cores, alone, by model."""
    cores = context.machine.cores
    return {
        name: profiled_s(
            context.costs,
            LayerBlock(name, 0, len(model.layers)),
            tuple(map(int, context.costs.model(name).solo)),
            cores,
        )[0]
        for name, model in context.models.items()
    }


def pace_of(entries: Iterable[Entry], models: Sequence[str], profiled: Mapping[str, float]) -> float:
    """Return measured over profiled seconds: of each model the median, of all the geometric mean.

    `models` are those of the queries, by id. The first query of a model does not count: it finds the caches
    as another model left them.
    """
    taken: dict[str, list[float]] = {}
    for entry in entries:
        if entry.kind is EntryKind.BLOCK_ENDED:
            taken.setdefault(models[entry.id], []).append(entry.seconds)
    return geometric_mean(median(seconds[1:]) / profiled[name] for name, seconds in taken.items())
