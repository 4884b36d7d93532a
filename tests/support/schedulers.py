"""What tests of schedulers begin with: models of known times, a policy of them, and what it starts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from tests.support.builders import linear_seconds, make_costs, make_machine, make_model
from veltair.machine.costs.table import CostTable
from veltair.machine.topology.topology import Machine
from veltair.serving.loop.policy import Allocation, Answer, Context
from veltair.serving.policies.presets import make_policy

EIGHT = tuple(range(1, 9))
Kind = TypeVar("Kind")


def serving(
    models: Mapping[str, tuple[Sequence[float], float]],
    counts: Sequence[int] = EIGHT,
    *,
    moved_bytes: Mapping[str, Sequence[float]] | None = None,
    machine: Machine | None = None,
) -> Context:
    """Return the context of models that speed up linearly: core-seconds of the layers, and target, of each.

    `moved_bytes` are those of each layer, on every core count; none unless it is given. The machine has as
    many cores as the largest of the counts, given in steps of the smallest.
    """
    seconds = {name: linear_seconds(work, counts) for name, (work, _) in models.items()}
    targets_s = {name: target_s for name, (_, target_s) in models.items()}
    return timed(seconds, targets_s, counts, moved_bytes=moved_bytes, machine=machine)


def timed(
    seconds: Mapping[str, np.ndarray],
    targets_s: Mapping[str, float],
    counts: Sequence[int] = EIGHT,
    *,
    moved_bytes: Mapping[str, Sequence[float]] | None = None,
    machine: Machine | None = None,
) -> Context:
    """Return the same of models whose seconds are given, shape (layers, versions, core counts, levels)."""
    machine = machine or make_machine(max(counts), min(counts))
    rows = make_costs(seconds, counts, machine=machine.name).repeats
    if moved_bytes is not None:
        named = zip(rows["model"], rows["layer"], strict=True)
        rows = rows.assign(traffic_bytes=[moved_bytes[model][layer] for model, layer in named])
    models = {name: make_model(name, (1,) * len(of), targets_s[name]) for name, of in seconds.items()}
    return Context(models, CostTable(rows, machine.name), machine)


def made(kind: type[Kind], context: Context, preset: str = "paper", **options: object) -> Kind:
    """Return a policy of a class as the configuration makes it, from a preset and options over it."""
    policy = make_policy(f"{kind.__module__}:{kind.__qualname__}", context, preset, options)
    assert isinstance(policy, kind)
    return policy


def started(answers: Iterable[Answer]) -> list[tuple[int, int]]:
    """Return the query and the cores of each start."""
    return [(answer.query_id, answer.cores) for answer in answers if isinstance(answer, Allocation)]


def started_blocks(answers: Iterable[Answer]) -> list[tuple[int, int, int, int]]:
    """Return the query, the first layer, the one after the last, and the cores of each start."""
    return [
        (answer.query_id, answer.block.start, answer.block.stop, answer.cores)
        for answer in answers
        if isinstance(answer, Allocation)
    ]
