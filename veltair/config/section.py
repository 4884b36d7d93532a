"""What every group of keys of the configuration is made of."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

NO_UNIT = "-"
SEED_MAX = 2**32 - 1  # LoadGen takes seeds modulo 2**32

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
ImportPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")]
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


class Section(BaseModel):
    """A group of keys: no other key is taken, nothing is converted, nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
