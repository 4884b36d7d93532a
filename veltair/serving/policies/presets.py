"""Policies by import path, and the presets: the only place where policy options have defaults."""

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from veltair.serving.loop.policy import Context, Policy
from veltair.serving.policies.admission import ProtectShares
from veltair.serving.policies.blocks import BudgetBasis, BudgetRule, Threshold
from veltair.serving.policies.discipline import Admission, Conflict, DropLate, Order
from veltair.serving.policies.latency_tables import VersionRule

PAPER, TUNED = "paper", "tuned"
# The option that every policy has, since it acts around the policy and not in it.
ADMISSION = "admission"
# The options that change results of any policy a lot: what is compared states them.
SHARED = ("order", "conflict", "drop_late", ADMISSION)
# What presets were called before, so that an old configuration hears of it.
_RENAMED = {"shipped": TUNED}

_PAPER: Mapping[str, object] = {
    "alpha": 1.0,  # budgets may use the whole QoS target
    "budgets": BudgetRule.STATIC.value,
    "budget_basis": BudgetBasis.MACS.value,
    "threshold": Threshold.ACTIVE_QUERIES.value,
    "conflict": Conflict.SHRINK.value,
    "coalesce_layers": 1,  # neighbours of equal need stay apart
    "growth": False,
    "versions": VersionRule.FASTEST_AT_LEVEL.value,
    "order": Order.FCFS.value,
    "drop_late": DropLate.NEVER.value,
    "layers": 20,  # the fixed blocks of the paper's published code
    ADMISSION: Admission.ALL.value,
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
        "versions": VersionRule.PRICED_AT_LEVEL.value,
    },
}

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class PolicySource:
    """How a policy was made: the arguments of `make_policy` beside the context."""

    path: str
    preset: str
    options: Mapping[str, object]


def make_policy(path: str, context: Context, preset: str, options: Mapping[str, object]) -> Policy:
    """Return a fresh policy: the options of its preset that its class takes, then the given ones over them.

    `path` is "package.module:Class"; the module may also be a file in the current directory. Raises
    ValueError as `check_policy` does.
    """
    policy_class = _load(path)
    takes = _taken(path, policy_class)
    checked = _options(path, policy_class, takes, preset, options)
    admission = checked.pop(ADMISSION)
    policy = cast(Policy, policy_class(context, **_arguments(takes, checked)))
    return ProtectShares(policy, context) if admission is Admission.PROTECT_SHARES else policy


def shared_options(path: str, preset: str, options: Mapping[str, object]) -> dict[str, str]:
    """Return the values of those options of `SHARED` that a policy takes, in that order.

    An option that it does not take is its own affair, and left out. Raises ValueError as `check_policy` does.
    """
    policy_class = _load(path)
    checked = _options(path, policy_class, _taken(path, policy_class), preset, options)
    return {name: str(checked[name]) for name in SHARED if name in checked}


def least_partitions(path: str, preset: str, options: Mapping[str, object], tenants: int) -> int:
    """Return into how many partitions a policy cuts the machine, at least, to serve so many tenants.

    1 for one whose class has no static method `least_partitions(options, tenants)`. Raises ValueError as
    `check_policy` does.
    """
    policy_class = _load(path)
    checked = _options(path, policy_class, _taken(path, policy_class), preset, options)
    ask = getattr(policy_class, "least_partitions", None)
    return 1 if ask is None else int(ask(checked, tenants))


def wanted_batches(path: str, preset: str, options: Mapping[str, object]) -> tuple[int, ...]:
    """Return for how many queries at once a policy wants every model built, beside one.

    None for one whose class has no static method `wanted_batches(options)`. Raises ValueError as
    `check_policy` does.
    """
    policy_class = _load(path)
    checked = _options(path, policy_class, _taken(path, policy_class), preset, options)
    ask = getattr(policy_class, "wanted_batches", None)
    return () if ask is None else tuple(ask(checked))


def blocks_share_cores(path: str) -> bool:
    """Return whether blocks of a policy share their cores, as its class says (`blocks_share_cores`).

    Raises ValueError as `check_policy` does where the path names no policy.
    """
    return bool(getattr(_load(path), "blocks_share_cores", False))


def check_policy(path: str, options: Mapping[str, object], preset: str = PAPER) -> None:
    """Raise ValueError, saying why, if a policy could not be made: all that shows before any table exists.

    That is: the path does not import or names no class with `allocate`, the class does not take an option or
    needs one that neither the preset nor the options give, or a value does not fit the type that the
    constructor states for it.
    """
    policy_class = _load(path)
    _options(path, policy_class, _taken(path, policy_class), preset, options)


