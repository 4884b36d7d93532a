import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pandas as pd
import pytest

from tests.support.table_builders import make_config, make_tables, write_made_up_tables
from veltair.config import Config
from veltair.evaluation.experiment.layout import Layout
from veltair.evaluation.measurement import interference_steps
from veltair.evaluation.measurement.interference_steps import (
    FitSettings,
    block_of,
    read_fits,
    started_source,
    write_fits,
)
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.machine.interference.source import (
    InterferenceUnavailableError,
    ObservedSlowdown,
    PressureFit,
    Reading,
)
from veltair.machine.profile.corunner import CoRunnerLoad
from veltair.machine.topology.topology import Machine
from veltair.provenance import collect, read_provenance, write_json

QUICK = FitSettings(levels=(0.5, 1.0), rounds=2, readings=2, pause_s=0.0, blocks=1)
MACHINE = make_tables().machine


class World:
    """What co-runners do, for sources that are made up."""

    pressure = 0.0


class Exact(ObservedSlowdown):
    """A source that reads the pressure as it is, and keeps account of its life."""

    def start(self) -> None:
        self.log: list[str] = ["start"]

    def stop(self) -> None:
        self.log.append("stop")

    def reading(self) -> Reading:
        return (World.pressure,)


class Watches(ObservedSlowdown):
    """A source that keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[float, float, float]] = []

    def observe(self, measured_s: float, alone_s: float, pressed_s: float) -> None:
        self.seen.append((measured_s, alone_s, pressed_s))


class Missing(Exact):
    """A source that this machine does not have."""

    def start(self) -> None:
        raise InterferenceUnavailableError("there is\nno counter; buy one")


class Presses:
    """A co-runner that puts the pressure of its load on the world."""

    def __init__(self, load: CoRunnerLoad | None) -> None:
        self.pressure = 0.0 if load is None else load.footprint_bytes / MACHINE.l3_bytes

    @property
    def achieved(self) -> Any:
        return SimpleNamespace(pressure=self.pressure)

    def __enter__(self) -> Self:
        World.pressure = self.pressure
        return self

    def __exit__(self, *error: object) -> None:
        World.pressure = 0.0


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(results={"folder": str(tmp_path / "results")})


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> dict[str, Exact]:
    """Co-runners and sources that cost no time: one that this machine lacks, two exact ones."""
    sources = {"perf": Missing("perf"), "probe": Exact("probe"), "slowdown": Exact("observed slowdown")}
    monkeypatch.setattr(interference_steps, "presser", lambda core, machine, native: Presses)
    monkeypatch.setattr(interference_steps, "_sources", lambda machine, native: sources)
    return sources


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sources that were shown a block."""
    shown: list[str] = []

    def blocks(*given: Any) -> Callable[[Any], None]:
        return lambda source: shown.append(source.name)

    monkeypatch.setattr(interference_steps, "block_of", blocks)
    return shown


def fit(key: str, config: Config, tables: Path) -> Path:
    """Fit and return the file of the fits."""
    output = Layout(config).interference
    write_fits(config, {"small": tables}, tables, output, tables.parent / "figures" / key, QUICK)
    return output


def test_fits_are_written_with_their_readings_a_figure_and_why_others_are_unscored(
    config: Config, tmp_path: Path, made_up: dict[str, Exact], observed: list[str]
) -> None:
    output = fit("interference", config, write_made_up_tables(tmp_path / "tables"))
    document = json.loads(output.read_text())
    assert set(document["fits"]) == set(document["coruns"]) == {"probe", "slowdown"}
    assert document["fits"]["probe"]["r_squared"] == pytest.approx(1.0)
    assert document["unscored"] == {"perf": "there is no counter; buy one"}
    # Nothing, and at two levels both, cache and reads, twice, with two readings each.
    assert [len(corun["readings"]) for corun in document["coruns"]["probe"]] == [2] * 14
    assert (tmp_path / "figures" / "interference.svg").exists()
    assert list(read_provenance(output).inputs) == [str(tmp_path / "tables" / "costs.parquet")]


