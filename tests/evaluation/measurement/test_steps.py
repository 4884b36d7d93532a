"""The step that measures policies, whole (LoadGen, the engine, the tiny network), and the lock it takes."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest

from tests.support.table_builders import make_config
from veltair.compiler.frontend.model import Layer
from veltair.config import Config
from veltair.evaluation.experiment.layout import RECORDS, SLOTS, Layout
from veltair.evaluation.experiment.machine_lock import machine_to_itself, measuring_lock
from veltair.evaluation.experiment.tables_io import read_csv
from veltair.evaluation.experiment.timeline_data import TIMELINE, read_recorded
from veltair.evaluation.measurement.steps import VERDICTS, measure_workload
from veltair.evaluation.measurement.write_run import QUERIES
from veltair.evaluation.metrics.records import read_records
from veltair.machine.costs.folder import Tables, write_tables
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.machine.interference.source import ObservedSlowdown, PressureFit
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.topology import Machine
from veltair.provenance import collect, read_provenance, write_json

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]
POLICIES = {"FcfsMin": "fcfs_min:FcfsMin", "FcfsAll": "fcfs_all:FcfsAll"}


def write_tiny_tables(folder: Path, model: LoadedModel) -> Path:
    """Write a made-up table of the tiny network on the cores there are."""
    plan = model.plan
    rows = [
        ("tiny", layer, version, cores, 0.0, 0, 1e-4 * (1 + version) / cores, 1.0, 1.0)
        for layer in range(len(plan.layers))
        for version in range(len(plan.of(layer)))
        for cores in range(1, len(CORES) + 1)
    ]
    machine = Machine("toy", 1, (CORES,), 2**19, 2**24, 1e11, 1e11, validated=True)
    layers = tuple(Layer(layer.name, layer.structure, layer.macs) for layer in plan.layers)
    costs = CostTable(pd.DataFrame(rows, columns=list(COLUMNS)), machine.name)
    folder.mkdir(parents=True)
    write_tables(folder, Tables(machine, {"tiny": layers}, {}, costs), collect({}))
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(
        models={"tiny": {"onnx": "tiny.onnx", "qos_ms": 10_000}},
        workloads={"mix": {"tiny": 1}},
        policies={name: {"path": f"baselines.{path}"} for name, path in POLICIES.items()},
        profile={"costs": "measured"},
        measured={
            **{"shares": [0.01, 0.02], "minutes": 0.001, "seconds": 0.3, "queries": 1, "seed": 4},
            **{"loadgen_per_model": True, "timeline": True},
        },
        engine={"placement": "pinned", "memory_mb": 100},
        results={"folder": str(tmp_path / "results")},
    )


def test_all_policies_are_measured_in_rounds_as_the_configuration_says(
    config: Config,
    tiny_loaded: LoadedModel,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Whether the machine is quiet is not the question here.
    monkeypatch.setattr("veltair.evaluation.loadgen.per_model.delay_problem", lambda *_: "")
    monkeypatch.setattr("veltair.evaluation.measurement.core_use.OTHERS_LIMIT", 1.0)
    tables, folder = write_tiny_tables(tmp_path / "tables", tiny_loaded), tmp_path / "measured"
    fit = PressureFit("observed slowdown", ObservedSlowdown().features, (0.5,), 0.0, 0.7, 0.1)
    document = {"machine": "toy", "fits": {"slowdown": fit.as_dict()}}
    earlier = folder / "loadgen" / "round9"
    earlier.mkdir(parents=True)
    write_json(Layout(config).interference, document, collect({}))

    measure_workload(config, tables, {"tiny": tiny_folder}, "mix", list(POLICIES), folder)

    slots = read_csv(folder / SLOTS)
    assert slots["kept"].all()
    assert slots.groupby(["round", "share"])["policy"].apply(sorted).tolist() == [sorted(POLICIES)] * 6
    assert (slots["qps"] / slots["share"]).tolist() == pytest.approx([slots["qps"].max() / 0.02] * 12)
    records = read_records(folder / RECORDS)
    # In a slot all policies are asked the same.
    for _, slot in records.groupby("seed"):
        arrivals = [own["model"].tolist() for _, own in slot.groupby("policy")]
        assert len(arrivals) == 2
        assert arrivals[0] == arrivals[1]
    verdicts = read_csv(folder / VERDICTS)
    assert set(verdicts["tenant"]) == {"tiny"}
    assert len(verdicts) == len(slots)
    runs = sorted(path.parent for path in (folder / "loadgen").rglob(QUERIES))
    assert len(runs) == 12
    assert not earlier.exists()
    assert all((run / "tiny" / "mlperf_log_detail.txt").exists() for run in runs)
    assert "mix at " in str(read_recorded(runs[0] / TIMELINE).run)
    printed = capsys.readouterr().out
    assert "model memory: 1 loads (median: tiny 1 x" in printed
    assert "measured here, mix, FcfsMin: > " in printed
    line = "interference: observed slowdown (as configured, fitted, R² 0.70 on held-out co-runs)"
    assert line in printed
    provenance = read_provenance(folder / RECORDS)
    assert provenance.details["interference"] == line
    assert str(Layout(config).interference) in provenance.inputs


def test_a_second_measurement_waits_until_the_first_has_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock, order = tmp_path / "new" / "lock", []

    def measure() -> None:
        with machine_to_itself(lock):
            order.append("second")

    with machine_to_itself(lock):
        second = Thread(target=measure)
        second.start()
        second.join(timeout=0.3)
        assert second.is_alive()
        order.append("first")
    second.join()
    assert order == ["first", "second"]
    assert f"waiting for another measurement on this machine to end ({lock})" in capsys.readouterr().out


def test_a_measurement_that_was_killed_leaves_no_lock_behind(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        first.stdout.readline()
        with lock.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        first.kill()
    with machine_to_itself(lock):
        pass


def test_all_runs_of_a_user_share_a_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    first = measuring_lock()
    monkeypatch.chdir(tmp_path)
    assert measuring_lock() == first
    assert first.parent == tmp_path
