"""From YAML files to a Config, and from pydantic's errors to messages that a person can act on."""

import difflib
import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from veltair.config.keys import Config
from veltair.config.replaced import replaced_key, replaced_value
from veltair.config.section import NO_UNIT
from veltair.config.yaml_file import YamlError, read_yaml

KEYS_PAGE = "workflow/config/README.md"
Group = TypeVar("Group", bound=BaseModel)
NUMBER = r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?"


class ConfigError(ValueError):
    """The configuration cannot be used; the message lists every mistake found, one a line."""


def load(paths: Sequence[Path]) -> Config:
    """Return the configuration of one or more YAML files, the later over the earlier.

    Groups are merged key by key, everything else is replaced. Raises ConfigError, also for unreadable files.
    """
    if not paths:
        raise ConfigError("no configuration file was given; name one, such as workflow/config/config.yaml")
    merged: dict[str, Any] = {}
    for path in paths:
        merged = _merge(merged, _read(Path(path)))
    return parse(merged, " + ".join(str(path) for path in paths))


def parse(values: Mapping[str, Any], source: str = "configuration") -> Config:
    """Return the configuration held by plain values, as YAML or Snakemake gives them.

    `source` names them in the message of the ConfigError.
    """
    return parse_group(Config, values, source)


def parse_group(kind: type[Group], values: Mapping[str, Any], source: str) -> Group:
    """Return a group of keys held by plain values, such as those of a file of its own.

    `source` names them in the message of the ConfigError.
    """
    try:
        # Strictness as of JSON: a list may become a tuple, but no text becomes a number.
        return kind.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        lines = (line for detail in error.errors() for line in _explain(detail, values, kind))
        found = list(dict.fromkeys(lines))
        count = "1 mistake" if len(found) == 1 else f"{len(found)} mistakes"
        raise ConfigError("\n  ".join([f"{source}: {count}", *found])) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        values = read_yaml(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error}); name an existing YAML file") from None
    except YamlError as error:
        raise ConfigError(str(error)) from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {type(values).__name__}, not keys with values; see {KEYS_PAGE}")
    return values


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        merged[name] = _merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


class _Place(NamedTuple):
    """Where an error is: its key path, its field if it is a known one, the group it is in.

    `members` are pydantic's names of a union's members, where the field is one: they are no keys.
    """

    path: str
    field: FieldInfo | None
    group: type[BaseModel] | None
    members: tuple[int | str, ...] = ()


def _explain(detail: ErrorDetails, values: Mapping[str, Any], root: type[BaseModel]) -> Iterator[str]:
    location = detail["loc"]
    index = _locate(location, root)
    match detail["type"]:
        case _ if index.members:
            value: Any = values
            for part in location[: -len(index.members)]:
                value = value[part]
            yield f"{index.path}: {value!r} is refused; {_expected(index)}"
        case "extra_forbidden":
            gone = replaced_key(index.path)
            yield f"{index.path}: " + (
                f"is no key any more: {gone}" if gone else f"unknown key{_nearest(index, root)}"
            )
        case "value_error":
            prefix = f"{index.path}: " if index.path else ""
            yield from (prefix + line for line in str(detail["ctx"]["error"]).splitlines())
        case "missing":
            yield f"{index.path}: is missing; {_expected(index)}"
        case "string_pattern_mismatch" if location[-1] == "[key]":
            yield f"{index.path}: the name is not made of letters, digits, '.', '_' and '-'; rename it"
        case _:
            problem = replaced_value(index.path, detail["input"]) or _problem(detail)
            yield f"{index.path}: {detail['input']!r} is refused: {problem}; {_expected(index)}"


def _problem(detail: ErrorDetails) -> str:
    value = detail["input"]
    if detail["type"] == "float_type" and isinstance(value, str) and re.fullmatch(NUMBER, value):
        return "it is text to YAML; write it with a point and without quotes, such as 1.0e-4"
    text = detail["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    problems = {
        "float_type": "it is not a number (write the number alone, without its unit or quotes)",
        "int_type": "it is not a whole number (write the number alone, without its unit or quotes)",
        "int_from_float": "it is not a whole number",
        "bool_type": "it is neither true nor false",
        "string_pattern_mismatch": "it does not have the form",
        "model_type": "it is not a group of keys with values",
        "dict_type": "it is not a group of names with values",
        "tuple_type": "it is not a list",
        "finite_number": "it is not a finite number",
    }
    return problems.get(detail["type"], f"it should be {text[0].lower()}{text[1:]}")


def _expected(index: _Place) -> str:
    if index.field is None:
        return f"see {KEYS_PAGE}"
    extra = index.field.json_schema_extra
    unit = extra["unit"] if isinstance(extra, dict) else NO_UNIT
    return f"expected: {index.field.description}" + ("" if unit == NO_UNIT else f", in {unit}")


def _nearest(index: _Place, root: type[BaseModel]) -> str:
    assert index.group is not None  # only groups refuse keys
    name = index.path.rpartition(".")[2]
    known = list(index.group.model_fields)
    if near := difflib.get_close_matches(name, known, n=1, cutoff=0.6):
        return f"; did you mean `{near[0]}`?"
    # Of several keys with this last name the first is meant.
    elsewhere = {path.rpartition(".")[2]: path for path in reversed(key_paths(root))}
    if near := difflib.get_close_matches(name, elsewhere, n=1, cutoff=0.8):
        return f"; did you mean `{elsewhere[near[0]]}`?"
    return f"; known here: {', '.join(known)}"


def key_paths(group: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Return all keys of a group by their path; NAME stands for names that the user gives."""
    found: dict[str, FieldInfo] = {}
    for name, field in group.model_fields.items():
        path, annotation = f"{prefix}{name}", _plain(field.annotation)
        found[path] = field
        while get_origin(annotation) is dict:
            path, annotation = f"{path}.NAME", _plain(get_args(annotation)[1])
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found |= key_paths(annotation, f"{path}.")
    return found


def _locate(location: tuple[int | str, ...], root: type[BaseModel]) -> _Place:
    index = _Place("", None, None)
    annotation: Any = root
    for depth, part in enumerate(location):
        annotation = _plain(annotation)
        if part == "[key]":
            break
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(str(part))
            index = _Place(f"{index.path}.{part}".lstrip("."), field, annotation)
            annotation = None if field is None else field.annotation
        elif get_origin(annotation) is dict:
            index = index._replace(path=f"{index.path}.{part}")
            annotation = get_args(annotation)[1]
        elif get_origin(annotation) is tuple:
            index = index._replace(path=f"{index.path}[{part}]")
            annotation = get_args(annotation)[0]
        else:
            return index._replace(members=location[depth:])
    return index


def _plain(annotation: Any) -> Any:
    """Return a type without its metadata and without `| None`."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return _plain(members[0]) if len(members) == 1 else annotation
    return annotation
