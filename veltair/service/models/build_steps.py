"""From a stranger's bytes to what the engine serves: checked, compiled by our own schedules, profiled."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from veltair.compiler.footprint.computed_indices import unbounded_buffer
from veltair.compiler.frontend.fix import fix
from veltair.compiler.frontend.importer import ImportedModel, import_model
from veltair.compiler.frontend.model_error import ModelError
from veltair.compiler.oracle.oracle import OracleError
from veltair.compiler.oracle.proof import prove
from veltair.compiler.search.target import cpu_target
from veltair.compiler.select.select import Selection
from veltair.compiler.select.shipped import shipped_stores
from veltair.compiler.select.store import FILES, StoreError
from veltair.compiler.steps import ANY_QOS_S, MOST_PROVED_MACS, build_model
from veltair.config.compiler_keys import Search, Select
from veltair.machine.costs.block_costs import RECORDED
from veltair.machine.steps import check_oracle, profile_models, search_candidates
from veltair.provenance import write_atomically
from veltair.service.keys.builder_keys import BuilderKeys
from veltair.service.models.registry import State
from veltair.service.models.store import BUILD, OUTPUTS, TABLES
from veltair.service.models.vetting import NAME, check_sizes, check_work, vet

LEVELS = (0.0, 0.5, 1.0)
TOLERANCE = 1e-4

Tell = Callable[[State], None]


def build_artifact(model: Path, folder: Path, machine: Path, keys: BuilderKeys, tell: Tell) -> None:
    """Build a model into `build/` and `tables/` of a folder; `tell` hears of each state that it enters.

    `machine` is this machine's description. Raises ModelError, without any path, for a model that is refused.
    """
    tell(State.CHECKING)
    ready = folder / "model.onnx"
    names = checked_model(model.read_bytes(), ready, keys)
    tell(State.COMPILING)
    _compile(ready, folder, machine)
    # The plan counts outputs; their names are the client's.
    write_atomically({folder / OUTPUTS: json.dumps(names).encode()})
    tell(State.PROFILING)
    profile_models(
        {ready.stem: folder / BUILD}, machine, None, LEVELS, keys.repeats, _recorded_samples,
        {"builder": keys.model_dump(mode="json")}, folder / "native", folder / TABLES,
    )  # fmt: skip


def checked_model(content: bytes, output: Path, keys: BuilderKeys) -> list[str]:
    """Write an uploaded model in its final form, compared with ONNX Runtime; return its outputs' names.

    Raises ModelError, without any path, if it is refused; nothing is written then.
    """
    fixed = fix(vet(content, keys.bounds), NAME)
    check_sizes(fixed.model, keys.bounds)
    imported = import_model(NAME, fixed.model, ANY_QOS_S)
    check_work(imported.model.macs, keys.bounds)
    _check_indices(imported)
    if imported.model.macs <= MOST_PROVED_MACS:  # a larger one is compared once its kernels are built
        prove(
            imported, fixed, cpu_target(len(os.sched_getaffinity(0))), TOLERANCE, partial(print, flush=True)
        )
    write_atomically({output: fixed.model.SerializeToString(deterministic=True)})
    return [value.name for value in fixed.model.graph.output]


def _check_indices(imported: ImportedModel) -> None:
    """Raise ModelError for a layer that its inputs' values could lead into memory of others."""
    for layer, call in zip(imported.model.layers, imported.calls, strict=True):
        if buffer := unbounded_buffer(call.function):
            print(f"{layer.name}: {buffer} is reached by indices without bounds", flush=True)
            raise ModelError(
                f"{NAME}: layer {layer.name} reads or writes wherever the values of its inputs say, as "
                "GatherND, GatherElements and those of Scatter do; end the model before it"
            )


def _compile(model: Path, folder: Path, machine: Path) -> None:
    search, select = Search(missing="own"), Select()
    try:
        search_candidates(
            [model],
            search.model_dump(mode="json"),
            select.slack,
            machine,
            folder / "records",
            folder / "search",
        )
        searched = [folder / "search"] if all((folder / "search" / name).is_file() for name in FILES) else []
        build_model(
            model, [*shipped_stores(), *searched], Selection(**select.model_dump(mode="json")),
            len(os.sched_getaffinity(0)), search.trials, folder / BUILD, folder / "cache",
        )  # fmt: skip
    except StoreError as error:
        print(error, flush=True)
        raise ModelError(f"{NAME} has layers of which none of our schedules runs") from None
    try:
        check_oracle(model, folder / BUILD, TOLERANCE, folder / "oracle.csv")
    except OracleError as error:
        print(error, flush=True)
        raise ModelError(f"{NAME} was compiled to kernels that answer other than ONNX Runtime") from None


def _recorded_samples(*_: object) -> pd.DataFrame:
    """Return what blocks cost where nobody measured them: requests are served meanwhile."""
    return pd.read_parquet(RECORDED)
