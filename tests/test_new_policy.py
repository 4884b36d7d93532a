import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from veltair.__main__ import main
from veltair.new_policy import SUPPORT, class_name, write_policy
from veltair.serving.policies.presets import check_policy

ROOT = Path(__file__).parents[1]
# What a user has at the top of the repository, as far as the commands of the page read it.
TOP = ("baselines", "models", "pyproject.toml", "tests", "veltair", "workflow")
EXAMPLE = ROOT / "docs" / "example_policy.py"


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A top of the repository of its own, which has the builders of tests, as the current directory."""
    (tmp_path / SUPPORT).parent.mkdir(parents=True)
    (tmp_path / SUPPORT).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_policy_its_test_and_its_configuration_are_written(
    top: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new-policy", "my_policy"]) == 0
    assert sorted(path.name for path in top.glob("*my_policy*")) == [
        "my_policy.py",
        "my_policy.yaml",
        "test_my_policy.py",
    ]
    check_policy("my_policy:MyPolicy", {})
    assert "python -m pytest test_my_policy.py" in capsys.readouterr().out


def test_the_policy_has_about_twenty_lines_and_is_that_of_the_readme(top: Path) -> None:
    policy, _, _ = write_policy("greedy", top)
    written, example = (path.read_text().split("\n", 1) for path in (policy, EXAMPLE))
    assert written[1] == example[1]
    assert len(written[1].splitlines()) <= 22


@pytest.mark.parametrize("name", ["", "My", "1st", "my-policy", "my policy", "a__b", "class", "match", "é"])
def test_what_is_no_name_of_a_module_is_refused(
    top: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new-policy", name]) == 2
    assert capsys.readouterr().err == (
        f"error: {name!r} is no name of a module; give small letters, digits and single underscores, "
        "such as my_policy\n"
    )
    assert list(top.glob("*.py")) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [("test_mine", "is a name of tests"), ("numpy", "import numpy finds something else already")],
)
def test_a_name_that_would_mean_something_else_is_refused(
    top: Path, name: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new-policy", name]) == 2
    assert why in capsys.readouterr().err
    assert list(top.glob("*.py")) == []


@pytest.mark.parametrize("taken", ["mine.py", "test_mine.py", "mine.yaml"])
def test_a_file_that_exists_is_not_overwritten(
    top: Path, taken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (top / taken).write_text("my own")
    assert main(["new-policy", "mine"]) == 2
    assert capsys.readouterr().err == f"error: {taken} exists already; give another name, or remove it\n"
    assert [path.name for path in top.glob("*mine*")] == [taken]
    assert (top / taken).read_text() == "my own"


def test_elsewhere_than_at_the_top_of_the_repository_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new-policy", "mine"]) == 2
    assert "call this at the top of the repository" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_class_is_named_after_its_module() -> None:
    assert [class_name(name) for name in ("mine", "my_policy", "edf_2")] == ["Mine", "MyPolicy", "Edf2"]


def test_the_commands_of_the_page_lead_from_nothing_to_pictures(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "add-a-policy.md").read_text()
    section = page.partition("## From nothing to a picture\n")[2]
    block = re.search(r"^```bash\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert block is not None
    for name in TOP:
        (tmp_path / name).symlink_to(ROOT / name)
    for line in block[1].splitlines():
        command = [sys.executable, *shlex.split(line)[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    pictures = sorted(path.name for path in (tmp_path / "figures/smoke/timeline").glob("*.png"))
    shutil.rmtree(tmp_path / "figures")
    assert [re.sub(".*-mix-", "", name) for name in pictures] == ["MyPolicy.png", "Planaria.png"]
