import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import numpy_helper

from tests.support.builders import make_machine
from tests.support.table_builders import write_made_up_tables
from tests.support.tiny import tiny
from veltair.compiler.oracle.oracle import OracleError
from veltair.compiler.select.select import Selection
from veltair.machine import steps
from veltair.machine.costs.block_costs import COLUMNS as BLOCK_COLUMNS
from veltair.machine.costs.block_costs import BlockCosts
from veltair.machine.costs.folder import Tables, read_tables
from veltair.machine.costs.residency import without_residency
from veltair.machine.costs.table import COLUMNS
from veltair.machine.models.library import LoadedModel
from veltair.machine.probes.fork_probe import ForkCost
from veltair.machine.profile.profile import Profile, ProfileSettings, tiling_of
from veltair.machine.steps import check_oracle, derive_tables, host_cores, measure_machine, profile_models
from veltair.machine.topology.described import described, format_machine, read_machine
from veltair.machine.workers.pool import Launch
from veltair.provenance import read_provenance


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[ProfileSettings]:
    """Made-up times in place of measured ones; what was to be measured."""
    asked = []

    def profile(models: dict[str, LoadedModel], _: Any, settings: ProfileSettings, *__: Any) -> Profile:
        asked.append(settings)
        rows = [
            (name, layer, version, cores, 0.0, repeat, 0.001 / cores, 0.0, 0.0)
            for name, model in models.items()
            for layer in range(len(model.plan.layers))
            for version in range(len(model.plan.of(layer)))
            for cores in settings.cores
            for repeat in range(settings.repeats)
        ]
        return Profile(pd.DataFrame(rows, columns=list(COLUMNS)), {})

    monkeypatch.setattr(steps, "profile", profile)
    return asked


def two_starts(tables: Tables, models: Mapping[str, LoadedModel], launch: Launch) -> pd.DataFrame:
    """Return made-up samples of what blocks cost: a start of each model takes 0.5 s."""
    rows = [("start", name, tables.machine.cores, number, 0.5) for name in models for number in range(2)]
    return pd.DataFrame(rows, columns=list(BLOCK_COLUMNS))


def profile_tiny(tiny_folder: Path, folder: Path, cores: list[int] | None, core_unit: int = 1) -> None:
    machine = folder / "here.yaml"
    machine.write_text(format_machine(make_machine(4, core_unit)))
    (folder / "costs").mkdir()
    cells = (cores, [0.0], 3)
    profile_models({"tiny": tiny_folder}, machine, *cells, two_starts, {}, folder, folder / "costs")


def test_cores_of_this_process_are_those_that_it_may_use() -> None:
    assert host_cores() == tuple(sorted(os.sched_getaffinity(0)))


def test_a_built_model_that_agrees_with_onnx_runtime_has_its_errors_written(
    tiny_folder: Path, tiny_loaded: LoadedModel, tmp_path: Path
) -> None:
    onnx.save(tiny(), tmp_path / "tiny.onnx")
    check_oracle(tmp_path / "tiny.onnx", tiny_folder, 1e-4, tmp_path / "errors.csv")
    errors = pd.read_csv(tmp_path / "errors.csv")
    # The network with all layers on the n-th version, and with each further version of each structure alone.
    counts = [len(versions) for versions in tiny_loaded.plan.versions.values()]
    assert len(errors) == max(counts) + sum(count - 1 for count in counts)
    assert errors["relative_error"].between(0, 1e-4).all()


def test_a_built_model_with_other_weights_is_refused_and_nothing_is_written(
    tiny_folder: Path, tmp_path: Path
) -> None:
    model = tiny()
    weights = model.graph.initializer[0]
    weights.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(weights), weights.name))
    onnx.save(model, tmp_path / "tiny.onnx")
    with pytest.raises(OracleError, match="is off by"):
        check_oracle(tmp_path / "tiny.onnx", tiny_folder, 1e-4, tmp_path / "errors.csv")
    assert not (tmp_path / "errors.csv").exists()


def test_a_machine_s_description_reads_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(steps, "host", lambda *_, **__: make_machine(4))
    monkeypatch.setattr(steps, "measure_fork", lambda *_: ForkCost(2e-6, 1e-6))
    measure_machine(tmp_path, tmp_path / "machine.yaml")
    machine = read_machine(tmp_path / "machine.yaml")
    assert machine == replace(make_machine(4), launch_s=2e-6, join_s=1e-6)
    assert "toy: 4 cores" in capsys.readouterr().out


def test_a_profile_is_written_as_tables_with_its_provenance(
    tiny_folder: Path, tiny_loaded: LoadedModel, tmp_path: Path, measured: list[ProfileSettings]
) -> None:
    profile_tiny(tiny_folder, tmp_path, [1, 2, 4])
    tables = read_tables(tmp_path / "costs")
    assert tables.machine == make_machine(4)
    assert tables.costs.cores == (1, 2, 4)
    assert tables.block_costs == BlockCosts(0.5, starts_s={"tiny": 0.5})
    assert [layer.macs for layer in tables.layers["tiny"]] == [
        layer.macs for layer in tiny_loaded.plan.layers
    ]
    bare = without_residency(tables).tilings["tiny"][1]
    assert bare == tuple(tiling_of(version) for version in tiny_loaded.plan.of(1))
    assert tables.is_resident
    assert [Path(path).name for path in read_provenance(tmp_path / "costs" / "costs.parquet").inputs] == [
        "plan.json"
    ]


def test_a_profile_is_of_the_counts_asked_for(
    tiny_folder: Path, tmp_path: Path, measured: list[ProfileSettings]
) -> None:
    profile_tiny(tiny_folder, tmp_path, [1, 4])
    assert measured == [ProfileSettings((1, 4), (0.0,), 3)]


def test_a_profile_of_all_counts_has_those_that_can_be_granted_and_one(
    tiny_folder: Path, tmp_path: Path, measured: list[ProfileSettings]
) -> None:
    profile_tiny(tiny_folder, tmp_path, None, core_unit=2)
    assert measured[0].cores == (1, 2, 4)


def test_tables_of_a_described_machine_are_derived_and_say_that_they_are_modelled(tmp_path: Path) -> None:
    source = write_made_up_tables(tmp_path / "host")
    (tmp_path / "derived").mkdir()
    derive_tables(source, "threadripper-3990x", Selection(1.5, 5), {}, tmp_path / "derived")
    tables = read_tables(tmp_path / "derived")
    assert tables.machine == described("threadripper-3990x")
    assert tables.costs.cores == tables.machine.core_counts
    assert np.isfinite(tables.costs.model("large").seconds).all()
    details = read_provenance(tmp_path / "derived" / "costs.parquet").details
    assert details["modelled"] is True
    assert float(details["cost_model"]["combine"]) >= 1
    assert any("modelled from times on one core" in note for note in details["notes"])


def test_samples_of_shared_cores_are_written_with_where_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(1, 0, 100.0), (2, 0, 80.0)]
    samples = pd.DataFrame(rows, columns=["teams", "repeat", "rounds_per_s"])
    monkeypatch.setattr(steps, "measure_oversubscription", lambda machine, build_dir: samples)
    machine, output = tmp_path / "machine.yaml", tmp_path / "oversubscription.parquet"
    machine.write_text(format_machine(make_machine()))
    steps.sample_oversubscription(machine, tmp_path, {}, output)
    pd.testing.assert_frame_equal(pd.read_parquet(output), samples)
    assert str(machine) in read_provenance(output).inputs
    assert "2 threads a core: 1.250 x as long as on an equal part" in capsys.readouterr().out
