import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.support.builders import make_machine
from tests.support.tiny import tiny
from veltair.compiler.search.records import Batch, Header, RecordFile, SearchTrial
from veltair.evaluation.benchmarks import compiler
from veltair.evaluation.benchmarks.compiler import (
    compare_with,
    compare_with_itself,
    core_sets,
    heaviest,
    kernel_figures,
    openvino_figures,
    pass_figures,
    runtimes_here,
    trial_figures,
)
from veltair.evaluation.benchmarks.search_ablation import PassComparison
from veltair.evaluation.runtimes.paired_latency import PairedLatencies
from veltair.evaluation.runtimes.timed_process import ONNX_RUNTIME, OPENVINO

CORES = tuple(sorted(os.sched_getaffinity(0)))
# Of two models: ratios 2 and 0.5 on one core, 0.8 and 0.2 on all.
COMPARISONS = {
    ("1core", "a"): PairedLatencies((0.001, 0.002, 0.003), (0.002, 0.004, 0.003)),
    ("1core", "b"): PairedLatencies((0.002,), (0.001,)),
    ("allcores", "a"): PairedLatencies((0.001,), (0.0008,)),
    ("allcores", "b"): PairedLatencies((0.001,), (0.0002,)),
}


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return kernel_figures(COMPARISONS)


def test_a_model_s_ratio_is_the_median_of_its_rounds(figures: dict[str, Any]) -> None:
    figure = figures["ratio_1core_a"]
    assert figure.value == pytest.approx(2.0)
    assert figure.samples == pytest.approx((2.0, 2.0, 1.0))


def test_latencies_are_in_milliseconds(figures: dict[str, Any]) -> None:
    assert figures["latency_1core_a"].value == pytest.approx(2.0)
    assert figures["latency_onnxruntime_1core_a"].value == pytest.approx(3.0)


def test_the_mean_of_ratios_is_geometric_and_by_cores(figures: dict[str, Any]) -> None:
    assert figures["kernel_ratio_1core_geomean"].value == pytest.approx(1.0)
    assert figures["kernel_ratio_allcores_geomean"].value == pytest.approx(0.4)


def test_the_least_ratio_is_over_all_models_and_cores(figures: dict[str, Any]) -> None:
    assert figures["kernel_ratio_min"].value == pytest.approx(0.2)
    assert len(figures["kernel_ratio_min"].samples) == 4


def test_openvino_has_ratios_and_latencies_of_its_own_and_leaves_those_of_onnx_runtime() -> None:
    found = openvino_figures(COMPARISONS)
    assert found["ratio_openvino_1core_a"].samples == pytest.approx((2.0, 2.0, 1.0))
    assert found["latency_openvino_1core_a"].value == pytest.approx(3.0)
    assert found["ratio_openvino_1core_a"].unit == "OpenVINO ÷ ours"
    assert not found.keys() & kernel_figures(COMPARISONS).keys()


def test_the_mean_of_openvino_s_ratios_is_by_cores_and_of_all() -> None:
    found = openvino_figures(COMPARISONS)
    assert found["kernel_ratio_openvino_1core_geomean"].value == pytest.approx(1.0)
    assert found["kernel_ratio_openvino_allcores_geomean"].value == pytest.approx(0.4)
    # (2 x 0.5 x 0.8 x 0.2) ** (1 / 4)
    assert found["kernel_ratio_openvino_geomean"].value == pytest.approx(0.16**0.25)


def test_openvino_is_compared_with_where_it_is_installed_and_left_out_with_a_word_where_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiler, "find_spec", lambda name: name)
    assert runtimes_here() == (ONNX_RUNTIME, OPENVINO)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(compiler, "find_spec", lambda _: None)
    assert runtimes_here() == (ONNX_RUNTIME,)
    assert "no figures beside OpenVINO: it is not installed" in capsys.readouterr().out


def test_passes_are_compared_by_the_wall_time_of_all_structures_and_the_largest_loss() -> None:
    compared = [
        PassComparison("a", 10, (30, 30), (0.01, 0.04)),
        PassComparison("b", 5, (10, 5), (-0.02, 0.0)),
    ]
    found = pass_figures(compared, "made up")
    assert found["single_pass_ratio"].value == pytest.approx(15 / 75)
    assert found["single_pass_loss"].value == 0.04
    assert found["single_pass_loss"].samples == (0.01, 0.04, -0.02, 0.0)
    assert found["single_pass_loss_median"].value == pytest.approx(0.005)


def test_both_comparisons_are_on_one_core_and_on_all() -> None:
    assert core_sets(make_machine(4)) == {"1core": (0,), "allcores": (0, 1, 2, 3)}


def test_the_heaviest_structures_come_first(tiny_imported: Any) -> None:
    (first, second) = heaviest(tiny_imported, 2)
    macs = {layer.structure: layer.macs for layer in tiny_imported.model.layers}
    assert macs[first] >= macs[second] >= max(macs[other] for other in macs.keys() - {first, second})


RUNTIMES = [
    ONNX_RUNTIME,
    pytest.param(
        OPENVINO,
        marks=pytest.mark.skipif(find_spec(OPENVINO) is None, reason="the optional openvino is missing"),
    ),
]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_built_model_is_compared_with_a_runtime(runtime: str, tiny_folder: Path, tmp_path: Path) -> None:
    onnx.save(tiny(), tmp_path / "tiny.onnx")
    found = compare_with([runtime], tmp_path / "tiny.onnx", tiny_folder, CORES[:1], 1e-4, budget_s=0.1)
    assert found[runtime].ratio > 0


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_that_answers_otherwise_is_not_timed(runtime: str, tiny_folder: Path, tmp_path: Path) -> None:
    onnx.save(tiny(seed=1), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other answers with a relative error of .* run rule `oracle`"):
        compare_with([runtime], tmp_path / "other.onnx", tiny_folder, CORES[:1], 1e-4, budget_s=0.1)


@pytest.mark.long
def test_a_built_model_is_compared_with_itself(tiny_folder: Path) -> None:
    found = compare_with_itself(tiny_folder, CORES[:1], budget_s=0.1)
    assert len(found.ours_s) == len(found.theirs_s) >= 5


def test_a_trial_takes_its_share_of_the_search_and_each_batch_is_a_sample(
    tiny_imported: Any, tiny_chosen: Any, tmp_path: Path
) -> None:
    functions = heaviest(tiny_imported, 1)
    (structure,) = functions
    trial = SearchTrial(tiny_chosen[structure][0].trace, (0.001,), "search")
    record = RecordFile(tmp_path, Header(structure, "x86-64-v3", 64, 1, 1, 10))
    record.append(Batch((trial,) * 2, 0.5, "made up"))
    record.append(Batch((trial,), 0.75, "made up"))
    found = trial_figures(functions, 3.0, tmp_path, "made up")
    assert found["seconds_per_trial"].value == 1.0
    assert found["seconds_per_trial"].samples == (0.25, 0.75)
    assert found["analysis_ms_per_candidate"].value > 0
