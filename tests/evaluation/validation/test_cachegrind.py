from dataclasses import replace
from math import isnan
from pathlib import Path

import pytest

from veltair.compiler.build.build import LIBRARY, ModelPlan, read_plan
from veltair.evaluation.validation import cachegrind
from veltair.evaluation.validation.cachegrind import (
    CachegrindError,
    check_traffic,
    find_valgrind,
    read_counts,
    read_parts,
    sample,
    simulated_bytes,
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


# Likewise (chapter on Callgrind's format), two parts of a run that asked for them.
PARTS = """\
version: 1
part: 1
desc: Trigger: Client Request: query
events: Ir DLmr DLdmr
fl=kernel.c
12 100 4
summary: 100 4 3
part: 2
desc: Trigger: Client Request: layer
events: Ir DLmr DLdmr
summary: 70 2
totals: 70 2
"""


def test_each_part_of_a_run_has_its_trigger_and_its_counts_and_zeros_at_the_end_may_be_left_out() -> None:
    assert read_parts(PARTS) == [
        ("query", {"Ir": 100, "DLmr": 4, "DLdmr": 3}),
        ("layer", {"Ir": 70, "DLmr": 2, "DLdmr": 0}),
    ]


def test_a_part_without_events_is_refused() -> None:
    with pytest.raises(ValueError, match="no output of callgrind"):
        read_parts("summary: 1 2\n")


@pytest.fixture
def plan(tiny_folder: Path) -> ModelPlan:
    return read_plan(tiny_folder)


def test_a_kernel_is_given_its_inputs_its_packed_weights_and_its_outputs(plan: ModelPlan) -> None:
    for layer, called in enumerate(plan.layers):
        for version, chosen in enumerate(plan.of(layer)):
            texts = tensors(plan, layer, version)
            assert len(texts) == len(called.inputs) + len(called.outputs)
            assert texts[-1] == f"2,32:{','.join(map(str, called.outputs[-1]))}"
            for index, shape in zip(chosen.packed, chosen.packed_shapes, strict=True):
                assert texts[index] == f"2,32:{','.join(map(str, shape))}"


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
    tiny_folder: Path, c_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cachegrind, "find_valgrind", lambda: None)
    with pytest.raises(CachegrindError, match="apt-get install valgrind"):
        check_traffic({"tiny": tiny_folder}, (2**18, 2**20), 1, 10**9, c_build)


def test_each_row_has_the_bytes_of_its_own_cache(
    tiny_folder: Path, c_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cachegrind, "simulated_bytes", lambda *_: (4096, 0))
    table = check_traffic({"tiny": tiny_folder}, (2**16, 2**20), 1, 10**9, c_build)
    assert table["cache_bytes"].tolist()[:2] == [2**16, 2**20]
    assert table["simulated_bytes"].tolist()[:2] == [4096, 0]
    assert table["ratio"][0] == table["modelled_bytes"][0] / 4096 and isnan(table["ratio"][1])


@pytest.mark.long
@pytest.mark.skipif(find_valgrind() is None, reason="valgrind is not installed")
def test_a_layer_that_fits_its_cache_fetches_what_it_touches_once(
    tiny_portable_folder: Path, c_build: Path
) -> None:
    table = check_traffic({"tiny": tiny_portable_folder}, (2**21, 2**22), 1, 10**9, c_build)
    assert len(table) > 0 and table["ratio"].between(0.7, 1.3).all()


@pytest.mark.long
@pytest.mark.skipif(find_valgrind() is None, reason="valgrind is not installed")
def test_a_kernel_that_the_library_lacks_is_named(
    tiny_portable_folder: Path, c_build: Path, plan: ModelPlan
) -> None:
    one = sample(plan, 1, 10**9)[0]
    missing = replace(one, plan=replace(one.plan, symbol="no_such_kernel"))
    with pytest.raises(CachegrindError, match="cachegrind failed on no_such_kernel"):
        simulated_bytes(missing, tiny_portable_folder / LIBRARY, (2**18, 2**20), c_build)
