from pathlib import Path
from typing import Any

import pytest

from veltair.config.yaml_file import YamlError, read_yaml

# Ten of the one before, nine times over.
BILLION = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))


def _read(folder: Path, text: str) -> Any:
    (folder / "my.yaml").write_text(text)
    return read_yaml(folder / "my.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-4", {"a": 1e-4}),
        ("a: no", {"a": False}),
        ("a: 'no'", {"a": "no"}),
        ("a: &it {b: 1}\nc: *it", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: 1_000", {"a": 1000}),
        ("a: 0x1F", {"a": 31}),
        ("a: 0", {"a": 0}),
        ("a: -0.5", {"a": -0.5}),
        ("a: '010'", {"a": "010"}),
        ("a: '1:30'", {"a": "1:30"}),
        ("a: 00:11:22:aa", {"a": "00:11:22:aa"}),
        ("\ufeffa: 1", {"a": 1}),
        ("- [1, 2]", [[1, 2]]),
        ("", None),
    ],
)
def test_values_are_those_of_yaml_1_1(tmp_path: Path, text: str, value: object) -> None:
    assert _read(tmp_path, text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n  - b: 1\n    b: 2\n", r"my\.yaml, line 3: the key `b` is there twice; keep one of them"),
        ("a: 1\n5: 2\n", r"my\.yaml, line 2: the key `5` is not text; put it in quotes"),
        ("? [a]\n: 1\n", r"my\.yaml, line 1: the key of several parts is not text"),
        ("a: [1\n", r"(?s)my\.yaml: is not valid YAML: .*line 1, column 4"),
        (
            "a: &it {b: 1}\nc:\n  <<: *it\n",
            r"my\.yaml, line 3: merge keys \(`<<`\) are not read, nor does Snakemake",
        ),
        ("a: 1\nb: 010\n", r"my\.yaml, line 2: 010 is another number to YAML 1\.1"),
        ("a: [1, -0644]\n", r"my\.yaml, line 1: -0644 is another number"),
        ("a: 1:30\n", r"my\.yaml, line 1: 1:30 is another number"),
        ("a: 190:20:30.15\n", r"my\.yaml, line 1: 190:20:30\.15 is another number"),
        ("a: &a [*a]\n", r"my\.yaml, line 1: an alias stands in itself"),
        (f"a: {'[' * 60}{']' * 60}\n", r"my\.yaml, line 1: .*groups are nested too deep"),
        (f"a: {'[' * 5000}\n", r"my\.yaml: is not valid YAML"),
        (BILLION, r"my\.yaml, line \d+: its aliases stand for more than 100000 values"),
        ("a: !!python/name:os.getcwd\n", r"my\.yaml: is not valid YAML: could not determine a constructor"),
    ],
)
def test_a_fault_is_named_with_its_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(YamlError, match=message):
        _read(tmp_path, text)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(
        YamlError, match=r"my\.yaml: is not valid YAML: it is no text in UTF-8 .*; save it as"
    ):
        read_yaml(tmp_path / "my.yaml")
