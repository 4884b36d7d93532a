"""What a configuration asks of this machine and of the code it names: checked before any long work."""

import importlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydantic import JsonValue

from veltair.config.keys import Config
from veltair.config.load import ConfigError
from veltair.config.trace_file import TraceError, read_trace
from veltair.data import shipped

MACHINES = shipped("machines")
HOST = "host"

PolicyCheck = Callable[[str, Mapping[str, JsonValue], str], object]


def check_environment(config: Config, check_policy: PolicyCheck) -> None:
    """Raise ConfigError if something that the configuration names is not there or not enough.

    Checked are ONNX files and builders, recorded traces, machine descriptions, core counts, the C compiler
    and the policies.
    `check_policy(path, options, preset)` raises on a policy that cannot be used.
    """
    found = [
        *_models(config),
        *_traces(config),
        *_machines(config),
        *_host(config),
        *_policies(config, check_policy),
    ]
    if found:
        raise ConfigError("\n  ".join(["the configuration does not fit what is here:", *found]))


def _models(config: Config) -> Iterator[str]:
    for name, model in config.models.items():
        if model.onnx is not None and not Path(model.onnx).is_file():
            yield (
                f"models.{name}.onnx: there is no file '{model.onnx}' in {Path.cwd()}; "
                "give its path from there, or an absolute one"
            )
        if model.builder is not None and (problem := _cannot_import(model.builder)):
            yield f"models.{name}.builder: {problem}"


def _traces(config: Config) -> Iterator[str]:
    for workload, tenants in config.tenants.items():
        for name, tenant in tenants.items():
            if tenant.trace is None:
                continue
            try:
                read_trace(Path(tenant.trace), tenant.model, config.models_of(workload))
            except (OSError, UnicodeDecodeError, TraceError) as error:
                yield f"tenants.{workload}.{name}.trace: {error}"


def _cannot_import(path: str) -> str | None:
    module, _, attribute = path.partition(":")
    try:
        builder = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        return f"'{module}' of '{path}' does not import ({error}); give `module:function`"
    except AttributeError:
        return f"module '{module}' has no '{attribute}'; give `module:function`"
    return None if callable(builder) else f"'{path}' is not a function; give `module:function`"


def _machines(config: Config) -> Iterator[str]:
    described = sorted(path.stem for path in MACHINES.glob("*.yaml"))
    named = [("simulated.machines", name) for name in config.simulated.machines]
    if config.study.enabled:
        named += [("study.machine", config.study.machine)]
        named += [("study.scale", name) for name in config.study.scale]
    for key, name in named:
        if config.simulated.enabled and name != HOST and name not in described:
            yield (
                f"{key}: '{name}' is not described; give {', '.join([HOST, *described])}, "
                f"or describe it in veltair/data/machines/{name}.yaml"
            )


def _host(config: Config) -> Iterator[str]:
    if config.profile.costs == "shipped":
        return
    cores = len(os.sched_getaffinity(0))
    if config.profile.cores != "all" and max(config.profile.cores) > cores:
        yield (
            f"profile.cores: {max(config.profile.cores)} cores, but this machine gives {cores}; "
            f"ask for at most {cores}, or set `profile.costs: shipped` to simulate only"
        )
    if shutil.which("gcc") is None:
        yield "gcc was not found; install it, or set `profile.costs: shipped` to simulate only"


def _policies(config: Config, check_policy: PolicyCheck) -> Iterator[str]:
    for name, policy in config.policies.items():
        try:
            check_policy(policy.path, policy.options, policy.preset or config.preset)
        except (ImportError, AttributeError, LookupError, TypeError, ValueError) as error:
            yield f"policies.{name}: {error}"
