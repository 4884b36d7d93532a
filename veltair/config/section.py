"""What every group of keys of the configuration is made of."""

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints

NO_UNIT = "-"
SEED_MAX = 2**32 - 1  # LoadGen takes seeds modulo 2**32


def _written_out(path: str) -> str:
    if not path.strip() or not path.isprintable():
        raise ValueError(f"{path!r} is no path; write one with letters that can be seen")
    if path.startswith("~") or "$" in path:
        raise ValueError(f"{path!r}: `~` and variables mean something to a shell only; write the path out")
    return path


def _without_wildcards(path: str) -> str:
    if "{" in path or "}" in path:
        raise ValueError(f"{path!r}: braces stand for names that the workflow fills in; give one without")
    return path


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
ImportPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")]
FilePath = Annotated[str, StringConstraints(min_length=1), AfterValidator(_written_out)]
FolderPath = Annotated[FilePath, AfterValidator(_without_wildcards)]
Count = Annotated[int, Field(ge=1)]
Level = Annotated[float, Field(ge=0, le=1)]
Load = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, le=SEED_MAX)]
Weight = Annotated[int, Field(ge=1)]


def key(description: str, unit: str = NO_UNIT, **limits: Any) -> Any:
    """Return the metadata of one key: what it means, its unit and pydantic's limits."""
    return Field(description=description, json_schema_extra={"unit": unit}, **limits)


def is_ascending(values: Iterable[float]) -> bool:
    """Return whether each value is above the one before it."""
    return all(a < b for a, b in pairwise(values))


class UndeclaredKeyError(LookupError):
    """A step reads a key of the configuration that its rule does not name."""


def undeclared(reader: str, key: str) -> str:
    """Return what is said of a key that is read but not declared."""
    return (
        f"{reader} reads {key} of the configuration, which it does not declare, so that its results would "
        "stay as they are when that changes; add the key to what the rule reads"
    )


class Section(BaseModel):
    """A group of keys: no other key is taken, nothing is converted, nothing changes after it was read.

    Of a part of a configuration (`parse_part`) it holds the keys that the part has; reading another one
    raises UndeclaredKeyError.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    # Who reads a part, and the path of this group in it with a point behind.
    _reader: str = PrivateAttr("")
    _prefix: str = PrivateAttr("")

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in type(self).model_fields:
                raise UndeclaredKeyError(undeclared(self._reader, f"{self._prefix}{name}"))
            return super().__getattr__(name)