def simulated_only(path: str) -> str:
    """Return why a policy cannot be measured on this machine, as its class says; "" if it can.

    Raises ValueError as `check_policy` does where the path names no policy.
    """
    return str(getattr(_load(path), "simulated_only", ""))


def policy_source(path: str) -> str:
    """Return the source text of a policy's module, so that a result can depend on it.

    Raises ValueError as `check_policy` does.
    """
    return inspect.getsource(sys.modules[_load(path).__module__])


def preset_options(path: str, preset: str) -> dict[str, object]:
    """Return a preset's options for a policy, those that its class may not take included.

    A policy whose class has `preset_exceptions` has these in place of every preset's. Raises ValueError for
    an unknown preset, and as `check_policy` does where the path names no policy.
    """
    return _preset_options(_load(path), preset)


def _preset_options(policy_class: type[Any], preset: str) -> dict[str, object]:
    if preset in _RENAMED:
        raise ValueError(f"preset {preset!r} is called {_RENAMED[preset]!r} now; write that")
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose {' or '.join(sorted(PRESETS))}")
    return {**PRESETS[preset], **getattr(policy_class, "preset_exceptions", {})}


def _load(path: str) -> type[Any]:
    module_name, _, class_name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise ValueError(f"policy {path!r} is not an import path; write package.module:Class")
    try:
        with _current_directory_importable():
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
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


@dataclass(frozen=True, slots=True)
class _Option:
    """An option of a constructor; with `group` it is a field of that parameter, which is a dataclass."""

    hint: Any
    is_required: bool
    group: str | None = None


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a constructor takes beside the context; `takes_any` where it has **keywords."""

    options: Mapping[str, _Option]
    groups: Mapping[str, Any]
    takes_any: bool


def _taken(path: str, policy_class: type[Any]) -> _Taken:
    try:
        parameters = list(inspect.signature(policy_class).parameters.values())
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"policy {path}: its constructor cannot be read ({error}); write a plain one"
        ) from error
    if not parameters:
        raise ValueError(f"policy {path}: its constructor takes nothing; let it take the context first")
    hints = _type_hints(policy_class.__init__)
    plain: dict[str, _Option] = {}
    grouped: dict[str, _Option] = {}
    groups: dict[str, Any] = {}
    for parameter in parameters[1:]:
        hint = hints.get(parameter.name, object)
        if parameter.kind in _VARIADIC:
            continue
        if is_dataclass(hint):
            groups[parameter.name] = hint
            grouped |= _fields_of(parameter.name, hint)
        else:
            plain[parameter.name] = _Option(hint, parameter.default is parameter.empty)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters[1:])
    return _Taken(plain | grouped, groups, takes_any)


def _fields_of(group: str, options: Any) -> dict[str, _Option]:
    hints = _type_hints(options)
    return {
        field.name: _Option(
            hints.get(field.name, object),
            field.default is MISSING and field.default_factory is MISSING,
            group,
        )
        for field in fields(options)
    }


def _options(
    path: str, policy_class: type[Any], takes: _Taken, preset: str, given: Mapping[str, object]
) -> dict[str, object]:
    """Return the checked options: names against those that it takes, values against their types."""
    known = {**takes.options, ADMISSION: _Option(Admission, is_required=False)}
    unknown = [name for name in given if name not in known]
    if unknown and not takes.takes_any:
        raise ValueError(
            f"policy {path} takes no option {', '.join(unknown)}; it takes {', '.join(known) or 'none'}"
        )
    from_preset = {
        name: value for name, value in _preset_options(policy_class, preset).items() if name in known
    }
    options = {**from_preset, **given}
    missing = [name for name, option in known.items() if option.is_required and name not in options]
    if missing:
        raise ValueError(
            f"policy {path} needs option {', '.join(missing)}, which preset {preset} does not have; "
            "give it in its options"
        )
    hints = {name: known[name].hint if name in known else object for name in options}
    return {name: _checked(path, name, value, hints[name]) for name, value in options.items()}


def _arguments(takes: _Taken, options: Mapping[str, object]) -> dict[str, object]:
    """Return the keyword arguments of a constructor that takes some options as fields of a dataclass."""
    grouped: dict[str, dict[str, object]] = {name: {} for name in takes.groups}
    arguments: dict[str, object] = {}
    for name, value in options.items():
        group = takes.options[name].group if name in takes.options else None
        (arguments if group is None else grouped[group])[name] = value
    return arguments | {name: takes.groups[name](**values) for name, values in grouped.items()}


def _type_hints(annotated: Any) -> dict[str, Any]:
    try:
        return get_type_hints(annotated, include_extras=True)
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
