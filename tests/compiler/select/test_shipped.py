from pathlib import Path

import pytest

from tests.support.compiler.candidate_stores import FOUND, INFO, tamper, with_recipe
from tests.support.compiler.recipe_fakes import parse_doubled
from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.footprint.version import Candidate
from veltair.compiler.select import store as store_module
from veltair.compiler.select.shipped import (
    INSTRUCTION_SETS,
    SHIPPED,
    ServedStores,
    cpu_flags,
    host_flags,
    serve,
    shipped_records,
    shipped_stores,
)
from veltair.compiler.select.store import StoreError, write_store

AVX2 = {"avx2", "fma"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two stores: of the wide one conv-1 only, of the narrow one both structures."""
    write_store(tmp_path / "avx512", {"conv-1": FOUND["conv-1"]}, INFO)
    write_store(tmp_path / "avx2", FOUND, INFO)
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (AVX512, ["avx512", "avx2"]),
        (AVX2, ["avx2"]),
        (AVX2 | {"avx512f"}, ["avx2"]),
        ({"sse4_2"}, []),
    ],
)
def test_a_cpu_is_served_by_the_stores_that_it_can_run_the_widest_first(
    root: Path, flags: set[str], names: list[str]
) -> None:
    assert [folder.name for folder in shipped_stores(root, flags)] == names


def test_records_are_those_of_what_a_cpu_can_run(tmp_path: Path) -> None:
    (tmp_path / "avx2").mkdir()
    assert shipped_records(tmp_path, AVX512) == [tmp_path / "avx2"]
    assert shipped_records(tmp_path, {"sse4_2"}) == []


def test_a_store_that_was_not_shipped_serves_nobody(tmp_path: Path) -> None:
    assert shipped_stores(tmp_path, AVX512) == []


def test_what_this_cpu_can_do_is_read() -> None:
    assert "sse2" in host_flags()


def test_each_structure_comes_from_the_first_store_that_has_it(root: Path) -> None:
    stores = shipped_stores(root, AVX512)
    served = serve(stores, FOUND)
    assert served == ServedStores(FOUND, {"conv-1": root / "avx512", "dense-2": root / "avx2"}, (), ())


def test_what_no_store_has_is_missing(root: Path) -> None:
    assert serve(shipped_stores(root, AVX2), ["pool-3", "conv-1"]).missing == ("pool-3",)


def test_without_stores_everything_is_missing() -> None:
    assert serve([], FOUND).missing == tuple(FOUND)


def test_a_structure_of_which_nothing_ran_comes_from_the_next_store(root: Path) -> None:
    write_store(root / "avx512", {"conv-1": [Candidate("conv-1", 0, Tiling(1, 5, 5), (), None)]}, INFO)
    assert serve(shipped_stores(root, AVX512), ["conv-1"]).stores == {"conv-1": root / "avx2"}


def test_a_structure_with_damaged_traces_comes_from_the_next_store(root: Path) -> None:
    tamper(root / "avx512", "conv-1")
    served = serve(shipped_stores(root, AVX512), ["conv-1"])
    assert (served.stores, served.damaged) == ({"conv-1": root / "avx2"}, ("conv-1",))


@pytest.fixture
def with_outdated(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The two stores; conv-1 of the wide one has a recipe with a key that the program does not know."""
    monkeypatch.setattr(store_module, "parse", parse_doubled)
    write_store(root / "avx512", {"conv-1": with_recipe("conv-1", later="key")}, INFO)
    return root


def test_a_structure_with_a_recipe_that_cannot_be_built_comes_from_the_next_store(
    with_outdated: Path,
) -> None:
    served = serve(shipped_stores(with_outdated, AVX512), FOUND)
    assert served.stores == dict.fromkeys(FOUND, with_outdated / "avx2")
    assert served.outdated == {"conv-1": "unknown keys ['later']"}


def test_a_structure_with_a_recipe_that_cannot_be_built_is_missing_if_no_other_store_has_it(
    with_outdated: Path,
) -> None:
    served = serve([with_outdated / "avx512"], FOUND)
    assert (served.missing, list(served.outdated)) == (tuple(FOUND), ["conv-1"])


def test_what_is_not_asked_for_is_not_reported_as_outdated(with_outdated: Path) -> None:
    assert serve([with_outdated / "avx512"], ["dense-2"]).outdated == {}


def test_a_recipe_that_can_be_built_is_served(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "parse", parse_doubled)
    write_store(root / "avx512", {"conv-1": with_recipe("conv-1")}, INFO)
    served = serve(shipped_stores(root, AVX512), ["conv-1"])
    assert served.candidates == {"conv-1": with_recipe("conv-1")} and served.outdated == {}


def test_a_store_that_cannot_be_read_is_not_passed_over(root: Path) -> None:
    (root / "avx512" / "candidates.parquet").write_bytes(b"")
    with pytest.raises(StoreError, match=r"avx512/candidates\.parquet is corrupt"):
        serve(shipped_stores(root, AVX512), ["conv-1"])


def test_what_is_shipped_is_whole() -> None:
    for folder in shipped_stores(SHIPPED, AVX512):
        assert serve([folder], []).damaged == ()


def test_kernels_for_avx2_come_from_its_store_on_a_cpu_with_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veltair.compiler.select.shipped.host_flags", lambda: frozenset({*AVX512, *AVX2}))
    assert cpu_flags("x86-64-v3") == INSTRUCTION_SETS["avx2"]
    assert cpu_flags("auto") >= cpu_flags("x86-64-v4") >= cpu_flags("x86-64-v3")


def test_kernels_that_this_cpu_cannot_run_are_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veltair.compiler.select.shipped.host_flags", lambda: frozenset(AVX2))
    with pytest.raises(StoreError, match=r"build\.cpu is x86-64-v4, but this CPU lacks avx512bw"):
        cpu_flags("x86-64-v4")
