from collections.abc import Callable
from pathlib import Path

import pytest

from veltair.evaluation.experiment.code_digest import PACKAGES, ROOT, CodeGraph

FILES = {
    "veltair/__init__.py": "",
    "veltair/run.py": '''
"""Runs."""
import numpy as np
from veltair.loop import serve as go, other
from veltair.names import passed_on
import veltair.whole as everything

CHILD = "veltair.child"
LIMIT: int = 3


@decorated
def run() -> None:
    """Runs it."""
    from veltair.late import late
    return go(LIMIT), late(), passed_on


def start() -> None:
    return CHILD


def all_of_it() -> None:
    return everything.anything


def compile_it() -> None:
    return SOURCE


SOURCE = "core.c"


def decorated(function):
    return function


if __name__ == "__main__":
    start()
''',
    "veltair/loop.py": """
def serve(limit):
    return step(limit)


def step(limit):
    return limit


other = 1
""",
    "veltair/late.py": "def late():\n    return 1\n",
    "veltair/names/__init__.py": "from veltair.names.inner import passed_on\n",
    "veltair/names/inner.py": "def passed_on():\n    return 2\n\n\ndef not_used():\n    return 3\n",
    "veltair/whole.py": "def anything():\n    return 4\n\n\ndef more():\n    return 5\n",
    "veltair/child.py": "from veltair.loop import other\n\n\ndef main():\n    return other\n",
    "veltair/core.c": '#include <math.h>\n#include "core.h"\nint core;\n',
    "veltair/elsewhere/core.h": '#  include "deeper.h"\n',
    "veltair/elsewhere/deeper.h": "/* deep */\n",
    "veltair/elsewhere/unused.h": "/* nobody includes it */\n",
    "veltair/registry.py": """
known = {}


def entry():
    return 6


def read():
    return known


register(entry)
""",
    "baselines/__init__.py": "",
    "baselines/base.py": "class Base:\n    size = 1\n",
    "baselines/mine.py": "from baselines.base import Base\n\n\nclass Mine(Base):\n    pass\n",
    "own/helper.py": "from .beside import *\nvalue = 1\n",
    "own/beside.py": "def starred():\n    return 7\n",
    "policy.py": "from own import helper\nimport pandas as pd\n\n\nclass Own:\n    it = helper.value\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def named(tree: Path) -> Callable[[str], set[str]]:
    """What a start runs through, without what modules do besides defining names."""

    def parts(start: str) -> set[str]:
        return {name for name in CodeGraph(tree, tree).parts([start]) if not name.endswith(":")}

    return parts


def test_a_function_runs_through_what_it_names_and_what_that_names(named: Callable[[str], set[str]]) -> None:
    assert named("veltair.run:run") == {
        *("veltair.run:run", "veltair.run:LIMIT", "veltair.run:decorated"),
        *("veltair.loop:serve", "veltair.loop:step", "veltair.late:late", "veltair.names.inner:passed_on"),
    }


def test_a_module_that_is_started_by_name_counts_whole(named: Callable[[str], set[str]]) -> None:
    assert named("veltair.run:start") == {
        *("veltair.run:start", "veltair.run:CHILD", "veltair.child:main", "veltair.loop:other")
    }


def test_a_module_that_is_imported_as_such_counts_whole(named: Callable[[str], set[str]]) -> None:
    assert {"veltair.whole:anything", "veltair.whole:more"} <= named("veltair.run:all_of_it")


def test_a_c_file_counts_with_all_that_it_includes_wherever_that_lies(
    named: Callable[[str], set[str]],
) -> None:
    files = {name for name in named("veltair.run:compile_it") if "/" in name}
    assert files == {"veltair/core.c", "veltair/elsewhere/core.h", "veltair/elsewhere/deeper.h"}


def test_what_a_module_does_besides_defining_names_counts_always(named: Callable[[str], set[str]]) -> None:
    assert "veltair.registry:entry" in named("veltair.registry:read")


def test_a_class_counts_with_its_base(named: Callable[[str], set[str]]) -> None:
    assert named("baselines.mine:Mine") == {"baselines.mine:Mine", "baselines.base:Base"}


def test_modules_of_the_user_are_followed_and_others_are_not(named: Callable[[str], set[str]]) -> None:
    assert named("policy:Own") == {"policy:Own", "own.helper:value", "own.beside:starred"}


def test_a_start_that_is_not_there_is_named(tree: Path) -> None:
    with pytest.raises(LookupError, match=r"there is no veltair\.run:walk; name a module or a definition"):
        CodeGraph(tree).digest(["veltair.run:walk"])
    with pytest.raises(LookupError, match=r"there is no numpy:array"):
        CodeGraph(tree).digest(["numpy:array"])


@pytest.mark.parametrize(
    ("file", "changes"),
    [("veltair/loop.py", True), ("veltair/names/__init__.py", False), ("veltair/child.py", False)],
)
def test_an_edit_changes_the_digest_of_what_runs_through_it_only(
    tree: Path, file: str, changes: bool
) -> None:
    before = CodeGraph(tree).digest(["veltair.run:run"])
    text = (tree / file).read_text()
    (tree / file).write_text(text.replace("return step(limit)", "return step(limit + 1)") + "\n\nnew = 1\n")
    assert (CodeGraph(tree).digest(["veltair.run:run"]) != before) == changes


def test_an_edit_of_c_changes_the_digest(tree: Path) -> None:
    before = CodeGraph(tree).digest(["veltair.run:compile_it"])
    (tree / "veltair/elsewhere/deeper.h").write_text("/* deeper */\n")
    assert CodeGraph(tree).digest(["veltair.run:compile_it"]) != before


def test_two_checkouts_of_the_same_code_have_the_same_digest(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    tree.rename(other / "moved")
    moved = CodeGraph(other / "moved").digest(["veltair.run:run", "veltair.run:compile_it"])
    for name, text in FILES.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    assert CodeGraph(tree).digest(["veltair.run:run", "veltair.run:compile_it"]) == moved


def test_every_c_file_of_ours_belongs_to_some_module_of_ours() -> None:
    graph = CodeGraph()
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in PACKAGES
        for path in (ROOT / package).glob("**/*.py")
    ]
    reached = {name for name in graph.parts(modules) if name.endswith((".c", ".h"))}
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "veltair").glob("**/*.[ch]")}
    assert reached == files
