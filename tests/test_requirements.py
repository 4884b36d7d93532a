import re
import tomllib
from importlib import metadata
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"[a-z0-9-]+==[0-9][0-9a-z.]*")


def _required_lines() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _conda() -> dict[str, list[object]]:
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def _conda_pip_lines() -> list[str]:
    (section,) = (entry["pip"] for entry in _conda()["dependencies"] if isinstance(entry, dict))
    return section


def _needs_of(name: str) -> list[str]:
    extras = {"snakemake": "reports"}  # reports are drawn with Pygments
    environment = {"extra": extras.get(name, "")}
    needs = [Requirement(line) for line in metadata.requires(name) or []]
    return [canonicalize_name(n.name) for n in needs if n.marker is None or n.marker.evaluate(environment)]


def test_every_requirement_is_one_exact_pin_and_no_option() -> None:
    assert [line for line in _required_lines() if not PIN.fullmatch(line)] == []


def test_no_package_is_pinned_twice() -> None:
    names = [line.partition("==")[0] for line in _required_lines()]
    assert len(names) == len(set(names))


def test_conda_installs_the_same_pins_in_the_same_order() -> None:
    assert _conda_pip_lines() == [*_required_lines(), "--editable ."]


def test_the_extra_of_the_service_names_pins_of_the_requirements() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras["service"]) <= set(_required_lines())


def test_conda_takes_the_oldest_python_that_is_supported() -> None:
    assert "python=3.11" in _conda()["dependencies"]


def test_the_installed_packages_are_the_pinned_ones() -> None:
    pins = dict(line.split("==") for line in _required_lines() if not line.startswith("setuptools=="))
    assert {name: metadata.version(name) for name in pins} == pins


def test_the_pins_are_closed_under_what_packages_need() -> None:
    pinned = {line.partition("==")[0] for line in _required_lines()}
    unpinned = {need for name in pinned for need in _needs_of(name)} - pinned
    assert unpinned == set()
