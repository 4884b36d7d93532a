"""The part of a configuration that one step reads: what its results depend on, and nothing else of it."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Annotated, Any, NoReturn, TypeVar, cast, get_args, get_origin

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from veltair.config.keys import Config
from veltair.config.section import Section, UndeclaredKeyError, undeclared

# The path of a key, or of a group of them, by the names on the way.
Key = tuple[str, ...]
Kind = TypeVar("Kind", bound=Section)
SEPARATOR = "/"  # which no name may hold


def part_of(values: Mapping[str, Any], keys: Iterable[Key]) -> dict[str, Any]:
    """Return the plain values of some keys of a configuration by their paths, such as `simulated/queries`.

    `values` are all of it (`Config.model_dump(mode="json")`); the order of `keys` does not matter. Raises
    LookupError for a key that is not there.
    """
    wanted = set(keys)
    inner = {key for key in wanted if any(key[:depth] in wanted for depth in range(1, len(key)))}
    return {SEPARATOR.join(key): _value(values, key) for key in sorted(wanted - inner)}


def parse_part(part: Mapping[str, Any], reader: str) -> Config:
    """Return a configuration that has the keys of `part_of` only.

    `reader` is who gets it, for the message of the UndeclaredKeyError that reading any other key raises. Of
    a group of names, such as the policies, others than those of the part cannot be asked for either, nor
    which there are.
    """
    values: dict[str, Any] = {}
    for path, value in part.items():
        *groups, last = path.split(SEPARATOR)
        group = values
        for name in groups:
            group = group.setdefault(name, {})
        group[last] = value
    keys = {tuple(path.split(SEPARATOR)) for path in part}
    return _Reader(reader, keys).section(Config, values, ())


def _value(values: Any, key: Key) -> Any:
    for depth, name in enumerate(key, start=1):
        if not isinstance(values, Mapping) or name not in values:
            raise LookupError(f"the configuration has no key {'.'.join(key[:depth])}")
        values = values[name]
    return values


class _Names(dict[str, Any]):
    """A group of names of which a part has some: about the others nothing may be asked."""

    def __init__(self, values: Mapping[str, Any], reader: str, path: str) -> None:
        super().__init__(values)
        self._reader, self._path = reader, path

    def _refuse(self, name: object) -> NoReturn:
        raise UndeclaredKeyError(undeclared(self._reader, f"{self._path}.{name}"))

    def __missing__(self, name: str) -> Any:
        self._refuse(name)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or self._refuse(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return what is under a name."""
        return self[name]

    def __iter__(self) -> Iterator[str]:
        self._refuse("*")

    keys = values = items = __iter__  # type: ignore[assignment]


class _Reader:
    """Makes the parts of one reader."""

    def __init__(self, reader: str, keys: Collection[Key]) -> None:
        self._reader, self._keys = reader, keys

    def section(self, kind: type[Kind], values: Mapping[str, Any], path: Key) -> Kind:
        """Return a group that has some of its keys."""
        fields = kind.model_fields
        given = {name: self._field(fields[name], value, (*path, name)) for name, value in values.items()}
        made = kind.model_construct(_fields_set=set(given), **given)
        for name in fields.keys() - given.keys():
            made.__dict__.pop(name, None)  # a default would pass for what the configuration says
        made._reader, made._prefix = self._reader, "".join(f"{name}." for name in path)
        return cast(Kind, made)

    def _field(self, field: FieldInfo, value: Any, path: Key) -> Any:
        if (kind := _section_type(field.annotation)) is not None:
            return self.section(kind, value, path)
        if get_origin(field.annotation) is not dict:
            return _parsed(field, value)
        member = _section_type(get_args(field.annotation)[1])
        names = (
            _parsed(field, value)
            if member is None
            else {name: self.section(member, one, (*path, name)) for name, one in value.items()}
        )
        whole = any(path[: len(key)] == key for key in self._keys)
        return names if whole else _Names(names, self._reader, ".".join(path))


def _parsed(field: FieldInfo, value: Any) -> Any:
    annotated: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return TypeAdapter(annotated).validate_json(json.dumps(value))


def _section_type(annotation: Any) -> type[Section] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None
