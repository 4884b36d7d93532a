"""The log of a live run in a file, with what it takes to decide again: policy, models, costs, machine."""

import io
import json
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from veltair.compiler.frontend.model import Layer, Model
from veltair.machine.c_build import default_build_dir
from veltair.machine.costs.table import CostTable
from veltair.machine.topology.described import format_machine, read_machine
from veltair.serving.engine.live_tables import load
from veltair.serving.engine.replay import first_difference
from veltair.serving.loop.policy import Context
from veltair.serving.policies.presets import PolicySource, make_policy

_RUN, _COSTS, _MACHINE, _LOG = "run.json", "costs.parquet", "machine.yaml", "log"


def write_run_log(path: Path, policy: PolicySource, context: Context, log: bytes) -> None:
    """Write a log, as `NativeEngine.log` has it in pieces."""
    models = {name: asdict(model) for name, model in context.models.items()}
    run = {"policy": policy.path, "preset": policy.preset, "options": dict(policy.options), "models": models}
    costs = io.BytesIO()
    context.costs.repeats.to_parquet(costs, index=False)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(_RUN, json.dumps(run))
        file.writestr(_COSTS, costs.getvalue())
        file.writestr(_MACHINE, format_machine(context.machine))
        file.writestr(_LOG, log)


def read_run_log(path: Path) -> tuple[PolicySource, Context, bytes]:
    """Return what `write_run_log` was given. Raises LookupError if the file cannot be read."""
    try:
        with zipfile.ZipFile(path) as file, TemporaryDirectory() as folder:
            run = json.loads(file.read(_RUN))
            costs = pd.read_parquet(io.BytesIO(file.read(_COSTS)))
            machine = read_machine(Path(file.extract(_MACHINE, folder)))
            log = file.read(_LOG)
        models = {
            name: Model(name, tuple(Layer(**layer) for layer in model["layers"]), model["qos_s"])
            for name, model in run["models"].items()
        }
        context = Context(models, CostTable(costs, machine.name), machine)
        source = PolicySource(run["policy"], run["preset"], run["options"])
    except (
        OSError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise LookupError(f"{path} is no log of a run: {error}; name a file that a live run wrote") from error
    return source, context, log


def replay_run_log(path: Path, build_dir: Path | None = None) -> str:
    """Return where a run would be decided otherwise now, as `first_difference` does.

    Raises LookupError for a file that cannot be read, ValueError for a policy that cannot be made.
    """
    source, context, log = read_run_log(path)
    policy = make_policy(source.path, context, source.preset, source.options)
    return first_difference(log, policy, context, load(build_dir or default_build_dir()))
