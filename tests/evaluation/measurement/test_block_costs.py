import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.support.evaluation.tiny_tables import tiny_tables
from veltair.evaluation.measurement.block_costs import Starts, add_starts, sample_blocks
from veltair.machine.costs.block_costs import (
    COLUMNS,
    FIRST_LAYER,
    GRANT,
    GROW,
    SHRINK,
    START,
    YIELD,
    block_costs,
)
from veltair.machine.models.library import LoadedModel
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import Launch
from veltair.serving.engine.log_entries import Entry, EntryKind

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]


@pytest.fixture
def launch(c_build: Path) -> Launch:
    return partial(NativePool, build_dir=c_build)


def ended(end_s: float, busy_s: float) -> Entry:
    return Entry(EntryKind.BLOCK_ENDED, end_s, busy_s, *(0.0,) * 4, *(0,) * 9, b"")


def test_a_start_lasts_from_the_end_before_to_the_first_layer() -> None:
    starts = Starts([], [])
    # The second block begins 0.5 s after the end of the first one, the third 0.25 s after that of the second.
    add_starts(
        starts, [ended(1.0, 0.5), ended(2.5, 1.0), ended(3.0, 0.25), ended(4.0, 0.5)], [0.5, 0.75, 0.25, 1]
    )
    assert starts == Starts([0.5, 0.25], [0.25, 0.0])


def test_a_query_of_two_blocks_has_no_start_without_a_copy_or_a_comparison() -> None:
    starts = Starts([], [])
    add_starts(starts, [ended(1.0, 0.5), ended(2.0, 0.5)], [0.5, 0.5])
    assert starts == Starts([], [])


def test_a_model_has_samples_of_every_kind(
    tiny_loaded: LoadedModel, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veltair.evaluation.measurement.block_costs.STARTS", 8)
    monkeypatch.setattr("veltair.evaluation.measurement.block_costs.PAIRS", 20)
    monkeypatch.setattr("veltair.evaluation.measurement.block_costs.RESIZES", 5)
    monkeypatch.setattr("veltair.evaluation.measurement.block_costs.YIELDS", 100)
    found = sample_blocks(tiny_tables(tiny_loaded, CORES), {"tiny": tiny_loaded}, launch)
    assert tuple(found.columns) == COLUMNS
    counts = found.groupby(["cost", "cores"]).size().to_dict()
    # Of six layers the first and the last make no sample. Layers of microseconds end before they are changed.
    starts = {(kind, cores): 8 for kind in (START, FIRST_LAYER) for cores in {1, len(CORES)}}
    assert counts.items() >= starts.items()
    if len(CORES) > 1:
        assert counts.keys() - starts.keys() <= {(kind, 2) for kind in (GRANT, SHRINK, GROW, YIELD)}
    assert np.isfinite(found["seconds"]).all()
    assert block_costs(found).start_s > 0


def test_on_one_core_only_starts_and_yields_are_sampled(
    tiny_loaded: LoadedModel, c_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veltair.evaluation.measurement.block_costs.STARTS", 8)
    tables = tiny_tables(tiny_loaded, CORES[:1])
    found = sample_blocks(tables, {"tiny": tiny_loaded}, partial(NativePool, build_dir=c_build))
    assert set(found["cost"]) - {YIELD} == {START, FIRST_LAYER}
