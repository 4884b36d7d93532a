"""The Makefile, with programs in place of the environment's that print what they are given."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """#!/bin/sh
echo "$(basename "$0")" "$(printf '[%s]' "$@")" XDG_CACHE_HOME="$XDG_CACHE_HOME" PYTHONPATH="$PYTHONPATH"
for file in "$@"; do case $file in *missing*) echo "error: $file: cannot be read" >&2; exit 2;; esac; done
"""


def made_up(folder: Path) -> Path:
    """Write a checkout whose environment is installed already."""
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("python", "snakemake"):
        (programs / name).write_text(PROGRAM)
        (programs / name).chmod(0o755)
    (folder / ".venv" / ".installed").touch()
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return made_up(tmp_path / "checkout")


def make(folder: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    # What `make test` itself passes on would have this make print the directories it enters.
    inherited = ("XDG_CACHE_HOME", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    kept = {name: value for name, value in os.environ.items() if name not in inherited}
    return subprocess.run(
        ["make", *words], cwd=folder, env=kept | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("target", ["all", "estimate", "validation"])
@pytest.mark.parametrize(
    ("config", "files"),
    [
        ("my configs/a.yaml", "[my configs/a.yaml]"),
        ("a.yaml b.yaml", "[a.yaml][b.yaml]"),
        ('it\'s "$HOME".yaml', '[it\'s "$HOME".yaml]'),
    ],
)
def test_a_configuration_may_have_any_name_or_be_several(
    checkout: Path, target: str, config: str, files: str
) -> None:
    (checkout / "my configs").mkdir()
    for name in ("my configs/a.yaml", "a.yaml", "b.yaml", 'it\'s "$HOME".yaml'):
        (checkout / name).write_text("")
    done = make(checkout, target, f"CONFIG={config.replace('$', '$$')}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.split(" XDG")[0].endswith(files) for line in lines), lines


def test_a_configuration_that_is_not_there_ends_before_snakemake(checkout: Path) -> None:
    done = make(checkout, "CONFIG=missing.yaml")
    assert done.returncode != 0 and "error: missing.yaml: cannot be read" in done.stderr
    assert "snakemake" not in done.stdout


def test_packages_of_another_python_are_kept_out(checkout: Path) -> None:
    done = make(checkout, "smoke", PYTHONPATH="/another/python")
    assert done.returncode == 0 and done.stdout.rstrip().endswith("PYTHONPATH=")


@pytest.mark.parametrize("home", ["/dev/null", "/nonexistent"])
def test_users_without_a_home_have_their_caches_in_the_checkout(checkout: Path, home: str) -> None:
    done = make(checkout, "smoke", HOME=home)
    assert f"XDG_CACHE_HOME={checkout}/.snakemake/cache " in done.stdout


def test_users_with_a_home_have_their_caches_there(checkout: Path, tmp_path: Path) -> None:
    assert "XDG_CACHE_HOME= " in make(checkout, "smoke", HOME=str(tmp_path)).stdout


def test_a_folder_with_a_space_is_refused_before_anything_is_installed(tmp_path: Path) -> None:
    folder = made_up(tmp_path / "a checkout")
    done = make(folder, "smoke")
    assert done.returncode != 0 and done.stdout == ""
    assert f"'{folder}' has a space" in done.stderr
