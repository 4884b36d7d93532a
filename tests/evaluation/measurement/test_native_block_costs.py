import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_tables import tiny_tables
from veltair.evaluation.measurement import native_block_costs
from veltair.evaluation.measurement.native_block_costs import sample_native_blocks, waits_between
from veltair.machine.costs.block_costs import COLUMNS, FIRST_LAYER, START, YIELD, block_costs
from veltair.machine.models.library import LoadedModel
from veltair.machine.workers.native_pool import NativePool
from veltair.serving.engine.log_entries import Entry, EntryKind

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]


def ended(time_s: float, seconds: float) -> Entry:
    fields: dict[str, Any] = dict.fromkeys(Entry._fields, 0)
    return Entry(**(fields | {"kind": EntryKind.BLOCK_ENDED, "time_s": time_s, "seconds": seconds}))


def test_a_start_lasts_from_the_end_before_to_the_first_layer() -> None:
    # Blocks of 0.5, 1 and 0.25 s end at 1, 2.5 and 3 s: the second began at 1.5 s, the third at 2.75 s.
    assert waits_between([ended(1.0, 0.5), ended(2.5, 1.0), ended(3.0, 0.25)]) == [0.5, 0.25]


def test_a_query_of_one_block_has_no_start() -> None:
    assert waits_between([ended(1.0, 0.5)]) == []


def test_starts_of_blocks_that_are_decided_in_c_are_sampled_on_few_cores_and_on_all(
    tiny_loaded: LoadedModel, c_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_block_costs, "PAIRS", 3)
    monkeypatch.setattr(native_block_costs, "STARTS", 4)
    launch = partial(NativePool, build_dir=c_build)
    found = sample_native_blocks(tiny_tables(tiny_loaded, CORES), {"tiny": tiny_loaded}, launch, c_build)
    assert tuple(found.columns) == COLUMNS
    counts = found.groupby(["cost", "cores"]).size().to_dict()
    # Three queries count. Of six blocks the last is no start, nor is there one before the first.
    expected = {(START, cores): 3 * 4 for cores in {1, len(CORES)}}
    expected |= {(FIRST_LAYER, cores): 3 for cores in {1, len(CORES)}}
    assert counts.items() >= expected.items()
    assert {kind for kind, _ in counts} >= {START, FIRST_LAYER}
    assert np.isfinite(found["seconds"]).all()
    assert (found.loc[found["cost"].isin([START, YIELD]), "seconds"] >= 0).all()
    assert block_costs(found).starts_s.keys() == {"tiny"}
