import os
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.support.tiny import tiny
from veltair.evaluation.benchmarks.layer_groups import LayerGroup, layer_groups
from veltair.evaluation.benchmarks.layer_times import COLUMNS, group_table, network_times, settled

CORES = tuple(sorted(os.sched_getaffinity(0)))
README = Path(__file__).parents[3] / "results" / "README.md"


@pytest.mark.parametrize("cores", [CORES[:1], CORES[:2]], ids=len)
def test_every_layer_and_node_of_a_built_model_is_timed(
    cores: tuple[int, ...], tiny_folder: Path, tiny_loaded: Any, tmp_path: Path
) -> None:
    onnx.save(tiny(), tmp_path / "tiny.onnx")
    ours, theirs = network_times(tmp_path / "tiny.onnx", tiny_folder, cores, 1e-4, budget_s=0.1)
    assert len(ours.operators) == len(tiny_loaded.plan.layers)
    assert [one.macs for one in ours.operators] == [layer.macs for layer in tiny_loaded.plan.layers]
    assert min(one.seconds for one in ours.operators) > 0
    # Its three products: two convolutions and the dense layer.
    both = {group.name for group in layer_groups(ours, theirs) if group.layers and group.nodes and group.macs}
    assert both == {"3x3 16x16x3 → 8x8x16", "3x3 8x8x16 → 16", "matmul 1x16x10"}


def test_a_model_that_answers_otherwise_is_not_timed(tiny_folder: Path, tmp_path: Path) -> None:
    onnx.save(tiny(seed=1), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="other answers with a relative error"):
        network_times(tmp_path / "other.onnx", tiny_folder, CORES[:1], 1e-4, budget_s=0.1)


def test_the_first_run_of_each_block_does_not_count() -> None:
    assert settled([1, 2, 3, 4, 5, 6], runs=3) == [2, 3, 5, 6]


def test_blocks_of_one_run_count_whole() -> None:
    assert settled([1, 2, 3], runs=1) == [1, 2, 3]


def test_a_row_is_a_group_and_each_column_is_defined() -> None:
    table = group_table("tiny", 2, [LayerGroup("layout", 1, 2, 0, 0.5, 0.25)])
    (row,) = table[["model", "cores", "group", "layers", "nodes", "lost_s"]].values.tolist()
    assert row == ["tiny", 2, "layout", 1, 2, 0.25]
    defined = README.read_text().partition("## Layer times")[2].partition("\n## ")[0]
    assert [name for name in COLUMNS if f"`{name}`" not in defined] == []
