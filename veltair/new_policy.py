"""A policy to begin with: its file, its test and its entry in a configuration, written from templates."""

import keyword
import re
from importlib.util import find_spec
from pathlib import Path
from string import Template

from veltair.data import shipped

# What is written, and from which of the shipped templates.
TEMPLATES = {
    "{name}.py": "policy.py.txt",
    "test_{name}.py": "test_policy.py.txt",
    "{name}.yaml": "config.yaml.txt",
}
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
# Made-up cost tables and backends, which the test of a policy is built from.
SUPPORT = Path("tests/support/builders.py")


class NewPolicyError(ValueError):
    """A policy that cannot be written so; says what is wrong and what to do."""


def write_policy(name: str, folder: Path) -> list[Path]:
    """Write NAME.py, test_NAME.py and NAME.yaml into a folder and return their paths.

    The policy works as it is: it serves the oldest query on all free cores. Raises NewPolicyError, and writes
    nothing, for a name that is no module's or is taken, and for a folder that is not the top of the
    repository, where `make` finds the policy and the test finds its builders.
    """
    _check_name(name)
    if not (folder / SUPPORT).is_file():
        raise NewPolicyError(f"{folder.resolve()} has no {SUPPORT}; call this at the top of the repository")
    files = {folder / path.format(name=name): template for path, template in TEMPLATES.items()}
    taken = [path.name for path in files if path.exists()]
    if taken:
        raise NewPolicyError(f"{', '.join(taken)} exists already; give another name, or remove it")
    if find_spec(name) is not None:
        raise NewPolicyError(f"import {name} finds something else already; give another name")
    words = {"name": name, "class_name": class_name(name)}
    for path, template in files.items():
        text = (shipped("new_policy") / template).read_text(encoding="utf-8")
        path.write_text(Template(text).substitute(words), encoding="utf-8")
    return list(files)


def class_name(name: str) -> str:
    """Return the name of a policy's class: `my_policy` is of MyPolicy."""
    return "".join(part.capitalize() for part in name.split("_"))


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise NewPolicyError(
            f"{name!r} is no name of a module; give small letters, digits and single underscores, "
            "such as my_policy"
        )
    if name.startswith("test_"):
        raise NewPolicyError(f"{name!r} is a name of tests; give one without test_ before it")
