import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pandas as pd
import pytest

from tests.support.tiny import tiny
from veltair.compiler.frontend.model import Layer
from veltair.config import Config, load
from veltair.config.keys import ServedModel
from veltair.evaluation.experiment.scenario import Scenario
from veltair.evaluation.metrics.capacity import (
    Capacity,
    CapacitySearch,
    Criterion,
    Satisfaction,
    Status,
    Trial,
    find_capacity,
)
from veltair.evaluation.runtimes import capacity as served
from veltair.evaluation.runtimes.capacity import OURS, installed, rate_figures, ratio_figures, search_in_turn
from veltair.evaluation.runtimes.query_tracker import RateResult
from veltair.evaluation.runtimes.registry import Runtime
from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.topology import Machine

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]
SEARCH = CapacitySearch(0.1, max_rates=5)
DEFAULT = Runtime("default", "served_vs_ort_default", "onnxruntime")
PINNED = [Runtime(name, "served_vs_ort_pinned", "onnxruntime") for name in ("1x2", "2x1")]


def server(limit_qps: float, log: list[tuple[float, int, str]]) -> Callable[[float, int, Path], RateResult]:
    """Return one that serves rates up to a limit in time, and none above it."""

    def serve(qps: float, seed: int, folder: Path) -> RateResult:
        log.append((qps, seed, folder.name))
        share = 1.0 if qps <= limit_qps else 0.5
        return RateResult(qps, 100, share, share, 0.0, "")

    return serve


def capacity(qps: float) -> Capacity:
    trials = (Trial(qps or 1.0, Satisfaction(1.0, 1.0) if qps else Satisfaction(0.0, 0.0)),)
    return Capacity(Criterion.POOLED, SEARCH, Status.CUT, qps, 2 * qps + 1, trials)


def seeds(**rates: tuple[float, ...]) -> list[dict[str, Capacity]]:
    """Return what each seed found, from the QPS of everybody by seed."""
    names = {OURS if name == "ours" else name.removeprefix("_"): of for name, of in rates.items()}
    count = len(next(iter(names.values())))
    return [{name: capacity(of[seed]) for name, of in names.items()} for seed in range(count)]


def test_everybody_gets_the_answer_of_a_search_alone(tmp_path: Path) -> None:
    limits = {"slow": 12.0, "fast": 31.0}
    estimates = {"slow": 20.0, "fast": 20.0}
    found = search_in_turn(
        {name: server(limit, []) for name, limit in limits.items()}, estimates, SEARCH, 7, tmp_path
    )
    for name, limit in limits.items():
        alone = find_capacity(
            lambda qps, limit=limit: server(limit, [])(qps, 7, tmp_path).satisfaction,  # type: ignore[misc]
            20.0,
            SEARCH,
        )
        assert found[name] == alone


def test_rates_are_tried_in_turn_each_round_from_the_other_end(tmp_path: Path) -> None:
    log: list[tuple[float, int, str]] = []
    serving = {name: server(limit, log) for name, limit in (("a", 5.0), ("b", 500.0), ("c", 50.0))}
    search_in_turn(serving, dict.fromkeys(serving, 20.0), SEARCH, 7, tmp_path)
    order = [folder.split("-")[0] for _, _, folder in log]
    assert order[:9] == ["a", "b", "c", "c", "b", "a", "a", "b", "c"]
    assert {seed for _, seed, _ in log} == {7}
    assert len({folder for _, _, folder in log}) == len(log)


def test_a_ratio_is_ours_by_the_best_runtime_of_its_figure_at_each_seed() -> None:
    found = seeds(
        ours=(20.0, 24.0, 30.0), default=(10.0, 8.0, 10.0), _1x2=(16.0, 10.0, 10.0), _2x1=(5.0, 20.0, 15.0)
    )
    figures = ratio_figures(found, [DEFAULT, *PINNED])
    assert figures["served_vs_ort_default"].samples == (2.0, 3.0, 3.0)
    assert figures["served_vs_ort_default"].value == 3.0
    assert figures["served_vs_ort_pinned"].samples == (1.25, 1.2, 2.0)
    assert figures["served_vs_ort_pinned"].unit.endswith("÷ the best of 1x2, 2x1")


