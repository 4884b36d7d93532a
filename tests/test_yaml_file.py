from pathlib import Path
from typing import Any

import pytest

from veltair.config.yaml_file import YamlError, read_yaml


def _read(folder: Path, text: str) -> Any:
    (folder / "my.yaml").write_text(text)
    return read_yaml(folder / "my.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-4", {"a": 1e-4}),
        ("a: no", {"a": False}),
        ("a: 'no'", {"a": "no"}),
        ("a: &it {b: 1}\nc: {<<: *it, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
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
        ("a: !!python/name:os.getcwd\n", r"my\.yaml: is not valid YAML: could not determine a constructor"),
    ],
)
def test_a_fault_is_named_with_its_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(YamlError, match=message):
        _read(tmp_path, text)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(YamlError, match=r"my\.yaml: is not valid YAML: 'utf-8' codec can't decode"):
        read_yaml(tmp_path / "my.yaml")
