"""What a configuration asks of this machine and of the code it names: checked before any long work."""

import importlib
import inspect
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import JsonValue

from veltair.config.keys import Config
from veltair.config.load import ConfigError
from veltair.config.trace_file import TraceError, read_trace
from veltair.data import shipped

MACHINES = shipped("machines")
HOST = "host"

PolicyCheck = Callable[[str, Mapping[str, JsonValue], str], object]


def _anywhere(_path: str) -> str:
    """Return nothing: any policy can be measured."""
    return ""


def check_environment(
    config: Config, check_policy: PolicyCheck, simulated_only: Callable[[str], str] = _anywhere
) -> None:
    """Raise ConfigError if something that the configuration names is not there or not enough.

    Checked are ONNX files and builders, recorded traces, machine descriptions, core counts, the C compiler
    and the policies. `check_policy(path, options, preset)` raises on a policy that cannot be used,
    `simulated_only(path)` returns why one cannot be measured.
    """
    found = [
        *_models(config),
        *_folders(config),
        *_traces(config),
        *_machines(config),
        *_host(config),
        *_policies(config, check_policy, simulated_only),
    ]
    if found:
        raise ConfigError("\n  ".join(["the configuration does not fit what is here:", *found]))


def _folders(config: Config) -> Iterator[str]:
    for key, folder in (("results.folder", config.results.folder), ("figures.folder", config.figures.folder)):
        place = Path(folder).absolute()
        there = next(parent for parent in (place, *place.parents) if os.access(parent, os.F_OK))
        if not there.is_dir():
            yield f"{key}: '{folder}' cannot be made, for {there} is no folder; give another"
        elif problem := _cannot_write(there):
            yield f"{key}: '{folder}' cannot be written into ({there}: {problem}); give another"
        elif key == "results.folder" and os.statvfs(there).f_flag & os.ST_NOEXEC and _measures(config):
            yield (
                f"{key}: '{folder}' is on a file system mounted noexec, from which no kernel can run; "
                "give another folder, or set `profile.costs: shipped` to simulate only"
            )


def _cannot_write(folder: Path) -> str | None:
    # Tried, for root is told that it may write where the kernel lets nobody write.
    try:
        with TemporaryDirectory(prefix=".veltair-", dir=folder):
            return None
    except OSError as error:
        return error.strerror


def _measures(config: Config) -> bool:
    return config.profile.costs != "shipped"


def _models(config: Config) -> Iterator[str]:
    for name, model in config.models.items():
        if model.onnx is not None and not _is_file(Path(model.onnx)):
            yield (
                f"models.{name}.onnx: there is no file '{model.onnx}' in {Path.cwd()}; "
                "give its path from there, or an absolute one"
            )
        if model.builder is not None and (problem := _cannot_import(model.builder)):
            yield f"models.{name}.builder: {problem}"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


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
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a module may do anything when it is imported
        what = f"{type(error).__name__}: {error}"
        return f"'{module}' of '{path}' does not import ({what}); give `module:function`"
    builder = getattr(found, attribute, None)
    if builder is None:
        return f"module '{module}' has no '{attribute}'; give `module:function`"
    if not callable(builder):
        return f"'{path}' is not a function; give `module:function`"
    return _needs_arguments(path, builder)


def _needs_arguments(path: str, builder: Callable[..., object]) -> str | None:
    try:
        inspect.signature(builder).bind()
    except TypeError as error:
        return f"'{path}' is called without arguments: {error}; give each a default"
    except ValueError:  # of a function that tells nothing of its arguments
        return None
    return None


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
    if not _measures(config):
        return
    cores = len(os.sched_getaffinity(0))
    if config.profile.cores != "all" and max(config.profile.cores) > cores:
        yield (
            f"profile.cores: {max(config.profile.cores)} cores, but this machine gives {cores}; "
            f"ask for at most {cores}, or set `profile.costs: shipped` to simulate only"
        )
    if shutil.which("gcc") is None:
        yield "gcc was not found; install it, or set `profile.costs: shipped` to simulate only"


def _policies(
    config: Config, check_policy: PolicyCheck, simulated_only: Callable[[str], str]
) -> Iterator[str]:
    compared = config.policies if config.compared is None else config.compared
    for name, policy in config.policies.items():
        try:
            check_policy(policy.path, policy.options, policy.preset or config.preset)
            if config.measured.enabled and name in compared and (reason := simulated_only(policy.path)):
                yield (
                    f"policies.{name}: {policy.path} cannot be measured: {reason}; take it out of "
                    "`compared`, or set `measured.enabled: false`"
                )
        except Exception as error:  # a policy's own code may raise anything
            yield f"policies.{name}: {error}"
