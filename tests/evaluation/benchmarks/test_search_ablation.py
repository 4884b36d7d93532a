import os
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from veltair.compiler.footprint.version import Candidate
from veltair.compiler.search.target import cpu_target
from veltair.evaluation.benchmarks.search_ablation import (
    CHOOSING_ROUNDS,
    PassComparison,
    compare_passes,
    loss,
)
from veltair.machine.topology.topology import Machine

CORES = tuple(sorted(os.sched_getaffinity(0)))


def constant(seconds: float) -> Callable[[], float]:
    return lambda: seconds


def test_a_version_as_fast_as_the_best_loses_nothing() -> None:
    assert loss([constant(2.0)], constant(2.0)) == 0.0


def test_the_fastest_version_is_served() -> None:
    assert loss([constant(3.0), constant(2.2), constant(4.0)], constant(2.0)) == pytest.approx(0.1)


def test_a_version_faster_than_the_level_s_own_search_found_loses_less_than_nothing() -> None:
    assert loss([constant(1.0)], constant(2.0)) == -0.5


def test_runs_that_choose_do_not_count() -> None:
    # It is fast as long as it is being chosen, slow after that.
    runs = count()
    flatterer = lambda: 1.0 if next(runs) < CHOOSING_ROUNDS else 3.0  # noqa: E731
    assert loss([flatterer, constant(2.0)], constant(2.0)) == 0.5


def test_the_ratio_is_of_one_pass_to_all_searches() -> None:
    assert PassComparison("s", 10.0, (20.0, 30.0), (0.0, 0.0)).ratio == 0.2


def test_a_loss_is_needed_for_each_search() -> None:
    with pytest.raises(ValueError, match="2 searches but 1 losses"):
        PassComparison("s", 10.0, (20.0, 30.0), (0.0,))


def make_machine(*cores: int) -> Machine:
    return Machine("made-up", 1, (cores,), 2**18, 2**20, 1e9, 1e9, validated=False)


def test_each_level_is_searched_beside_its_co_runner(
    tiny_imported: Any, tiny_chosen: Any, tmp_path: Path
) -> None:
    if len(CORES) < 2:
        pytest.skip("the co-runner needs a core of its own")
    functions = dict(list(tiny_imported.functions().items())[:1])
    searched: list[str] = []
    cores: set[int] = set()

    def search(structure: str, _: Any, folder: Path) -> Sequence[Candidate]:
        searched.append(folder.name)
        cores.update(os.sched_getaffinity(0))
        return tuple(tiny_chosen[structure])

    (found,) = compare_passes(
        functions, search, cpu_target(64), lambda group: group, make_machine(*CORES[:2]), (0.0, 0.5), tmp_path
    )
    assert searched == ["single", "level-0", "level-0.5"]
    assert cores == {CORES[0]}
    assert len(found.losses) == len(found.separate_s) == 2


def test_one_core_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="made-up has one core"):
        compare_passes({}, lambda *_: (), None, lambda group: group, make_machine(0), (0.0,), tmp_path)