def test_a_seed_at_which_a_runtime_serves_nothing_gives_no_ratio() -> None:
    figures = ratio_figures(seeds(ours=(20.0, 24.0), default=(0.0, 8.0)), [DEFAULT])
    assert figures["served_vs_ort_default"].samples == (3.0,)


def test_a_runtime_that_serves_nothing_at_all_gives_no_figure_but_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ratio_figures(seeds(ours=(20.0,), default=(0.0,)), [DEFAULT]) == {}
    assert "served_vs_ort_default is left out: default served no rate in time" in capsys.readouterr().out


def test_a_ratio_is_0_where_ours_serves_nothing() -> None:
    assert ratio_figures(seeds(ours=(0.0,), default=(8.0,)), [DEFAULT])["served_vs_ort_default"].value == 0.0


def test_everybodys_rate_is_told_with_the_answer_in_words() -> None:
    figures = rate_figures(seeds(ours=(20.0, 24.0), default=(0.0, 8.0)), "mix")
    assert figures["served_qps_default"].samples == (0.0, 8.0)
    assert figures[f"served_qps_{OURS}"].value == 22.0
    assert "workload mix: below 1 QPS (cut, 1 rates tried); 8 QPS" in figures["served_qps_default"].unit


def test_a_figure_without_its_package_is_left_out_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = [Runtime(name, "served_vs_openvino", "openvino") for name in ("one", "two")]
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


def test_a_configuration_without_the_policy_compared_is_refused(config: Config) -> None:
    others = {name: policy for name, policy in config.policies.items() if name != OURS}
    lacking = config.model_copy(update={"policies": others})
    files = served.ServedFiles({}, {}, Path("none"))
    with pytest.raises(LookupError, match="has no policy Veltair-FULL-shipped"):
        served.served_figures(lacking, files)


def test_all_seeds_are_searched_from_the_answers_of_the_seed_before(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[tuple[float, int, str]] = []
    machine = SimpleNamespace(cores=2)
    scenario = SimpleNamespace(context=SimpleNamespace(machine=machine), fluid_qps=50.0, workload="mix")
    monkeypatch.setattr(served, "read_tables", lambda path: None)
    monkeypatch.setattr(served, "scenario_of", lambda *given: scenario)
    monkeypatch.setattr(served, "runtimes", lambda cores: [DEFAULT])

    def contenders(*given: Any) -> dict[str, Any]:
        return {OURS: server(24.0, log), DEFAULT.name: server(10.0, [])}

    monkeypatch.setattr(served, "_contenders", contenders)
    figures = served.served_figures(config, served.ServedFiles({}, {}, Path("none")))
    first = {seed: next(qps for qps, at, _ in log if at == seed) for seed in (1, 2, 3)}
    answers = figures[f"served_qps_{OURS}"].samples
    assert first[1] == pytest.approx(20.0)
    assert (first[2], first[3]) == answers[:2]
    assert len(figures["served_vs_ort_default"].samples) == 3


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


def test_veltair_and_onnx_runtime_serve_the_same_queries_of_the_tiny_network(
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
    monkeypatch.setattr(served, "FIRST_LOAD", 1.0)
    monkeypatch.setattr(served, "SEEDS", 1)
    monkeypatch.setattr(Scenario, "fluid_qps", 60.0)
    changes = {
        "models": {"tiny": ServedModel(qos_ms=10_000, onnx="tiny.onnx")},
        "workloads": {"mix": {"tiny": 1}},
        "measured": config.measured.model_copy(update={"seconds": 0.5, "max_rates": 1}),
    }
    files = served.ServedFiles({"tiny": tmp_path / "tiny.onnx"}, {"tiny": tiny_folder}, tmp_path)
    figures = served.served_figures(config.model_copy(update=changes), files)
    assert figures["served_vs_ort_default"].samples == (1.0,)
    ours, theirs = (line for line in capsys.readouterr().out.splitlines() if "queries" in line)
    assert ours.split(",")[2] == theirs.split(",")[2]