def test_only_the_slowdown_is_shown_blocks_and_all_sources_are_stopped(
    config: Config, tmp_path: Path, made_up: dict[str, Exact], observed: list[str]
) -> None:
    fit("interference", config, write_made_up_tables(tmp_path / "tables"))
    assert set(observed) == {"observed slowdown"}
    assert [made_up[key].log for key in ("probe", "slowdown")] == [["start", "stop"]] * 2


def test_a_machine_of_one_core_is_refused_and_nothing_is_written(config: Config, tmp_path: Path) -> None:
    tables = write_made_up_tables(tmp_path / "tables", cores=1)
    with pytest.raises(InterferenceUnavailableError, match="has one core, and a fit needs two"):
        fit("interference", config, tables)
    assert [path.name for path in tmp_path.iterdir()] == ["tables"]


def test_the_block_is_the_model_that_pressure_slows_down_most(
    tiny_folder: Path, tiny_loaded: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tiny_loaded.plan
    rows = [
        (name, layer, version, 1, level, 0, 1e-3 * (1 + slowdown * level), 0.0, 0.0)
        for name, slowdown in (("steady", 0.1), ("tiny", 1.0))
        for layer in range(len(plan.layers))
        for version in range(len(plan.of(layer)))
        for level in (0.0, 1.0)
    ]
    costs = CostTable(pd.DataFrame(rows, columns=list(COLUMNS)), "toy")
    source = Watches()
    core = min(os.sched_getaffinity(0))
    block_of({"steady": tiny_folder / "none", "tiny": tiny_folder}, costs, core, 3)(source)
    alone_s = 1e-3 * len(plan.layers)
    assert [times[1:] for times in source.seen] == [(pytest.approx(alone_s), pytest.approx(2 * alone_s))] * 3
    assert all(times[0] > 0 for times in source.seen)
    assert "the slowdown is that of tiny: 2.00 x under full pressure" in capsys.readouterr().out


def write_known(config: Config, machine: Machine, **r_squared: float) -> None:
    """Write fits of such quality."""
    fits: Mapping[str, Any] = {
        key: PressureFit("observed slowdown", ObservedSlowdown().features, (0.5,), 0.0, value, 0.1).as_dict()
        for key, value in r_squared.items()
    }
    write_json(Layout(config).interference, {"machine": machine.name, "fits": fits}, collect({}))


def test_a_machine_that_nobody_fitted_has_no_fits(config: Config) -> None:
    assert read_fits(Layout(config).interference, MACHINE) == {}


def test_fits_of_another_machine_are_refused(config: Config) -> None:
    write_known(config, make_tables(cores=2).machine, slowdown=0.5)
    other = Machine("other", 1, ((0,),), 2**19, 2**24, 1e11, 1e11, validated=False)
    with pytest.raises(ValueError, match="this machine is other; fit anew"):
        read_fits(Layout(config).interference, other)


@pytest.mark.parametrize(
    ("r_squared", "line", "pressure"),
    [
        (0.7, "interference: observed slowdown (as configured, fitted, R² 0.70 on held-out co-runs)", 0.125),
        (-0.2, "interference: observed slowdown (as configured, not fitted)", 0.25),
    ],
)
def test_a_fit_is_used_unless_it_explains_nothing_and_the_line_says_so(
    config: Config, capsys: pytest.CaptureFixture[str], r_squared: float, line: str, pressure: float
) -> None:
    write_known(config, MACHINE, slowdown=r_squared)
    with started_source(config, MACHINE) as (source, told):
        source.observe(2.0, 1.0, 2.0)
        assert source.pressure() == pytest.approx(pressure)
    assert told == line
    assert line in capsys.readouterr().out


def test_a_source_is_stopped_though_the_study_failed(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Exact("probe")
    source.start()
    monkeypatch.setattr(interference_steps, "choose", lambda *given: (source, "made up"))
    with pytest.raises(RuntimeError, match="void"), started_source(config, MACHINE):
        raise RuntimeError("void")
    assert source.log == ["start", "stop"]
