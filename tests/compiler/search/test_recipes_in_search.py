"""Recipes in the search: measured first and in addition, recorded, continued, replayed."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.compiler import recipe_fakes
from tests.support.compiler.nests import matmul
from tests.support.compiler.recipe_fakes import doubled
from tests.support.compiler.search_fakes import (
    HEADER,
    SETTINGS,
    FakeEvolution,
    Workshop,
    counts,
    quiet,
    sums_in,
    total,
)
from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.recipes.recipe import RecipeError
from veltair.compiler.search import search as search_module
from veltair.compiler.search.kernel import cold_kernel
from veltair.compiler.search.records import Batch, RecordFile, SearchTrial, pack, read_record, unpack
from veltair.compiler.search.search import SearchSettings, read_candidates, replay, search
from veltair.compiler.search.target import cpu_target

PRODUCT = matmul(8, 32, 4)
FUNCTIONS = {"product-1": PRODUCT}
ONE, TWO, UNKNOWN = doubled(16), doubled(8), doubled(16, later="key")
GOOD = SearchTrial(ONE, (1e-6,), "recipe")


@pytest.fixture(scope="module")
def target() -> Any:
    return cpu_target(4, "x86-64-v3")


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return Workshop().install(monkeypatch)


def for_sums(monkeypatch: pytest.MonkeyPatch, *listed: dict[str, Any]) -> None:
    """Let the search of sums know recipes, whose kernels are those of a product."""
    recipe_fakes.install(monkeypatch, *listed)
    monkeypatch.setattr(
        search_module, "generated", lambda _, trace: recipe_fakes.generate_doubled(PRODUCT, trace)
    )


def origins(folder: Path) -> list[str]:
    record = read_record(folder / "sum-1.jsonl")
    return [trial.origin for trial in record.trials] if record else []


def search_sums(folder: Path, target: Any, schedules: Any = None) -> dict[str, str]:
    return search({"sum-1": total()}, target, SETTINGS, folder, quiet, schedules)


def test_recipes_are_measured_first_of_all_and_in_addition_to_the_trials(
    tmp_path: Path, target: Any, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for_sums(monkeypatch, ONE, TWO)
    search_sums(tmp_path, target, lambda function, _: [sums_in(16, function)])
    assert origins(tmp_path) == ["recipe"] * 2 + ["schedule"] + ["search"] * 7


def test_a_record_that_has_its_trials_is_extended_by_the_recipes_that_it_lacks(
    tmp_path: Path, target: Any, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_sums(tmp_path, target)
    for listed in ((ONE,), (TWO, ONE), (ONE, TWO)):
        for_sums(monkeypatch, *listed)
        search_sums(tmp_path, target)
    assert origins(tmp_path) == ["search"] * 8 + ["recipe"] * 2


def test_recipes_are_measured_in_batches(
    tmp_path: Path, target: Any, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for_sums(monkeypatch, *(doubled(size) for size in (1, 2, 4, 8)))
    search_sums(tmp_path, target)
    assert counts(tmp_path, "sum-1") == [3, 1, 3, 3, 2]


def test_a_search_ended_for_want_of_candidates_is_ended_still_after_new_recipes(
    tmp_path: Path, target: Any, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.most = 4
    search_sums(tmp_path, target)
    for_sums(monkeypatch, ONE)
    search_sums(tmp_path, target)
    record = read_record(tmp_path / "sum-1.jsonl")
    assert counts(tmp_path, "sum-1") == [3, 1, 1] and shop.seeds == [1]
    assert record is not None and record.ending is not None and record.ending.kind == "exhausted"


def test_the_evolution_never_sees_a_recipe(
    tmp_path: Path, target: Any, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[int] = []
    replayed: list[Any] = []

    def learn(_: Any, candidates: Sequence[Any], *__: object, **___: object) -> None:
        learned.append(len(candidates))

    monkeypatch.setattr(FakeEvolution, "learn", learn)
    monkeypatch.setattr(search_module, "replayed", lambda _, trace: replayed.append(trace))
    RecordFile(tmp_path, HEADER).append(Batch((GOOD,), 1.0, "znver3"))
    for_sums(monkeypatch, ONE, TWO)
    search_sums(tmp_path, target)
    assert (learned, replayed, shop.seeds) == ([3, 3, 2], [], [1])


def test_recipes_that_cannot_be_listed_do_not_stop_the_search(
    tmp_path: Path,
    target: Any,
    shop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def impossible(*_: object) -> Any:
        raise TypeError("no such layer")

    monkeypatch.setattr(search_module, "recipes", impossible)
    assert search_sums(tmp_path, target) == {}
    assert counts(tmp_path, "sum-1") == [3, 3, 2]
    assert "the recipes for sum-1 are left out: no such layer" in caplog.text


def test_a_recipe_that_cannot_be_built_is_left_out_and_said(
    tmp_path: Path,
    target: Any,
    shop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for_sums(monkeypatch, doubled(7), ONE)
    search_sums(tmp_path, target)
    assert origins(tmp_path) == ["recipe"] + ["search"] * 8
    assert "32 columns are no tiles of 7" in caplog.text


def test_a_recipe_in_a_record_comes_back_as_it_was_packed_or_not(tmp_path: Path) -> None:
    failed = SearchTrial(TWO, (), "recipe", "it failed")
    RecordFile(tmp_path, HEADER).append(Batch((GOOD, failed), 1.0, "znver3"))
    pack(tmp_path, tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "again", ["sum-1"])
    for path in (
        tmp_path / "sum-1.jsonl",
        tmp_path / "packed" / "sum-1.jsonl.gz",
        tmp_path / "again/sum-1.jsonl",
    ):
        record = read_record(path)
        assert record is not None and record.trials == (GOOD, failed)


def test_a_record_with_recipes_goes_on_where_it_was(
    tmp_path: Path, target: Any, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for_sums(monkeypatch, ONE, TWO)
    RecordFile(tmp_path, HEADER).append(Batch((GOOD,), 1.0, "znver3"))
    search_sums(tmp_path, target)
    assert origins(tmp_path) == ["recipe"] * 2 + ["search"] * 8


def test_a_recipe_that_was_edited_in_a_record_is_damage(tmp_path: Path) -> None:
    RecordFile(tmp_path, HEADER).append(Batch((GOOD,), 1.0, "znver3"))
    path = tmp_path / "sum-1.jsonl"
    path.write_text(path.read_text().replace('"tile":16', '"tile":32'))
    record = read_record(path)
    assert record is not None and record.trials == () and "SHA-256" in str(record.damage)


def test_candidates_of_recipes_are_read_with_their_tiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe_fakes.install(monkeypatch)
    RecordFile(tmp_path, HEADER).append(Batch((GOOD,), 1.0, "znver3"))
    (candidate,) = read_candidates("sum-1", PRODUCT, tmp_path)
    assert (candidate.trace, candidate.origin, candidate.run_seconds) == (ONE, "recipe", (1e-6,))
    # 2 tiles of 16 columns: each touches x (32 numbers), 4 x 16 weights and 8 x 16 outputs.
    assert candidate.tiling == Tiling(2, 4 * (32 + 64 + 128), 4 * (32 + 128 + 256))


def test_a_recipe_of_a_record_that_cannot_be_built_any_more_is_a_candidate_that_did_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    recipe_fakes.install(monkeypatch)
    RecordFile(tmp_path, HEADER).append(Batch((SearchTrial(UNKNOWN, (1e-6,), "recipe"),), 1.0, "znver3"))
    (candidate,) = read_candidates("sum-1", PRODUCT, tmp_path)
    assert (candidate.run_seconds, candidate.trace) == ((), None)
    assert "sum-1" in caplog.text and "unknown keys ['later']" in caplog.text


def test_fresh_recipes_are_measured_beside_one_that_cannot_be_built_any_more(
    tmp_path: Path, target: Any, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for_sums(monkeypatch, ONE)
    RecordFile(tmp_path, HEADER).append(Batch((SearchTrial(UNKNOWN, (1e-6,), "recipe"),), 1.0, "znver3"))
    search_sums(tmp_path, target)
    record = read_record(tmp_path / "sum-1.jsonl")
    assert record is not None and [trial.trace for trial in record.trials[:2]] == [UNKNOWN, ONE]


def test_replaying_a_recipe_generates_its_kernel_or_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe_fakes.install(monkeypatch)
    assert "main" in replay(PRODUCT, ONE)
    with pytest.raises(RecipeError, match="unknown keys"):
        replay(PRODUCT, json.loads(json.dumps(UNKNOWN)))


def test_a_recipe_runs_alone_with_its_weights_packed(monkeypatch: pytest.MonkeyPatch, target: Any) -> None:
    recipe_fakes.install(monkeypatch)
    assert cold_kernel(PRODUCT, ONE, target)() > 0


def test_a_recipe_is_really_built_and_measured(
    tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe_fakes.install(monkeypatch, ONE)
    monkeypatch.setattr(search_module, "Evolution", lambda *a, **k: FakeEvolution(Workshop(most=0), *a, **k))
    settings = SearchSettings(trials=1, population=4, batch=1, repeats=3)
    assert search(FUNCTIONS, target, settings, tmp_path, quiet) == {}
    record = read_record(tmp_path / "product-1.jsonl")
    assert record is not None
    (trial,) = record.trials
    assert (trial.trace, trial.origin, len(trial.run_seconds)) == (ONE, "recipe", 3)
