"""The compiler's steps of a run, one a rule: each reads and writes the files that it is told."""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path

import onnx

from veltair.compiler.build import ModelPlan, build
from veltair.compiler.importer import ImportedModel, import_model
from veltair.compiler.onnx_passes import load_onnx
from veltair.compiler.search import SearchSettings, read_candidates, search
from veltair.compiler.select import Selection
from veltair.compiler.store import choose, read_store, write_store
from veltair.compiler.target import cpu_target, host_cpu
from veltair.compiler.version import Candidate
from veltair.provenance import write_atomically

# Layers are the same whatever the target of their queries is.
ANY_QOS_S = 1.0
STORE_INFO = "search.json"


def write_model(name: str, builder: str | None, path: str | None, output: Path) -> None:
    """Write a model as ONNX, made by `module:function` or read from a user's file. Raises ModelError."""
    if builder is not None:
        module, _, function = builder.partition(":")
        model = getattr(importlib.import_module(module), function)()
    else:
        model = load_onnx(Path(path or ""))
    print(f"{name}: {len(model.graph.node)} nodes, {model.ByteSize() / 1e6:.1f} MB", flush=True)
    write_atomically({output: model.SerializeToString(deterministic=True)})


def read_model(path: Path) -> ImportedModel:
    """Return the fused layers of a model written by `write_model`; its name is the file's."""
    return import_model(path.stem, onnx.load(path), ANY_QOS_S)


def search_models(
    models: Sequence[Path], settings: SearchSettings, cores: int, slack: float, work: Path, folder: Path
) -> None:
    """Search every structure of the models once and write the store; goes on where it was interrupted."""
    functions = {}
    for path in models:
        functions.update(read_model(path).functions())
    target = cpu_target(cores)

    def progress(structure: str, number: int, count: int) -> None:
        print(f"searching {number} of {count}: {structure}", flush=True)

    failed = search(functions, target, settings, work, progress)
    for structure in failed:
        print(f"no candidate of {structure} ran; models with it cannot be built", flush=True)
    candidates: dict[str, tuple[Candidate, ...]] = {}
    for structure, function in functions.items():
        candidates[structure] = tuple(read_candidates(structure, function, work / structure))
    info = {
        "cpu": host_cpu(),
        "cores": cores,
        "slack": slack,
        "seed": settings.seed,
        "trials": {structure: len(group) for structure, group in candidates.items()},
        "ran": {
            structure: sum(bool(one.run_seconds) for one in group) for structure, group in candidates.items()
        },
    }
    write_atomically({folder / STORE_INFO: (json.dumps(info, indent=1) + "\n").encode()})
    write_store(folder, candidates, slack)


def build_model(model: Path, store: Path, selection: Selection, folder: Path) -> ModelPlan:
    """Build the chosen versions of a model's layers into one library for this CPU."""
    imported = read_model(model)
    chosen = choose(read_store(store, imported.functions()), selection)
    plan = build(imported, chosen, cpu_target(search_cores(store)), folder)
    versions = sum(map(len, plan.versions.values()))
    print(
        f"{plan.model}: {len(plan.layers)} layers, {len(plan.versions)} structures, {versions} versions, "
        f"{imported.model.macs / 1e9:.2f} GMACs",
        flush=True,
    )
    return plan


def search_cores(store: Path) -> int:
    """Return the core count that the candidates of a store were searched for."""
    return int(json.loads((store / STORE_INFO).read_text())["cores"])
