"""Fixtures that tests of several rooms share; no test asserts a time."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

TINY_STORE = Path(__file__).parent / "data" / "tiny"


@pytest.fixture(scope="session")
def c_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that C sources of the package are compiled into, once for all tests."""
    return tmp_path_factory.mktemp("c_build")


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
def tiny_folder(tiny_imported: Any, tiny_chosen: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which it is built for this machine."""
    from veltair.compiler.build.build import build  # noqa: PLC0415
    from veltair.compiler.search.target import cpu_target  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("tiny")
    build(tiny_imported, tiny_chosen, cpu_target(64), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_loaded(tiny_folder: Path) -> Any:
    """It, built and loaded."""
    from veltair.machine.models.library import LoadedModel  # noqa: PLC0415

    return LoadedModel(tiny_folder)


@pytest.fixture(scope="session")
def resnet50_imported() -> Any:
    """ResNet-50, imported; this takes seconds."""
    from models.resnet50 import resnet50  # noqa: PLC0415
    from veltair.compiler.frontend.importer import import_model  # noqa: PLC0415

    return import_model("resnet50", resnet50(), 0.015)


@pytest.fixture(scope="session")
def mobilenet_v2_imported() -> Any:
    """MobileNet-V2, imported; this takes seconds."""
    from models.mobilenet_v2 import mobilenet_v2  # noqa: PLC0415
    from veltair.compiler.frontend.importer import import_model  # noqa: PLC0415

    return import_model("mobilenet_v2", mobilenet_v2(), 0.010)
