"""The compiler's steps of a run, one a rule: each reads and writes the files that it is told."""

import importlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd

from veltair.compiler.build.build import ModelPlan, build
from veltair.compiler.footprint.version import Candidate
from veltair.compiler.frontend.fix import Choices, FixedModel, fix
from veltair.compiler.frontend.fixed_inputs import Shapes, Values
from veltair.compiler.frontend.importer import ImportedModel, import_model
from veltair.compiler.frontend.model_error import ModelError
from veltair.compiler.frontend.opening import open_model
from veltair.compiler.oracle.proof import TOLERANCE, prove
from veltair.compiler.search.progress import in_words, reporting
from veltair.compiler.search.records import find_record, seconds_per_trial
from veltair.compiler.search.runner import RpcSettings
from veltair.compiler.search.search import (
    Schedules,
    SearchSettings,
    continue_records,
    read_candidates,
    search,
)
from veltair.compiler.search.target import cpu_target, host_cpu
from veltair.compiler.select.core_counts import doubling
from veltair.compiler.select.select import Selection, rounds_costs
from veltair.compiler.select.shipped import ServedStores, serve
from veltair.compiler.select.store import (
    FEW,
    SECONDS_PER_TRIAL,
    SearchInfo,
    StoreError,
    choose,
    read_info,
    write_store,
)
from veltair.provenance import write_atomically

# Layers are the same whatever the target of their queries is.
ANY_QOS_S = 1.0
VERSIONS = "versions.csv"
# Of larger networks a run without schedules takes minutes.
MOST_PROVED_MACS = 20_000_000_000
SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class SearchOrder:
    """What to search for: a CPU by LLVM's name ("auto": this one), and the largest machine's core count.

    `slack` tells which traces the store keeps; `core_peak_flops` is the peak of the core that measures (0:
    not known).
    """

    cpu: str
    cores: int
    slack: float
    core_peak_flops: float = 0.0


def write_model(
    name: str,
    builder: str | None,
    path: str | None,
    output: Path,
    shapes: Shapes | None = None,
    constants: Values | None = None,
    tolerance: float = TOLERANCE,
    queries: int = 1,
) -> None:
    """Write a model as ONNX with fixed shapes, made by `module:function` or read from a user's file.

    It is proved first: the imported network beside ONNX Runtime, before anything is searched.
    `shapes` and `constants` are those of inputs, and `queries` go together, see `Choices`. Raises ModelError.
    """
    model = open_model(Path(path or "")) if builder is None else _built(builder, f"models.{name}.builder")
    fixed = fix(model, path or name, Choices(shapes or {}, constants or {}, queries))
    for note in fixed.notes:
        print(f"{name}: {note}", flush=True)
    _prove(name, path or name, fixed, tolerance)
    model = fixed.model
    print(f"{name}: {len(model.graph.node)} nodes, {model.ByteSize() / 1e6:.1f} MB", flush=True)
    write_atomically({output: model.SerializeToString(deterministic=True)})


def _prove(name: str, source: str, fixed: FixedModel, tolerance: float) -> None:
    """Import a model and compare it with ONNX Runtime before anything long starts. Raises ModelError."""
    imported = import_model(source, fixed.model, ANY_QOS_S)
    if imported.model.macs > MOST_PROVED_MACS:
        print(
            f"{name}: {len(imported.calls)} layers; {imported.model.macs / 1e9:.0f} GMACs are too many to "
            "compare with ONNX Runtime before kernels are built, after which rule `oracle` does",
            flush=True,
        )
        return
    target = cpu_target(len(os.sched_getaffinity(0)))
    proof = prove(imported, fixed, target, tolerance, lambda text: print(f"{name}: {text}", flush=True))
    print(
        f"{name}: {len(imported.calls)} layers, within {proof.error:.2g} of ONNX Runtime (allowed: "
        f"{proof.allowed:.2g})",
        flush=True,
    )


