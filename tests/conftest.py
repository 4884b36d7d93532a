"""Which tests run alone, and fixtures that tests of several rooms share; no test asserts a time."""

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

TESTS = Path(__file__).parent
TINY_STORE = TESTS / "data" / "tiny"

# What tests beside them would disturb, or they tests beside them; `make test` runs these one by one. Folders
# and files, by the reason.
ALONE = {
    "their workers spin on every core that they hold": (
        "machine/workers/test_gang_stress.py",
        "machine/workers/test_native_pool.py",
        "machine/workers/test_pool.py",
        "serving/engine/test_engine_bits.py",
        "evaluation/benchmarks/test_engine.py",
        "evaluation/measurement",
        "evaluation/validation/test_co_runs.py",
    ),
    "LoadGen issues queries in real time": ("evaluation/loadgen/test_client.py", "evaluation/runtimes"),
    "they count the threads of all processes, or take cores away from theirs": (
        "machine/topology/test_cpu_limits.py",
        "serving/engine/test_watchdog.py",
    ),
    "they measure this machine": (
        "machine/probes/test_fork_probe.py",
        "machine/probes/test_probe.py",
        "machine/profile",
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that run alone; UsageError where a place of theirs is not there."""
    places = [TESTS / place for group in ALONE.values() for place in group]
    if missing := [str(place) for place in places if not place.exists()]:
        raise pytest.UsageError(f"ALONE in tests/conftest.py names what is not there: {', '.join(missing)}")
    for item in items:
        if any(item.path.is_relative_to(place) for place in places):
            item.add_marker(pytest.mark.alone)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run of the tests: one for all of its processes."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


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
    from veltair.compiler.build.build import build  # noqa: PLC0415
    from veltair.compiler.search.target import cpu_target  # noqa: PLC0415
    from veltair.machine.models.library import LIBRARY  # noqa: PLC0415

    folder = shared_folder / "tiny"
    with (shared_folder / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / LIBRARY).exists():
            imported, chosen = (request.getfixturevalue(name) for name in ("tiny_imported", "tiny_chosen"))
            build(imported, chosen, cpu_target(64), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_loaded(tiny_folder: Path) -> Any:
    """It, built and loaded."""
    from veltair.machine.models.library import LoadedModel  # noqa: PLC0415

    return LoadedModel(tiny_folder)
