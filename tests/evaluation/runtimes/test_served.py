import os
import re
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest

from tests.support.tiny import tiny
from veltair.compiler.frontend.model import Layer
from veltair.config import Config, load
from veltair.config.model_keys import ServedModel
from veltair.evaluation.measurement.rounds import Attempt, Rounds, Server
from veltair.evaluation.measurement.slots import Slot
from veltair.evaluation.metrics.bounds import Bounds
from veltair.evaluation.metrics.resampling import Resampled
from veltair.evaluation.runtimes import served
from veltair.evaluation.runtimes.registry import Runtime
from veltair.evaluation.runtimes.served import installed, rate_figures, ratio_figures
from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.topology import Machine

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]
DEFAULT = Runtime("default", ("served_vs_ort_default", "served_vs_ort_best"), "onnxruntime")
PINNED = [Runtime(name, ("served_vs_ort_best",), "onnxruntime") for name in ("1x2", "2x1")]
OURS = ["FULL", "Planaria"]


def known(*values: float) -> Resampled:
    """Return what is known in all three rounds, whose mean it is, and in each resample."""
    array = np.array(values)
    found = float(array.mean())
    return Resampled(Bounds(found, found), array, array, 3)


def beyond(low: float, high: float) -> Resampled:
    return Resampled(Bounds(low, high), np.array([low] * 3), np.array([high] * 3), 3)


FOUND = {
    "FULL": known(20.0, 24.0, 28.0),
    "Planaria": known(30.0, 26.0, 28.0),
    "default": known(10.0, 8.0, 9.0),
    "1x2": known(15.0, 13.0, 14.0),
    "2x1": known(5.0, 20.0, 11.0),
}


def test_the_best_of_ours_is_compared_with_the_best_of_each_kind_round_by_round() -> None:
    figures = ratio_figures(FOUND, OURS, [DEFAULT, *PINNED], "here")
    # 28 of ours; 9 of the default, 14 of all of them.
    assert figures["served_vs_ort_default"].value == pytest.approx(28 / 9)
    assert figures["served_vs_ort_best"].value == pytest.approx(28 / 14)
    # 30 / 15, 26 / 20 and 28 / 14.
    low, high = figures["served_vs_ort_best"].interval or (None, None)
    assert (low, high) == (pytest.approx(1.3), pytest.approx(2.0))
    assert "the best of ours ÷ the best of default, 1x2, 2x1, here" in figures["served_vs_ort_best"].unit


def test_each_of_ours_is_compared_beside_the_best() -> None:
    figures = ratio_figures(FOUND, OURS, [DEFAULT, *PINNED], "here")
    assert figures["served_vs_ort_default_FULL"].value == pytest.approx(24 / 9)
    assert figures["served_vs_ort_best_Planaria"].value == pytest.approx(28 / 14)


def test_a_ratio_to_what_serves_no_rate_in_time_is_a_lower_bound() -> None:
    found = {"FULL": known(20.0, 24.0, 28.0), "default": beyond(0.0, 6.0)}
    result = ratio_figures(found, ["FULL"], [DEFAULT], "here")["served_vs_ort_default"]
    assert result.value == 4.0
    assert result.unit.startswith("at least; ")
    assert result.interval == (pytest.approx(20 / 6), None)


def test_a_ratio_of_two_that_serve_no_rate_in_time_is_left_out_with_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = {"FULL": beyond(0.0, 6.0), "default": beyond(0.0, 6.0)}
    assert ratio_figures(found, ["FULL"], [DEFAULT], "here") == {}
    assert "served_vs_ort_best is left out: both are on one side of the rates" in capsys.readouterr().out


def test_everybodys_rate_is_told_with_its_interval_or_as_the_end_of_the_rates() -> None:
    figures = rate_figures({"FULL": known(20.0, 24.0, 28.0), "a b": beyond(40.0, inf)}, "here")
    assert figures["served_qps_FULL"].value == 24.0
    assert figures["served_qps_FULL"].interval == (20.0, 28.0)
    assert (figures["served_qps_a_b"].value, figures["served_qps_a_b"].interval) == (40.0, (40.0, None))
    assert figures["served_qps_a_b"].unit.startswith("at least; QPS at 95 % QoS")