def _built(builder: str, key: str) -> onnx.ModelProto:
    """Return what a builder makes; `key` is named in the ModelError of one that makes no model."""
    module, _, function = builder.partition(":")
    try:
        model = getattr(importlib.import_module(module), function)()
    except Exception as error:
        raise ModelError(f"{key}: {builder} failed with {type(error).__name__}: {error}") from error
    if not isinstance(model, onnx.ModelProto):
        shown = repr(model)[:SHOWN_CHARACTERS]
        raise ModelError(
            f"{key}: {builder} returned {shown}, which is {type(model).__name__}; return the onnx.ModelProto "
            "itself, or give the path of a file as `onnx`"
        )
    return model


def read_model(path: Path) -> ImportedModel:
    """Return the fused layers of a model written by `write_model`; its name is the file's."""
    return import_model(path.stem, onnx.load(path), ANY_QOS_S)


def search_settings(search: Mapping[str, Any]) -> tuple[SearchSettings, RpcSettings | None]:
    """Return how to search and where to measure (None: here) from the `search` keys of a configuration."""
    names = ("trials", "seed", "population", "generations", "batch", "repeats")
    few = FEW if search["reuse"] and search["missing"] == "own" else 0
    settings = SearchSettings(**{name: search[name] for name in names}, few=few)
    return settings, RpcSettings(**search["rpc"]) if search["runner"] == "rpc" else None


def search_models(
    models: Sequence[Path],
    stores: Sequence[Path],
    settings: SearchSettings,
    order: SearchOrder,
    work: Path,
    folder: Path,
    schedules: Schedules | None = None,
    rpc: RpcSettings | None = None,
    earlier: Sequence[Path] = (),
) -> None:
    """Search every structure that no store has, once, and write a store of them.

    `work` is the folder of the records, from which an interrupted search goes on; `earlier` are folders of
    packed ones, from which those go on that are of the same search. Raises StoreError, once the others are in
    the store, for structures of which no candidate ran.
    """
    functions: dict[str, Any] = {}
    for path in models:
        functions.update(read_model(path).functions())
    served = serve(stores, functions)
    for line in _left_out(served):
        print(line, flush=True)
    missing = served.missing
    done = "get schedules of our own" if settings.few else "are searched"
    print(f"{len(missing)} of {len(functions)} layer structures {done}", flush=True)
    functions = {structure: functions[structure] for structure in missing}
    with reporting() as report:
        target = cpu_target(order.cores, order.cpu)
        for index in earlier:
            continued = continue_records(index, work, functions, target, settings)
            print(f"the searches of {len(continued)} layer structures go on from {index}", flush=True)
        failed = search(functions, target, settings, work, report, schedules, rpc) if functions else {}
    collect_store(functions, settings.seed, order, work, folder)
    if failed:
        structure, reason = next(iter(failed.items()))
        raise StoreError(
            f"no candidate of {len(failed)} of {len(functions)} layer structures ran, so their models cannot "
            f"be built: {', '.join(failed)}. The first, {structure}: {reason}. Mend the cause and run again; "
            "what was searched is kept"
        )


def collect_store(
    functions: Mapping[str, Any], seed: int, order: SearchOrder, work: Path, folder: Path
) -> None:
    """Write a store of what the records in `work` hold of some structures, however far their search is.

    A structure without any candidate is in no store.
    """
    found: dict[str, tuple[Candidate, ...]] = {}
    for number, (structure, function) in enumerate(functions.items(), start=1):
        if group := tuple(read_candidates(structure, function, work)):
            found[structure] = group
        print(f"read {number} of {len(functions)}: {len(group)} candidates of {structure}", flush=True)
    cpu = host_cpu() if order.cpu == "auto" else order.cpu
    records = [record for structure in functions if (record := find_record(structure, work))]
    took_s = seconds_per_trial(records) or SECONDS_PER_TRIAL
    info = SearchInfo(cpu, order.cores, 1, order.slack, seed, order.core_peak_flops, took_s)
    write_store(folder, found, info)


