from pathlib import Path

import pandas as pd
import pytest

from veltair.compiler.build import ModelPlan, read_plan
from veltair.machine import cachegrind
from veltair.machine.cachegrind import (
    CachegrindError,
    check_traffic,
    find_valgrind,
    read_counts,
    sample,
    tensors,
)

# The form that valgrind's manual gives of an output file (chapter on Cachegrind, output file format), cut.
OUTPUT = """\
desc: I1 cache:         32768 B, 64 B, 8-way associative
desc: D1 cache:         32768 B, 64 B, 8-way associative
desc: LL cache:         262144 B, 64 B, 16-way associative
cmd: cachegrind_kernel kernels.so
events: Ir I1mr ILmr Dr D1mr DLmr Dw D1mw DLmw
fl=kernel.c
fn=main
12 100 1 1 40 8 7 20 5 4
summary: 100 1 1 40 8 7 20 5 4
"""


def test_the_counts_of_a_run_are_those_of_its_summary() -> None:
    counts = read_counts(OUTPUT)
    assert (counts["Ir"], counts["DLmr"], counts["DLmw"]) == (100, 7, 4)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "lacks a line"),
        ("events: Ir DLmr\n", "lacks a line"),
        ("events: Ir DLmr\nsummary: 1 2 3\n", "names 2 events, but counts 3"),
    ],
)
def test_what_is_no_output_of_cachegrind_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_counts(text)


@pytest.fixture
def plan(tiny_folder: Path) -> ModelPlan:
    return read_plan(tiny_folder)


def test_a_kernel_is_given_its_inputs_its_packed_weights_and_its_outputs(plan: ModelPlan) -> None:
    for layer, called in enumerate(plan.layers):
        for version, chosen in enumerate(plan.of(layer)):
            texts = tensors(plan, layer, version)
            assert len(texts) == len(called.inputs) + len(called.outputs)
            assert texts[-1] == f"2,32:{','.join(map(str, called.outputs[-1]))}"
            for place, shape in zip(chosen.packed, chosen.packed_shapes, strict=True):
                assert texts[place] == f"2,32:{','.join(map(str, shape))}"


def test_a_sample_has_the_first_and_last_version_of_unlike_layers_that_are_not_too_large(
    plan: ModelPlan,
) -> None:
    most_macs = sorted(layer.macs for layer in plan.layers)[-1] - 1
    found = sample(plan, 100, most_macs)
    assert all(0 < one.macs <= most_macs for one in found)
    layers = {one.layer for one in found}
    assert len({plan.layers[layer].structure for layer in layers}) == len(layers)
    for layer in layers:
        assert {one.version for one in found if one.layer == layer} == {0, len(plan.of(layer)) - 1}


def test_without_valgrind_it_is_said_how_to_get_it(
    tiny_folder: Path, c_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cachegrind, "find_valgrind", lambda: None)
    with pytest.raises(CachegrindError, match="apt-get install valgrind"):
        check_traffic({"tiny": tiny_folder}, [2**18], 1, 10**9, c_build, tmp_path / "traffic.csv")


@pytest.mark.long
@pytest.mark.skipif(find_valgrind() is None, reason="valgrind is not installed")
def test_a_layer_that_fits_its_cache_fetches_what_it_touches_once(
    tiny_folder: Path, c_build: Path, tmp_path: Path
) -> None:
    output = tmp_path / "traffic.csv"
    table = check_traffic({"tiny": tiny_folder}, [2**22], 1, 10**9, c_build, output)
    assert len(pd.read_csv(output)) == len(table) > 0
    assert table["ratio"].between(0.7, 1.3).all()