def test_a_figure_without_its_package_is_left_out_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = [Runtime(name, ("served_vs_openvino",), "openvino") for name in ("one", "two")]
    monkeypatch.setattr(Runtime, "installed", property(lambda runtime: runtime.backend != "openvino"))
    assert installed([DEFAULT, *missing]) == [DEFAULT]
    assert capsys.readouterr().out.splitlines() == [
        "served_vs_openvino is left out: openvino is not installed (pip install openvino)"
    ]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The default configuration, but for its results: fits of this machine may lie there."""
    default = load([Path(served.__file__).parents[3] / "workflow" / "config" / "config.yaml"])
    folder = default.results.model_copy(update={"folder": str(tmp_path / "results")})
    return default.model_copy(update={"results": folder})


def test_a_configuration_without_any_policy_compared_is_refused(config: Config) -> None:
    others = {name: policy for name, policy in config.policies.items() if name not in served.OURS}
    lacking = config.model_copy(update={"policies": others})
    files = served.ServedFiles({}, {}, Path("none"))
    with pytest.raises(LookupError, match="has none of Veltair-FULL-shipped, "):
        served.served_figures(lacking, files)


OUR_NAMES = ("Veltair-FULL-shipped", "Veltair-FULL", "Veltair-AC", "PreemptiveEdf", "Planaria")


def kept_always(rounds: Rounds, slot: Slot, servers: dict[str, Server], end_s: float) -> list[Attempt]:
    """Serve a slot once, and keep it."""
    tried = [rounds._attempt(name, server, slot, 0) for name, server in servers.items()]
    return [replace(one, kept=True) for one in tried]


def tables_of(model: LoadedModel) -> Tables:
    """Return a made-up table of the tiny network on the cores there are."""
    rows = [
        ("tiny", layer, version, cores, 0.0, 0, 1e-4 * (1 + version) / cores, 1.0, 1.0)
        for layer in range(len(model.plan.layers))
        for version in range(len(model.plan.of(layer)))
        for cores in range(1, len(CORES) + 1)
    ]
    machine = Machine("toy", 1, (CORES,), 2**19, 2**24, 1e11, 1e11, validated=True)
    layers = tuple(Layer(layer.name, layer.structure, layer.macs) for layer in model.plan.layers)
    return Tables(machine, {"tiny": layers}, {}, CostTable(pd.DataFrame(rows, columns=list(COLUMNS)), "toy"))


def test_policies_and_onnx_runtime_serve_the_same_queries_of_the_tiny_network(
    config: Config,
    tiny_loaded: LoadedModel,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    onnx.save(tiny(), tmp_path / "tiny.onnx")
    monkeypatch.setattr(served, "read_tables", lambda path: tables_of(tiny_loaded))
    monkeypatch.setattr(served, "runtimes", lambda cores: [DEFAULT])
    # Whether the machine is quiet is not the question here.
    monkeypatch.setattr(Rounds, "_serve", kept_always)
    measured = {"shares": (0.01,), "minutes": 0.001, "seconds": 0.3, "queries": 1}
    changes = {
        "models": {"tiny": ServedModel(qos_ms=10_000, onnx="tiny.onnx")},
        "workloads": {"mix": {"tiny": 1}},
        "measured": config.measured.model_copy(update=measured),
    }
    files = served.ServedFiles({"tiny": tmp_path / "tiny.onnx"}, {"tiny": tiny_folder}, tmp_path)
    figures = served.served_figures(config.model_copy(update=changes), files)
    # Nobody misses a target of 10 s, so that only the end of the rates is known, and no ratio.
    assert not any(name.startswith("served_vs") for name in figures)
    assert figures["served_qps_default"].unit.startswith("at least; ")
    assert set(figures) == {"served_qps_default", *(f"served_qps_{name}" for name in OUR_NAMES)}
    # A line may go on with what disturbed the run.
    lines = [line for line in capsys.readouterr().out.splitlines() if "QPS), " in line]
    counted = [number for line in lines for number in re.findall(r"\d+ counted queries", line)]
    assert len(counted) == 3 * (1 + len(OUR_NAMES))
    # A round asks all the same.
    assert len(set(counted)) <= 3