def build_model(
    model: Path,
    stores: Sequence[Path],
    selection: Selection,
    cores: int,
    trials: int,
    folder: Path,
    cache: Path | None = None,
    cpu: str = "auto",
) -> ModelPlan:
    """Build the versions of a model's layers that are chosen into one library for a CPU ("auto": this one).

    `cores` is this machine's core count, `trials` what a search would take for a structure that is missing.
    Raises StoreError that names the layers which no store serves.
    """
    imported = read_model(model)
    served = serve(stores, imported.functions())
    for line in _left_out(served):
        print(f"{imported.model.name}: {line}", flush=True)
    if served.missing:
        raise StoreError(_missing_text(imported, served.missing, trials))
    _report_stores(imported.model.name, served, cpu)
    chosen = choose(served.candidates, selection, rounds_costs(doubling(cores)))
    search_cores = max(read_info(store).cores for store in stores)
    plan = build(imported, chosen, cpu_target(search_cores, cpu), folder, cache)
    table = versions_table(imported, plan)
    write_atomically({folder / VERSIONS: table.to_csv(index=False, lineterminator="\n").encode()})
    print(
        f"{plan.model}: {len(plan.layers)} layers, {imported.model.macs / 1e9:.2f} GMACs, "
        f"{len(plan.versions)} structures, {len(table)} versions, "
        f"{table['packed_bytes'].sum() / 1e6:.0f} MB of packed weights",
        flush=True,
    )
    return plan


def versions_table(imported: ImportedModel, plan: ModelPlan) -> pd.DataFrame:
    """Return a row for each version of each structure of a built model.

    `packed_bytes` counts the weights that the version wants in a layout of its own, of all layers of the
    structure. Versions that pack alike share them in memory, so that less than the sum may be there.
    """
    layers = Counter(layer.structure for layer in plan.layers)
    constants = _constant_dtypes(imported)
    rows = [
        (
            structure,
            number,
            layers[structure],
            version.parallelism,
            version.blocking_bytes,
            layers[structure]
            * sum(
                prod(shape) * constants[structure][index].itemsize
                for index, shape in zip(version.packed, version.packed_shapes, strict=True)
            ),
        )
        for structure, versions in plan.versions.items()
        for number, version in enumerate(versions)
    ]
    columns = ["structure", "version", "layers", "parallelism", "blocking_bytes", "packed_bytes"]
    return pd.DataFrame(rows, columns=columns)


def _constant_dtypes(imported: ImportedModel) -> Mapping[str, dict[int, Any]]:
    """Return the dtypes of the constants of each structure, by their places among its inputs."""
    return {
        layer.structure: {
            index: value.dtype for index, value in enumerate(call.inputs) if isinstance(value, np.ndarray)
        }
        for layer, call in zip(imported.model.layers, imported.calls, strict=True)
    }


def _report_stores(model: str, served: ServedStores, cpu: str) -> None:
    """Say which store serves which structures, for its candidates may have been measured elsewhere."""
    target = host_cpu() if cpu == "auto" else cpu
    for store, count in Counter(served.stores.values()).items():
        names = [structure for structure, index in served.stores.items() if index == store]
        print(
            f"{model}: {count} of {len(served.stores)} structures from candidates measured on "
            f"{read_info(store).cpu} ({store}), built anew for {target}: {', '.join(names)}",
            flush=True,
        )


def _left_out(served: ServedStores) -> list[str]:
    """Return what is in a store but not served from there, a line each."""
    return [
        *(f"the traces of {one} in a store were damaged; they were left out" for one in served.damaged),
        *(
            f"a recipe of {one} in a store cannot be built by this version ({reason}); it was left out"
            for one, reason in served.outdated.items()
        ),
    ]


def _missing_text(imported: ImportedModel, missing: Sequence[str], trials: int) -> str:
    names = {layer.structure: layer.name for layer in reversed(imported.model.layers)}
    layers = "; ".join(f"{names[structure]} ({structure})" for structure in missing)
    return (
        f"{imported.model.name}: {len(missing)} layer structures have no candidates: {layers}. Set "
        "`search.missing: search` to search these alone (about "
        f"{in_words(len(missing) * trials * SECONDS_PER_TRIAL)}), `search.missing: own` to serve them "
        "at once from our own schedules, or `search.reuse: false` to search all"
    )
