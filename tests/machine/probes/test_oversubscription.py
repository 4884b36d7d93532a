import os
from pathlib import Path

import pytest

from tests.support.builders import make_machine
from veltair.machine.probes import oversubscription as module
from veltair.machine.probes.oversubscription import COLUMNS, measure_oversubscription
from veltair.machine.topology.topology import Machine

CORES = tuple(sorted(os.sched_getaffinity(0)))


def here() -> Machine:
    """Return a machine of the cores that this process may use."""
    return Machine("here", 1, (CORES,), 2**19, 2**22, 1e11, 1e11, validated=False)


def test_the_probe_returns_a_rate_for_each_number_of_teams_and_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SECONDS", 0.01), ("REPEATS", 2), ("TEAMS", (1, 3))):
        monkeypatch.setattr(module, name, value)
    samples = measure_oversubscription(here(), tmp_path)
    assert tuple(samples.columns) == COLUMNS
    assert samples[["teams", "repeat"]].to_numpy().tolist() == [[1, 0], [3, 0], [1, 1], [3, 1]]
    assert (samples["rounds_per_s"] > 1.0).all()


def test_cores_that_cannot_be_had_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.01)
    nowhere = Machine("nowhere", 1, ((100000,),), 2**19, 2**22, 1e11, 1e11, validated=False)
    with pytest.raises(
        RuntimeError, match=r"failed with 1 threads on each of cores 100000 \(exit status 1\)"
    ):
        measure_oversubscription(nowhere, tmp_path)


def test_a_machine_without_a_compiler_has_no_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veltair.machine.c_build.COMPILER", "no-such-compiler")
    with pytest.raises(RuntimeError, match="no-such-compiler was not found"):
        measure_oversubscription(make_machine(1), tmp_path)
