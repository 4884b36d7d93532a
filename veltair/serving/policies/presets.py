"""Policies by import path, and the presets: the only place where policy options have defaults."""

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from veltair.serving.loop.policy import Context, Policy
from veltair.serving.policies.blocks import BudgetRule, Threshold
from veltair.serving.policies.discipline import Conflict, DropLate, Order
from veltair.serving.policies.latency_tables import VersionChoice

PAPER, TUNED = "paper", "tuned"

_PAPER: Mapping[str, object] = {
    "alpha": 1.0,  # budgets may use the whole QoS target
    "budgets": BudgetRule.STATIC.value,
    "threshold": Threshold.ACTIVE_QUERIES.value,
    "conflict": Conflict.SHRINK.value,
    "coalesce_layers": 1,  # neighbours of equal need stay apart
    "growth": False,
    "versions": VersionChoice.FASTEST.value,
    "order": Order.FCFS.value,
    "drop_late": DropLate.NEVER.value,
    "layers": 20,  # the fixed blocks of the paper's published code
}

PRESETS: Mapping[str, Mapping[str, object]] = {
    PAPER: _PAPER,
    # What a prototype of the simulator showed to help every policy that it applies to.
    TUNED: {
        **_PAPER,
        "alpha": 0.8,
        "budgets": BudgetRule.SLACK_FEEDBACK.value,
        "conflict": Conflict.SHRINK_ONE_LAYER.value,
        "coalesce_layers": 8,
        "growth": True,
        "versions": VersionChoice.PRICED.value,
    },
}

# A whole model shrunk to what is free never recovers: its head waits, as in the published code.
_WHOLE_MODEL = {"conflict": Conflict.WAIT.value}
# The rival that is honest about time: it knows deadlines, and gives up what cannot be saved.
_BY_DEADLINE = {"order": Order.EDF.value, "drop_late": DropLate.WHEN_DOOMED.value}

EXCEPTIONS: Mapping[str, Mapping[str, object]] = {
    "baselines.fcfs_min:FcfsMin": _WHOLE_MODEL,
    "baselines.edf_min:EdfMin": {**_WHOLE_MODEL, **_BY_DEADLINE},
    # Blocks of 8 are its own size, no fixed number of layers of someone else's.
    "veltair.serving.policies.slack_blocks:VeltairElastic": {"layers": 8},
}
"""Options of single policies that differ from every preset's."""

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def make_policy(path: str, context: Context, preset: str, options: Mapping[str, object]) -> Policy:
    """Return a fresh policy: the options of its preset that its class takes, then the given ones over them.

    `path` is "package.module:Class"; the module may also be a file in the current directory. Raises
    ValueError as `check_policy` does.
    """
    policy_class = _load(path)
    return cast(Policy, policy_class(context, **_options(path, policy_class, preset, options)))


def check_policy(path: str, options: Mapping[str, object], preset: str = PAPER) -> None:
    """Raise ValueError, saying why, if a policy could not be made: all that shows before any table exists.

    That is: the path does not import or names no class with `allocate`, the class does not take an option or
    needs one that neither the preset nor the options give, or a value does not fit the type that the
    constructor states for it.
    """
    _options(path, _load(path), preset, options)


def policy_source(path: str) -> str:
    """Return the source text of a policy's module, so that a result can depend on it.

    Raises ValueError as `check_policy` does.
    """
    return inspect.getsource(sys.modules[_load(path).__module__])


def preset_options(path: str, preset: str) -> dict[str, object]:
    """Return a preset's options for a policy, those that its class may not take included."""
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose {' or '.join(sorted(PRESETS))}")
    return {**PRESETS[preset], **EXCEPTIONS.get(path, {})}


def _load(path: str) -> type[Any]:
    module_name, _, class_name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise ValueError(f"policy {path!r} is not an import path; write package.module:Class")
    try:
        with _current_directory_importable():
            module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(
            f"policy {path}: importing {module_name} failed with {type(error).__name__}: {error}; give "
            f"a module that is installed or a file in {Path.cwd()}"
        ) from error
    policy_class = getattr(module, class_name, None)
    if not isinstance(policy_class, type):
        classes = [name for name, value in vars(module).items() if _is_policy(value)]
        raise ValueError(
            f"policy {path}: {module_name} has no class {class_name}; "
            f"its policies are {', '.join(classes) or 'none'}"
        )
    if not _is_policy(policy_class):
        raise ValueError(f"policy {path}: {class_name} has no method allocate(self, snapshot); add it")
    return policy_class


def _is_policy(value: object) -> bool:
    return isinstance(value, type) and callable(getattr(value, "allocate", None))


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    # Last on the path, so that a user's file never hides an installed module.
    here = str(Path.cwd())
    importlib.invalidate_caches()
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _options(
    path: str, policy_class: type[Any], preset: str, given: Mapping[str, object]
) -> dict[str, object]:
    """Return the checked options: names against the constructor's keywords, values against their types."""
    parameters = list(inspect.signature(policy_class).parameters.values())
    if not parameters:
        raise ValueError(f"policy {path}: its constructor takes nothing; let it take the context first")
    keywords = {option.name: option for option in parameters[1:] if option.kind not in _VARIADIC}
    takes_any = any(option.kind is option.VAR_KEYWORD for option in parameters[1:])
    unknown = [name for name in given if name not in keywords]
    if unknown and not takes_any:
        raise ValueError(
            f"policy {path} takes no option {', '.join(unknown)}; it takes {', '.join(keywords) or 'none'}"
        )
    from_preset = {name: value for name, value in preset_options(path, preset).items() if name in keywords}
    options = {**from_preset, **given}
    required = [name for name, option in keywords.items() if option.default is option.empty]
    missing = [name for name in required if name not in options]
    if missing:
        raise ValueError(
            f"policy {path} needs option {', '.join(missing)}, which preset {preset} does not have; "
            "give it in its options"
        )
    hints = _type_hints(policy_class)
    return {name: _checked(path, name, value, hints.get(name, object)) for name, value in options.items()}


def _type_hints(policy_class: type[Any]) -> dict[str, Any]:
    try:
        return get_type_hints(policy_class.__init__, include_extras=True)
    except NameError:
        return {}  # hints that only a type checker can resolve


def _checked(
    path: str, name: str, value: object, hint: Any
) -> object:  # Any: pydantic takes whatever is a type
    """Return the value as the type that the constructor states, e.g. a name as its enum member."""
    try:
        return cast(object, TypeAdapter(hint).validate_python(value))
    except PydanticUserError:
        return value  # a type that only the policy itself can check
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ValueError(f"policy {path}: option {name} is {value!r}; {reason}") from error
