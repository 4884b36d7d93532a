"""How tests share the machine, and fixtures that tests of several rooms share; no test asserts a time."""

import fcntl
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support.alone import AloneTogether, Turns, check_places, is_alone

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

TINY_STORE = Path(__file__).parent / "data" / "tiny"
SIDE_BY_SIDE = "PYTEST_XDIST_WORKER" in os.environ
turns = Turns()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that run alone."""
    check_places()
    for item in items:
        if is_alone(item.path):
            item.add_marker(pytest.mark.alone)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> AloneTogether:
    """Return who gives the tests to the processes of `pytest -n`."""
    return AloneTogether(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Run a test beside those of other processes, or alone."""
    if not SIDE_BY_SIDE:
        return (yield)
    next_alone = nextitem is not None and is_alone(nextitem.path)
    return (yield from turns.take(is_alone(item.path), next_alone))


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run of the tests: one for all of its processes."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if SIDE_BY_SIDE else own


@pytest.fixture(scope="session")
def c_build(shared_folder: Path) -> Path:
    """A folder that C sources of the package are compiled into, once for all tests."""
    return shared_folder / "c_build"


@pytest.fixture(scope="session")
def tiny_imported() -> Any:
    """The tiny network, imported."""
    # TVM takes a second to import: only tests that need it pay.
    from tests.support.tiny import tiny  # noqa: PLC0415
    from veltair.compiler.frontend.importer import import_model  # noqa: PLC0415

    return import_model("tiny", tiny(), 0.01)


@pytest.fixture(scope="session")
def tiny_chosen(tiny_imported: Any) -> Any:
    """The versions of its layers, from a search of 8 trials a layer."""
    from veltair.compiler.select.select import Selection  # noqa: PLC0415
    from veltair.compiler.select.store import choose, read_store  # noqa: PLC0415

    return choose(read_store(TINY_STORE, tiny_imported.functions()), Selection(slack=1.5, count=5))


@pytest.fixture(scope="session")
def tiny_folder(request: pytest.FixtureRequest, shared_folder: Path) -> Path:
    """The folder in which it is built for this machine, by the first process that asks."""
    return _built(request, shared_folder / "tiny", "auto")


@pytest.fixture(scope="session")
def tiny_portable_folder(request: pytest.FixtureRequest, shared_folder: Path) -> Path:
    """The folder in which it is built for any CPU with AVX2: valgrind knows no newer instructions."""
    return _built(request, shared_folder / "tiny_portable", "x86-64-v3")


def _built(request: pytest.FixtureRequest, folder: Path, cpu: str) -> Path:
    from veltair.compiler.build.build import build  # noqa: PLC0415
    from veltair.compiler.search.target import cpu_target  # noqa: PLC0415
    from veltair.machine.models.library import LIBRARY  # noqa: PLC0415

    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / LIBRARY).exists():
            imported, chosen = (request.getfixturevalue(name) for name in ("tiny_imported", "tiny_chosen"))
            build(imported, chosen, cpu_target(64, cpu), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_loaded(tiny_folder: Path) -> Any:
    """It, built and loaded."""
    from veltair.machine.models.library import LoadedModel  # noqa: PLC0415

    return LoadedModel(tiny_folder)
