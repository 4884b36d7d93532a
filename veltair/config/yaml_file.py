"""YAML files as plain values: YAML 1.1, no key twice, all keys text."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MantissaNoDotYAML1_1Warning, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

_TEXT, _MERGED = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


class YamlError(ValueError):
    """A file is not YAML, or has keys that no file of ours may have; the message tells the line."""


def read_yaml(path: Path) -> Any:
    """Return the plain values of a YAML file. Raises YamlError, and OSError for an unreadable file."""
    reader = YAML(typ="safe", pure=True)
    reader.version = (1, 1)  # as Snakemake reads it
    try:
        text = path.read_text(encoding="utf-8")
        if (root := reader.compose(text)) is None:
            return None
        _check_keys(root)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MantissaNoDotYAML1_1Warning)  # 1e-4 is a number to us
            return reader.load(text)
    except (YAMLError, UnicodeDecodeError) as error:
        raise YamlError(f"{path}: is not valid YAML: {error}") from None
    except YamlError as error:
        raise YamlError(f"{path}, {error}") from None


def _check_keys(root: Node) -> None:
    for mapping in _mappings(root):
        seen: set[str] = set()
        for key, _ in mapping.value:
            if key.tag == _MERGED:
                continue
            line = f"line {key.start_mark.line + 1}"
            if not isinstance(key, ScalarNode) or key.tag != _TEXT:
                raise YamlError(f"{line}: the key {_shown(key)} is not text; put it in quotes")
            if key.value in seen:
                raise YamlError(f"{line}: the key `{key.value}` is there twice; keep one of them")
            seen.add(key.value)


def _mappings(node: Node) -> Iterator[MappingNode]:
    if isinstance(node, MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value)
    elif not isinstance(node, ScalarNode):
        for member in node.value:
            yield from _mappings(member)


def _shown(key: Node) -> str:
    return f"`{key.value}`" if isinstance(key, ScalarNode) else "of several parts"
