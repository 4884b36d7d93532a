"""YAML files as plain values: YAML 1.1, no key twice, all keys text."""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MantissaNoDotYAML1_1Warning, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

_TEXT, _MERGED = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# Which no person means: 010 is 8, and 1:30 is 90.
_ODD_NUMBER = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
# Of all values, aliases written out: a few lines of aliases of aliases are more than any memory holds.
_MOST_VALUES = 100_000
_DEEPEST = 50


class YamlError(ValueError):
    """A file is not YAML, or has what no file of ours may have; the message tells the line."""


def read_yaml(path: Path) -> Any:
    """Return the plain values of a YAML file. Raises YamlError, and OSError for an unreadable file."""
    reader = YAML(typ="safe", pure=True)
    reader.version = (1, 1)  # as Snakemake reads it
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlError(
            f"{path}: is not valid YAML: it is no text in UTF-8 ({error}); save it as such"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MantissaNoDotYAML1_1Warning)  # 1e-4 is a number to us
            if (root := reader.compose(text)) is None:
                return None
            _check_size(root)
            for node in _nodes(root):
                _check(node)
            return reader.constructor.construct_document(root)
    except YamlError as error:
        raise YamlError(f"{path}, {error}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise YamlError(f"{path}: is not valid YAML: {str(error) or type(error).__name__}") from None


def _check_size(root: Node) -> None:
    """Refuse more values than a configuration can have, and an alias of what it is in."""
    sizes: dict[int, int] = {}

    def size(node: Node, above: tuple[int, ...]) -> int:
        if id(node) in above or len(above) > _DEEPEST:
            raise YamlError(f"{_line(node)}: an alias stands in itself, or groups are nested too deep")
        if id(node) not in sizes:
            sizes[id(node)] = 1 + sum(size(inner, (*above, id(node))) for inner in _inner(node))
        if sizes[id(node)] > _MOST_VALUES:
            raise YamlError(
                f"{_line(node)}: its aliases stand for more than {_MOST_VALUES} values; write fewer"
            )
        return sizes[id(node)]

    size(root, ())


def _nodes(root: Node) -> Iterator[Node]:
    """Yield each node once."""
    seen, left = {id(root)}, [root]
    while left:
        node = left.pop()
        yield node
        for inner in _inner(node):
            if id(inner) not in seen:
                seen.add(id(inner))
                left.append(inner)


def _inner(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _check(node: Node) -> None:
    if isinstance(node, MappingNode):
        _check_keys(node)
    elif isinstance(node, ScalarNode) and node.tag in _NUMBERS and _ODD_NUMBER.fullmatch(node.value):
        raise YamlError(
            f"{_line(node)}: {node.value} is another number to YAML 1.1 than to you (010 is 8, 1:30 is 90); "
            "write it in decimal, without a leading zero, or as text in quotes"
        )


def _check_keys(mapping: MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in mapping.value:
        if key.tag == _MERGED:
            raise YamlError(
                f"{_line(key)}: merge keys (`<<`) are not read, nor does Snakemake; repeat the keys"
            )
        if not isinstance(key, ScalarNode) or key.tag != _TEXT:
            raise YamlError(f"{_line(key)}: the key {_shown(key)} is not text; put it in quotes")
        if key.value in seen:
            raise YamlError(f"{_line(key)}: the key `{key.value}` is there twice; keep one of them")
        seen.add(key.value)


def _line(node: Node) -> str:
    return f"line {node.start_mark.line + 1}"


def _shown(key: Node) -> str:
    return f"`{key.value}`" if isinstance(key, ScalarNode) else "of several parts"
