"""Profiles as ONNX Runtime wrote them; see tests/data/onnx_profile/README.md."""

import json
from pathlib import Path
from typing import Any

import pytest

from veltair.evaluation.benchmarks.onnx_profile import OnnxProfile, read_profile

DATA = Path(__file__).parents[2] / "data" / "onnx_profile"


def events(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DATA / f"{name}.json").read_text())
    return found


@pytest.fixture
def profile() -> OnnxProfile:
    return read_profile(events("efficientnet_b0"))


def test_each_run_has_the_seconds_of_each_node(profile: OnnxProfile) -> None:
    assert len(profile.runs) == 2
    assert [len(run) for run in profile.runs] == [len(profile.nodes)] * 2
    assert profile.runs[0][:2] == pytest.approx((277e-6, 190e-6))
    assert profile.runs[1][:2] == pytest.approx((283e-6, 154e-6))


def test_nodes_are_told_by_what_they_compute(profile: OnnxProfile) -> None:
    assert {node.name: node.operator.name for node in profile.nodes} == {
        "stem.bn_nchwc": "3x3 224x224x3 → 112x112x32",
        "stem.swish/QuickGeluFusion/": "QuickGelu",
        "stage1.block0.depthwise.bn_nchwc": "depthwise 3x3 112x112x32 → 32",
        "stage1.block0.squeeze.pool_nchwc": "average pool",
        "stage1.block0.squeeze.reduce_nchwc": "1x1 1x1x32 → 16",
        "stage1.block0.squeeze.gate_nchwc": "1x1 1x1x8 → 32",
        "ReorderOutput_token_304": "layout",
        "stage1.block0.squeeze.scale": "elementwise",
        "ReorderInput": "layout",
        "stage1.block0.project.bn_nchwc": "1x1 112x112x32 → 16",
        "logits": "matmul 1x1280x1000",
    }


def test_products_of_a_transformer_are_told_by_their_sizes() -> None:
    names = [node.operator.name for node in read_profile(events("bert_large")).nodes]
    assert [name for name in names if "matmul" in name] == [
        "matmul 384x1024x1024",
        "batched matmul 16x384x64x384",
        "batched matmul 16x384x384x64",
        "matmul 384x1024x4096",
        "matmul 384x4096x1024",
        "matmul 384x1024x2",
    ]
    others = {name for name in names if "matmul" not in name}
    assert others == {"gather", "elementwise", "layer norm", "layout", "softmax", "Gelu"}


def test_events_after_the_last_whole_run_do_not_count() -> None:
    cut = events("efficientnet_b0")[:-3]
    assert len(read_profile(cut).runs) == 1


def test_a_run_that_lacks_a_node_is_refused() -> None:
    found = events("efficientnet_b0")
    found.pop(3)
    with pytest.raises(ValueError, match=r"profile of 10 nodes with runs of \[10, 11\]"):
        read_profile(found)


def test_a_profile_without_a_run_is_refused() -> None:
    with pytest.raises(ValueError, match="profile of 0 nodes"):
        read_profile(events("efficientnet_b0")[:2])
