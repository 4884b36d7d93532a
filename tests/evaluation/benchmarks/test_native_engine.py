import os
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from veltair.evaluation.benchmarks.native_engine import dispatch_figures, gaps_us, idle_figure
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.pool import Launch
from veltair.serving.engine.log_entries import Entry, EntryKind

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]


def told(kind: EntryKind, core: int, end_s: float, busy_s: float = 0.0, first: int = 1) -> Entry:
    """Return the start or the end of a block of query `core` + 10, led by this core."""
    held = np.array([core], np.uint16).tobytes()
    blank = Entry(kind, end_s, busy_s, *(0.0,) * 4, core + 10, *(0,) * 8, held)
    return blank._replace(first=first, layer=first + 1)


def block(core: int, end_s: float, busy_s: float, first: int = 1) -> list[Entry]:
    start = told(EntryKind.BLOCK_STARTED, core, end_s - busy_s, first=first)
    return [start, told(EntryKind.BLOCK_ENDED, core, end_s, busy_s)]


def test_a_gap_lies_between_an_end_and_the_next_start_on_the_same_core() -> None:
    blocks = [block(0, 1.0, 0.5), block(1, 1.1, 0.1), block(0, 1.5, 0.4), block(1, 2.0, 0.7)]
    assert gaps_us(chain(*blocks), copies=True) == [pytest.approx(0.1e6), pytest.approx(0.2e6)]


def test_a_block_that_begins_with_its_sample_gives_no_gap() -> None:
    blocks = [block(0, 1.0, 0.5), block(0, 1.5, 0.4, first=0), block(0, 2.0, 0.4)]
    assert gaps_us(chain(*blocks), copies=True) == [pytest.approx(0.1e6)]
    assert len(gaps_us(chain(*blocks), copies=False)) == 2


def test_the_next_block_starts_after_the_end_of_the_one_before(
    launch: Launch, machine: Machine, c_build: Path
) -> None:
    figures = dispatch_figures(launch, machine, c_build, queries=50, arrivals=8)
    names = ("dispatch", "dispatch_python")
    assert set(figures) == {"arrival_ratio", *(f"{name}_{p}_us" for name in names for p in ("p50", "p99"))}
    for name in names:
        assert 0 < figures[f"{name}_p50_us"].value <= figures[f"{name}_p99_us"].value
        assert "49 blocks" in figures[f"{name}_p50_us"].unit
    assert figures["arrival_ratio"].value > 0
    assert len(figures["arrival_ratio"].samples) == 4


def test_an_engine_that_waits_uses_less_than_all_of_a_core(
    launch: Launch, machine: Machine, c_build: Path
) -> None:
    assert 0 <= idle_figure(launch, machine, c_build, seconds=0.05).value < len(CORES) + 1
