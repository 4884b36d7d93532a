import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from veltair.evaluation.versions.interference_sensitivity import (
    PASSES,
    ROUNDS,
    measure_process,
    measure_tolerance,
)
from veltair.machine.profile.corunner import ALONE, conditions
from veltair.machine.topology.described import format_machine
from veltair.machine.topology.topology import Machine

CORES = tuple(sorted(os.sched_getaffinity(0)))


def make_machine(*cores: int) -> Machine:
    return Machine("made-up", 1, (cores,), 2**18, 2**20, 1e9, 1e9, validated=False)


@pytest.fixture(scope="module")
def measured(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    if len(CORES) < 2:
        pytest.skip("the co-runner needs a core of its own")
    folder = tmp_path_factory.mktemp("tolerance")
    return measure_process(make_machine(*CORES[:2]), [tiny_folder], folder, seed=1)


def test_every_version_is_measured_equally_often_under_every_condition(
    measured: pd.DataFrame, tiny_loaded: Any
) -> None:
    counts = measured.groupby(["condition", "layer", "version"]).size()
    versions = sum(len(tiny_loaded.plan.of(layer)) for layer in range(len(tiny_loaded.plan.layers)))
    assert set(counts) == {ROUNDS * PASSES}
    assert len(counts) == versions * len(conditions(make_machine(0)))


def test_each_row_says_what_its_version_is(measured: pd.DataFrame, tiny_loaded: Any) -> None:
    for row in measured.drop_duplicates(["layer", "version"]).to_dict("records"):
        plan = tiny_loaded.plan.of(row["layer"])[row["version"]]
        assert (row["parallelism"], row["blocking_bytes"]) == (plan.parallelism, plan.blocking_bytes)
        assert row["structure"] == tiny_loaded.plan.layers[row["layer"]].structure


def test_times_are_positive(measured: pd.DataFrame) -> None:
    assert (measured["seconds"] > 0).all()


def test_conditions_are_alone_and_three_co_runners_that_differ() -> None:
    known = conditions(make_machine(0))
    assert known[ALONE] is None
    assert len({str(load) for load in known.values()}) == 4


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    machine = tmp_path / "machine.yaml"
    machine.write_text(format_machine(make_machine(0, 1)))
    with pytest.raises(RuntimeError, match=r"process 0 ended with exit status 1: LookupError: .*`build`"):
        measure_tolerance(machine, [tmp_path / "none"], tmp_path / "native", 1)


def test_one_core_is_refused(tmp_path: Path) -> None:
    machine = tmp_path / "machine.yaml"
    machine.write_text(format_machine(make_machine(0)))
    with pytest.raises(ValueError, match="this machine gives one core"):
        measure_tolerance(machine, [], tmp_path, 1)
