"""What the engine whose loop is in C adds to blocks: samples for machines on which nobody measured it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from math import ceil
from pathlib import Path

import pandas as pd

from veltair.compiler.frontend.model import Model
from veltair.config import Config
from veltair.evaluation.measurement.block_costs import (
    STARTS,
    Row,
    right_answer,
    rows_of,
    sample_resizes,
    sample_yields,
)
from veltair.machine.costs.block_costs import COLUMNS, FIRST_LAYER, START, YIELD, block_costs
from veltair.machine.costs.folder import COSTS, Tables, read_tables
from veltair.machine.costs.table import CostTable
from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.models.library import LoadedModel
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import Launch, Sample
from veltair.provenance import check_made_here, collect, read_provenance, write_parquet
from veltair.serving.engine.log_entries import Entry, EntryKind
from veltair.serving.engine.native_engine import NativeEngine, Site
from veltair.serving.loop.policy import Context
from veltair.serving.loop.query import NEVER_S
from veltair.serving.policies.presets import make_policy

PAIRS = 40  # of queries, at least
REST_S = 0.005  # until the other engine's workers sleep
SINGLY, WHOLE = "baselines.layer_wise:LayerWise", "baselines.fcfs_min:FcfsMin"


def write_native_block_costs(
    config: Config, builds: Mapping[str, Path], tables: Path, build_dir: Path, output: Path
) -> None:
    """Sample what blocks of the built models cost beside their kernels on this machine, and write it.

    Raises ProvenanceError if the tables are another machine's.
    """
    check_made_here(read_provenance(tables / COSTS))
    models = {name: LoadedModel(path) for name, path in builds.items()}
    launch = partial(NativePool, build_dir=build_dir)
    samples = sample_native_blocks(read_tables(tables), models, launch, build_dir)
    plans = [folder / "plan.json" for folder in builds.values()]
    provenance = collect(config.model_dump(mode="json"), inputs=[tables / COSTS, *plans])
    write_parquet(output, samples, provenance)
    print(block_costs(samples), flush=True)


def sample_native_blocks(
    tables: Tables, models: Mapping[str, LoadedModel], launch: Launch, build_dir: Path
) -> pd.DataFrame:
    """Return samples of starts, changes of cores and yields: a row each, with `block_costs.COLUMNS`.

    Starts are of blocks of one layer, decided in C as simulated ones are. Changes and yields are those of the
    workers, at a layer's end, which no decision is part of.
    """
    rows, machine = list[Row](), tables.machine
    for name, model in models.items():
        whole = Context({name: Model(name, tables.layers[name], NEVER_S)}, tables.costs, machine)
        for cores in sorted({tables.costs.cores[0], tables.costs.cores[-1]}):
            waits_s, longer_s = sample_starts(model, _on(tables, name, cores), launch, build_dir)
            rows += rows_of(START, name, cores, waits_s)
            rows += rows_of(FIRST_LAYER, name, cores, longer_s)
            print(f"{name} on {cores} cores: {len(waits_s)} starts", flush=True)
        for kind, found in sample_resizes(model, whole, launch).items():
            rows += rows_of(kind, name, machine.cores, found)
        rows += rows_of(YIELD, name, machine.cores, sample_yields(model, whole, launch))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _on(tables: Tables, name: str, cores: int) -> Context:
    """Return the context of one model with times on one count of cores, so that every block gets these."""
    rows = tables.costs.repeats
    rows = rows[(rows["model"] == name) & (rows["cores"] == cores) & (rows["level"] == 0)]
    model = Model(name, tables.layers[name], NEVER_S)
    return Context({name: model}, CostTable(rows, tables.machine.name), tables.machine)


def sample_starts(
    model: LoadedModel, context: Context, launch: Launch, build_dir: Path
) -> tuple[list[float], list[float]]:
    """Return the seconds from a block's end to the next one's first layer, and what layers take longer.

    A query in blocks of one layer and one in a single block take turns. The first samples are of starts,
    `STARTS` at least, the second of queries: how much longer their layers took singly, over their number. The
    last block of a query is no start, for its end waits until the answer was compared.
    """
    layers = len(next(iter(context.models.values())).layers)
    waits_s, longer_s = list[float](), list[float]()
    with (
        _engine(SINGLY, model, context, launch, build_dir) as singly,
        _engine(WHOLE, model, context, launch, build_dir) as whole,
    ):
        single, together = singly.serve(), whole.serve()
        for number in range(1 + max(PAIRS, ceil(STARTS / max(1, layers - 2)))):
            for engine, records in ((singly, single), (whole, together)):
                time.sleep(REST_S)
                engine.arrive(number, 0, time.monotonic())
                next(records)
        blocks, queries = _ends(singly), _ends(whole)
    for number in range(1, len(queries)):  # the first round warms up
        waits_s += waits_between(blocks[number][:-1])
        singly_s, together_s = (sum(end.seconds for end in ends[number]) for ends in (blocks, queries))
        longer_s.append((singly_s - together_s) / layers)
    return waits_s, longer_s


def waits_between(ends: Sequence[Entry]) -> list[float]:
    """Return the seconds from the end of each block to the first layer of the next."""
    return [after.time_s - after.seconds - before.time_s for before, after in pairwise(ends)]


def _ends(engine: NativeEngine) -> dict[int, list[Entry]]:
    """Return the ends of the blocks of each query."""
    ends: dict[int, list[Entry]] = {}
    for entry in engine.entries():
        if entry.kind is EntryKind.BLOCK_ENDED:
            ends.setdefault(entry.id, []).append(entry)
    return ends


@contextmanager
def _engine(
    policy: str, model: LoadedModel, context: Context, launch: Launch, build_dir: Path
) -> Iterator[NativeEngine]:
    (name,) = context.models
    sample: Sample = right_answer(model, context)
    site = Site(context, "spread", ObservedSlowdown(), NEVER_S)
    made = make_policy(policy, context, "paper", {})
    engine = NativeEngine(
        made, site, {name: model}, [(name, sample)], launch, build_dir=build_dir, rings_at_ends=True
    )
    try:
        engine.warm_up()
        engine.begin()
        yield engine
    finally:
        engine.stop()
