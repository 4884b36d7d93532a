"""A configuration with one key changed."""

from collections.abc import Sequence
from typing import Any

from veltair.config.keys import Config
from veltair.config.load import ConfigError, parse

EACH = "*"


def vary(config: Config, path: str, value: Any, policies: Sequence[str] = ()) -> Config:
    """Return the configuration whose key at `path` has another value.

    Parts of the path are separated by points; `*` stands for each of `policies`. The last part may be new
    where names are the user's (an option of a policy). Raises ConfigError for a path that leads nowhere and
    for a value that the key does not take.
    """
    values = config.model_dump(mode="json")
    for name in policies if EACH in path.split(".") else [EACH]:
        parts = [name if part == EACH else part for part in path.split(".")]
        _set(values, parts, value, path)
    return parse(values, f"the run with {path} = {value!r}")


def assume(config: Config, name: str, index: int) -> Config:
    """Return the configuration under one of the values of an assumption of its `sensitivity`."""
    variation = config.sensitivity[name]
    changed = variation.changed or variation.policies or config.study.policies
    return vary(config, variation.key, variation.values[index], changed)


def check_variations(config: Config) -> None:
    """Raise ConfigError for the first entry of `sensitivity` whose key or value no run can have."""
    for name, variation in config.sensitivity.items():
        for index in range(len(variation.values)):
            assume(config, name, index)


def is_baseline(config: Config, name: str, index: int) -> bool:
    """Return whether a value of an assumption is the one that the run has anyway."""
    variation = config.sensitivity[name]
    value = variation.values[index]
    if variation.default is not None:
        return bool(value == variation.default)
    return assume(config, name, index) == config


def _set(values: dict[str, Any], parts: Sequence[str], value: Any, path: str) -> None:
    group: Any = values
    for depth, part in enumerate(parts[:-1]):
        group = group.get(part) if isinstance(group, dict) else None
        if not isinstance(group, dict):
            where = ".".join(parts[: depth + 1])
            raise ConfigError(f"{path}: there is no group of keys at {where}; see workflow/config/README.md")
    group[parts[-1]] = value
