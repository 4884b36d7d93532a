import ast
from pathlib import Path

from veltair.evaluation.metrics.policies_table import NONE
from veltair.evaluation.reports.policies_page import (
    FIELDS,
    described_policies,
    fields_of,
    policies_page,
    write_policies_page,
)
from veltair.serving.policies.presets import check_policy

ROOT = Path(__file__).parents[3]
FOLDERS = [Path("baselines"), Path("veltair/serving/policies")]
MODULE = '''"""A policy.

Source: not a field.

Paper: Elsewhere (Nobody, NOWHERE 1999), as far
  as is known.
Unit: layer.
Preemption: none.
Cores: all.
"""


class Base:
    """Shared.

    Memory: not managed.
    """

    def allocate(self, snapshot):
        return []


class One(Base):
    """The first.

    Memory: managed.
    Versions: solo.
    """


class Other(One):
    """The second.

    Unit: whole | model.
    Memory: not managed.
    Versions: all.
    """


class Options:
    """No policy.

    Memory: none.
    Versions: none.
    """
'''


def texts() -> dict[Path, str]:
    return {path: (ROOT / path).read_text() for folder in FOLDERS for path in _files(folder)}


def _files(folder: Path) -> list[Path]:
    return [path.relative_to(ROOT) for path in sorted((ROOT / folder).glob("*.py"))]


def test_the_page_in_docs_is_what_the_docstrings_give(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    write_policies_page(FOLDERS, tmp_path / "policies.md")
    assert (tmp_path / "policies.md").read_text() == Path("docs/policies.md").read_text(), (
        "run: snakemake --cores all policies_page"
    )


def test_every_class_of_the_baselines_that_decides_is_in_the_table() -> None:
    listed = {policy.path for policy in described_policies(texts())}
    for path in _files(Path("baselines")):
        for node in ast.parse((ROOT / path).read_text()).body:
            if isinstance(node, ast.ClassDef) and any(
                isinstance(part, ast.FunctionDef) and part.name == "allocate" for part in node.body
            ):
                assert f"baselines.{path.stem}:{node.name}" in listed
    ours = {f"veltair.serving.policies.adaptive:Veltair{name}" for name in ("AS", "AC", "FULL")}
    assert ours <= listed
    assert len(listed) > 20


def test_every_policy_in_the_table_is_one_that_the_configuration_can_name() -> None:
    needed = {
        "FixedVersionBlocks": {"version": 1},
        "FixedVersionElastic": {"version": 1},
        "Clockwork": {"executors": 2},
        "Streams": {"streams": 2},
    }
    for policy in described_policies(texts()):
        check_policy(policy.path, needed.get(policy.name, {}))


def test_a_policy_is_a_class_that_decides_and_says_all_of_itself() -> None:
    one, other = described_policies({Path("mine/policy.py"): MODULE})
    assert (one.path, other.path) == ("mine.policy:One", "mine.policy:Other")
    assert one.fields == {
        "Paper": "Elsewhere (Nobody, NOWHERE 1999), as far as is known",
        "Unit": "layer",
        "Preemption": "none",
        "Cores": "all",
        "Memory": "managed",
        "Versions": "solo",
    }
    assert (other.fields["Unit"], other.fields["Cores"]) == ("whole | model", "all")


def test_a_base_in_another_file_makes_a_class_a_policy() -> None:
    fields = "".join(f"{field}: it.\n" for field in FIELDS)
    files = {
        Path("a.py"): f'"""A.\n\n{fields}"""\nclass Derived(Base):\n    pass\n',
        Path("b.py"): "class Base:\n    def allocate(self, snapshot):\n        return []\n",
    }
    assert [policy.path for policy in described_policies(files)] == ["a:Derived"]


def test_a_field_ends_with_an_empty_line() -> None:
    assert fields_of("It.\n\nUnit: one\ntwo.\n\nthree.") == {"Unit": "one two"}


def test_the_table_stands_by_year_and_a_policy_without_one_comes_last() -> None:
    fields = dict.fromkeys(FIELDS, "it")
    sources = {"Late": "B 2020", "Early": "A 1973, again 2022", "Unknown": "nobody's"}
    policies = described_policies(
        {
            Path(f"{name.lower()}.py"): '"""It.\n\n'
            + "".join(f"{field}: {text}.\n" for field, text in {**fields, "Paper": source}.items())
            + f'"""\nclass {name}:\n    def allocate(self, snapshot):\n        return []\n'
            for name, source in sources.items()
        }
    )
    rows = [line.split("|")[1:4] for line in policies_page(policies).splitlines() if line.startswith("| `")]
    assert [(row[0].strip(), row[2].strip()) for row in rows] == [
        ("`early:Early`", "1973"),
        ("`late:Late`", "2020"),
        ("`unknown:Unknown`", NONE),
    ]
