from pathlib import Path

import pytest

from veltair.service.models.registry import (
    Entry,
    ExistsError,
    ModelNameError,
    Registry,
    RegistryError,
    State,
    checked_name,
    checked_version,
)

A, B = "a" * 64, "b" * 64
BUILDING = (State.CHECKING, State.COMPILING, State.PROFILING, State.READY)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry.sqlite")


def uploaded(registry: Registry, tenant: str = "shop", name: str = "net", version: int = 1) -> Entry:
    return registry.upload(tenant, name, version, A, 10, 5.0)[0]


def ready(registry: Registry, tenant: str = "shop", name: str = "net", version: int = 1) -> Entry:
    entry = uploaded(registry, tenant, name, version)
    for state in BUILDING:
        entry = registry.move(entry, state)
    return entry


def test_a_model_is_found_by_its_tenant_alone(registry: Registry) -> None:
    ready(registry)
    assert registry.find("bank", "net") is None
    assert registry.of("bank") == []
    assert [one.name for one in registry.of("shop")] == ["net"]


def test_all_is_there_after_a_restart(registry: Registry, tmp_path: Path) -> None:
    entry = ready(registry)
    registry.move(uploaded(registry, "bank"), State.UNAVAILABLE, "it was refused")
    registry.close()
    again = Registry(tmp_path / "registry.sqlite")
    assert again.find("shop", "net") == entry
    found = again.find("bank", "net")
    assert found is not None
    assert (found.state, found.reason, found.built) == (State.UNAVAILABLE, "it was refused", False)
    assert [one.tenant for one in again.served()] == ["shop"]
    assert again.uploads("shop") == [(5.0, "net", 1, A, 10)]


def test_what_was_being_built_at_the_end_begins_again(registry: Registry, tmp_path: Path) -> None:
    registry.move(uploaded(registry), State.CHECKING)
    ready(registry, name="other")
    registry.close()
    again = Registry(tmp_path / "registry.sqlite")
    assert [(one.name, one.state) for one in again.unfinished()] == [("net", State.UPLOADED)]
    assert again.move(again.unfinished()[0], State.CHECKING).state is State.CHECKING


def test_a_step_that_a_models_life_does_not_have_is_refused(registry: Registry) -> None:
    entry = uploaded(registry)
    with pytest.raises(RegistryError, match="net is UPLOADED, from which it cannot become COMPILING"):
        registry.move(entry, State.COMPILING)
    registry.remove(entry)
    with pytest.raises(RegistryError, match="net version 1 is not there any more"):
        registry.move(entry, State.CHECKING)


def test_without_a_version_the_newest_that_is_served_is_meant(registry: Registry) -> None:
    for version in (1, 2):
        ready(registry, version=version)
    uploaded(registry, version=3)
    found = registry.find("shop", "net")
    assert found is not None
    assert found.version == 2
    assert [one.version for one in registry.versions("shop", "net")] == [1, 2, 3]


def test_the_same_bytes_again_change_nothing_and_others_want_another_version(registry: Registry) -> None:
    entry = ready(registry)
    assert registry.upload("shop", "net", 1, A, 10, 6.0) == (entry, False)
    with pytest.raises(ExistsError, match="upload them as version 2"):
        registry.upload("shop", "net", 1, B, 10, 6.0)


def test_what_was_unloaded_is_served_again_without_being_built(registry: Registry) -> None:
    unloaded = registry.move(ready(registry), State.UNAVAILABLE, "unloaded")
    assert not unloaded.state.is_served
    assert unloaded.built
    assert registry.move(unloaded, State.READY).state is State.READY


def test_other_bytes_replace_what_could_not_be_served(registry: Registry) -> None:
    registry.move(uploaded(registry), State.UNAVAILABLE, "it was refused")
    entry, to_build = registry.upload("shop", "net", 1, B, 11, 6.0)
    assert (entry.digest, entry.state, entry.reason, to_build) == (B, State.UPLOADED, "", True)
    assert [one.digest for one in registry] == [B]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\0", "a b", "-a", "é", "a" * 129, "a\n", "%2e%2e", "stats"]
)
def test_a_name_that_is_no_plain_word_is_refused_without_being_repeated(name: str) -> None:
    with pytest.raises(ModelNameError) as caught:
        checked_name(name)
    assert "rename" in str(caught.value)
    if len(name) > 3 and name != "stats":
        assert name not in str(caught.value)


def test_versions_are_counted_from_one() -> None:
    assert checked_name("ResNet-50_v1.5") == "ResNet-50_v1.5"
    assert checked_version("12") == 12
    for text in ("0", "-1", "1.0", "", "01", "\u0661", "9" * 10):
        with pytest.raises(ModelNameError, match="whole number"):
            checked_version(text)


def test_a_file_that_is_no_registry_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite"
    path.write_text("something else, long enough to be no header of a database" * 20)
    with pytest.raises(RegistryError, match="cannot be opened as the registry"):
        Registry(path)
    assert path.read_text().startswith("something else")
