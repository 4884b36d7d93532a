"""Layers that are served at once: a few recipes and schedules of our own, and no search."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

from tests.support.compiler.search_fakes import SETTINGS, FakeRunner, Workshop, quiet, sums_in, total
from tests.support.imports import chain, normal, one
from veltair.compiler.frontend.importer import import_model
from veltair.compiler.search.plain_schedules import plain_schedules
from veltair.compiler.search.records import read_record
from veltair.compiler.search.runner import Measured
from veltair.compiler.search.search import replay, search
from veltair.compiler.search.target import cpu_target
from veltair.compiler.search.traces import plain

FEW = replace(SETTINGS, few=2)
FUNCTIONS = {"sum-1": total()}


@pytest.fixture(scope="module")
def target() -> Any:
    return cpu_target(4, "x86-64-v3")


def five_by_hand(function: Any, _: Any) -> list[Any]:
    return [sums_in(parts, function) for parts in (1, 2, 4, 8, 16)]


def origins(folder: Path) -> list[str]:
    record = read_record(folder / "sum-1.jsonl")
    return [trial.origin for trial in record.trials] if record else []


def test_only_a_few_schedules_are_measured_and_nothing_is_searched(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Workshop().install(monkeypatch)
    assert search(FUNCTIONS, target, FEW, tmp_path, quiet, five_by_hand) == {}
    assert origins(tmp_path) == ["schedule"] * 2 and shop.seeds == []


def test_what_ran_is_not_measured_again(tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Workshop().install(monkeypatch)
    for _ in range(2):
        search(FUNCTIONS, target, FEW, tmp_path, quiet, five_by_hand)
    assert len(shop.measured) == 1


def test_a_later_search_goes_on_from_there(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workshop().install(monkeypatch)
    search(FUNCTIONS, target, FEW, tmp_path, quiet, five_by_hand)
    search(FUNCTIONS, target, SETTINGS, tmp_path, quiet, five_by_hand)
    assert origins(tmp_path) == ["schedule"] * 5 + ["search"] * 3


def test_a_layer_without_schedules_of_ours_gets_a_plain_one(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workshop().install(monkeypatch)
    assert search(FUNCTIONS, target, FEW, tmp_path, quiet) == {}
    assert origins(tmp_path) == ["schedule"]


def test_a_structure_of_which_nothing_ran_is_reported(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workshop().install(monkeypatch)
    monkeypatch.setattr(FakeRunner, "measure", lambda self, items, best_s: [Measured((), "no")] * len(items))
    assert (
        "none of 2 candidates ran" in search(FUNCTIONS, target, FEW, tmp_path, quiet, five_by_hand)["sum-1"]
    )


LAYERS = {
    "element by element": one("Relu", (1, 4, 9, 32), (1, 4, 9, 32)),
    "a mean": one("ReduceMean", (3, 5, 8), (3, 1, 1), axes=[1, 2]),
    "layers of several sums": one(
        "LayerNormalization", (1, 5, 32), (1, 5, 32), normal(32), normal(32, seed=1)
    ),
    "a softmax": one("Softmax", (4, 8), (4, 8)),
    "a convolution": chain(
        ("Conv", "x k", "c", {"pads": [1, 1, 1, 1]}),
        ("Relu", "c", "y"),
        shape=(1, 4, 8, 8),
        made=(1, 16, 8, 8),
        constants={"k": normal(16, 4, 3, 3)},
    ),
    "a lookup": chain(
        ("Gather", "t x", "y", {"axis": 0}),
        shape=(1, 6),
        made=(1, 6, 32),
        constants={"t": normal(9, 32)},
        types={"x": 7},
    ),
    "a scalar": one("ReduceMax", (4, 8), (), keepdims=0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_plain_schedules_compute_what_the_layer_does(name: str, target: Any) -> None:
    for structure, function in import_model("net", LAYERS[name], 1.0).functions().items():
        (schedule,) = plain_schedules(function, target)
        trace = plain(schedule.trace.as_json())
        kernels = [
            tvm.compile(module, target=cpu_target(1))["main"]
            for module in (
                replay(function, trace),
                tvm.IRModule({"main": function.with_attr("global_symbol", "main")}),
            )
        ]
        random = np.random.default_rng(0)
        arrays = [
            random.standard_normal([int(extent) for extent in one.shape]).astype(str(one.dtype))
            if str(one.dtype) == "float32"
            else random.integers(0, 2, [int(extent) for extent in one.shape]).astype(str(one.dtype))
            for one in function.params
        ]
        made = []
        for kernel in kernels:
            given = [tvm.runtime.tensor(array) for array in arrays]
            kernel(*given)
            made.append(given[-1].numpy())
        assert np.allclose(made[0], made[1], rtol=1e-5, atol=1e-5), structure


def test_fewer_than_none_are_refused() -> None:
    with pytest.raises(ValueError, match="few is -1; give 0 or more"):
        replace(SETTINGS, few=-1)
