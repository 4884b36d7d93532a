from pathlib import Path

import pytest

from tests.support.service.fake_builder import PLAN
from veltair.service.models.store import Store, StoreError, check_seal, output_names, place_of, request_bytes


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def built(store: Store, place: str) -> Path:
    """Publish a model of a place and return its folder."""
    incoming = store.incoming()
    incoming.write_bytes(b"model")
    store.keep(incoming, place)
    work = store.workplace()
    for name, text in (("build/kernels.so", "code"), ("build/plan.json", PLAN), ("tables/costs", "1")):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text(text)
    (work / "build" / "outputs.json").write_text('["y", "z"]')
    store.publish(place, work)
    return store.folder(place)


def test_what_was_built_is_sealed_and_only_this_users(store: Store) -> None:
    place = place_of("shop", "a" * 64)
    assert not store.is_built(place)
    folder = built(store, place)
    assert store.is_built(place)
    check_seal(folder)
    assert (folder / "build/kernels.so").stat().st_mode & 0o077 == 0
    assert (folder / "model.onnx").stat().st_mode & 0o077 == 0


def test_a_flipped_bit_of_code_is_refused(store: Store) -> None:
    folder = built(store, place_of("shop", "a" * 64))
    kernels = folder / "build/kernels.so"
    kernels.write_bytes(bytes([kernels.read_bytes()[0] ^ 1]) + kernels.read_bytes()[1:])
    with pytest.raises(StoreError, match=r"build/kernels\.so is not what was built"):
        check_seal(folder)
    check_seal(folder, ["tables/costs"])


def test_a_link_in_place_of_code_is_refused(store: Store, tmp_path: Path) -> None:
    folder = built(store, place_of("shop", "a" * 64))
    kernels = folder / "build/kernels.so"
    (tmp_path / "same").write_bytes(kernels.read_bytes())
    kernels.unlink()
    kernels.symlink_to(tmp_path / "same")
    with pytest.raises(StoreError, match="is not what was built"):
        check_seal(folder)


def test_a_builder_that_leaves_a_link_is_not_believed(store: Store, tmp_path: Path) -> None:
    place, work = place_of("shop", "a" * 64), store.workplace()
    store.folder(place).mkdir()
    for name in ("build", "tables"):
        (work / name).mkdir()
    (work / "build/kernels.so").symlink_to("/etc/passwd")
    with pytest.raises(StoreError, match="no plain file"):
        store.publish(place, work)
    assert not store.is_built(place)


def test_what_has_no_seal_is_refused(store: Store) -> None:
    folder = built(store, place_of("shop", "a" * 64))
    (folder / "seal.json").write_text("{")
    with pytest.raises(StoreError, match="was not built"):
        check_seal(folder)


def test_the_same_bytes_of_two_tenants_lie_in_two_places(store: Store) -> None:
    assert place_of("shop", "a" * 64) != place_of("bank", "a" * 64)
    for bad in ("../x", "", "A" * 64, "a" * 63):
        with pytest.raises(StoreError, match="a place in the store"):
            store.folder(bad)


def test_what_nobody_needs_is_swept_away(store: Store) -> None:
    kept, gone = place_of("shop", "a" * 64), place_of("shop", "b" * 64)
    built(store, kept)
    built(store, gone)
    left = store.incoming()
    store.sweep({kept})
    assert store.is_built(kept)
    assert not store.folder(gone).exists()
    assert not left.exists()


def test_a_plan_tells_the_bytes_of_a_request_and_the_names_of_outputs(store: Store) -> None:
    folder = built(store, place_of("shop", "a" * 64))
    assert request_bytes(folder) == 3 * 4 + 5 * 8 + 3 * 4
    assert output_names(folder) == ("y", "z")
    (folder / "build/plan.json").write_text("{}")
    (folder / "build/outputs.json").unlink()
    assert output_names(folder) == ()
    with pytest.raises(StoreError, match="cannot be read"):
        request_bytes(folder)
