"""How a step of the workflow runs: with what its rule names, and alone if it measures.

A step is a function of ours, `module:function`. Its parameters are found by their names among those of the
rule, then its files, then its wildcards.
"""

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from veltair.config import Config
from veltair.config.part import parse_part
from veltair.evaluation.experiment.machine_lock import machine_to_itself, measuring_lock
from veltair.provenance import made_by


class StepError(ValueError):
    """A rule does not name what its step needs."""


def run_step(job: Any, notes: Path) -> None:
    """Run the step of a job, which is Snakemake's `snakemake` in a script.

    `notes` is where workers write what they are at, should the process crash.
    """
    function = load_step(job.params.step)
    with _alone(job), made_by(job.params.code["step"]):
        function(**arguments(function, given(job, notes), f"rule {job.rule}"))


def load_step(path: str) -> Callable[..., object]:
    """Return the function that `module:function` names."""
    module, _, name = path.partition(":")
    function: Callable[..., object] = getattr(importlib.import_module(module), name)
    return function


def given(job: Any, notes: Path) -> dict[str, Any]:
    """Return by name what a job gives its step, its parameters going over files, these over wildcards.

    A file without a name is the `output` or the `input`.
    """
    found: dict[str, Any] = {"notes": notes, **job.wildcards}
    for kind in ("output", "input"):
        files = getattr(job, kind)
        found |= {kind: files[0] if len(files) == 1 else list(files)} if len(files) else {}
        found |= dict(files.items())
    return found | dict(job.params.items())


def arguments(function: Callable[..., object], values: Mapping[str, Any], reader: str) -> dict[str, Any]:
    """Return the arguments of a step, in the types that it states; one that has a default may be missing.

    A dataclass is made of what its fields are called. `reader` is who reads the part of the configuration.
    Raises StepError for what is not named.
    """
    if missing := missing_names(function, values):
        raise StepError(
            f"{reader} names no {', '.join(missing)}, which {function.__qualname__} needs; add it to the rule"
        )
    hints, found = get_type_hints(function), {}
    for name in inspect.signature(function).parameters:
        if name in values:
            found[name] = _argument(hints[name], values[name], reader)
        elif is_dataclass(hints[name]):
            found[name] = _argument(hints[name], _parts(hints[name], values), reader)
    return found


def missing_names(function: Callable[..., object], names: Collection[str]) -> list[str]:
    """Return the names of what a step needs that are not among some."""
    hints, missing = get_type_hints(function), []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in names or parameter.default is not parameter.empty:
            continue
        if is_dataclass(hints[name]):
            missing += missing_names(hints[name], names)
        else:
            missing.append(name)
    return missing


def _parts(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: values[field.name] for field in fields(kind) if field.name in values}


def _argument(hint: Any, value: Any, reader: str) -> Any:
    if hint is Config:
        return parse_part(value, reader)
    return TypeAdapter(hint).validate_python(value)


def _alone(job: Any) -> AbstractContextManager[None]:
    """Return the lock of the machine for a rule that has it to itself."""
    return machine_to_itself(measuring_lock()) if job.resources.get("cpu_lock") else nullcontext()
