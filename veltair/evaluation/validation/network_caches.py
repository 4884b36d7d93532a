"""Whole networks under simulated caches: what each layer fetches and writes back, by valgrind's callgrind.

Kernels are built without fused multiply-adds, which valgrind would simulate one by one, 40 times as slowly;
what they touch is the same.
"""

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from veltair.compiler.build.build import ModelPlan, build
from veltair.compiler.footprint.residency import LayerReuse, network_reuse
from veltair.compiler.footprint.traffic import traffic_bytes
from veltair.compiler.footprint.version import Candidate
from veltair.compiler.search.target import GENERIC_X86, cpu_target
from veltair.compiler.select.shipped import serve
from veltair.compiler.select.store import read_info
from veltair.compiler.steps import read_model
from veltair.evaluation.validation.cachegrind import (
    I1,
    PORTABLE,
    WAYS,
    CachegrindError,
    find_valgrind,
    read_parts,
    tensors,
)
from veltair.machine.c_build import compile_c
from veltair.machine.models.buffers import network_buffers, query_spans
from veltair.machine.topology.topology import CACHE_LINE_BYTES

SOURCE = Path(__file__).with_name("network_kernels.c")
# Small beside any cache that is looked at, and of every x86 core of the last ten years.
D1 = "32768,8,64"
FLUSH_MULTIPLE = 2
FILLS, WRITE_BACKS = ("DLmr", "DLmw"), ("DLdmr", "DLdmw")
STATES = ("cold", "warm")
COLUMNS = [
    *("model", "layer", "state", "cores", "cache_bytes", "simulated_fills", "simulated_write_backs"),
    *("fills", "write_backs", "alone_bytes", "constant_bytes"),
]


@dataclass(frozen=True, slots=True)
class Counted:
    """The bytes that a layer fetched into a cache, and those that left it changed meanwhile."""

    fill_bytes: int
    write_back_bytes: int


def build_without_fma(
    model: Path, stores: Sequence[Path], most_macs: int, folder: Path, cache: Path
) -> ModelPlan:
    """Build the version of each layer that is fastest on one core, without fused multiply-adds.

    Kept are as many of the first layers as compute no more than `most_macs`. Raises StoreError as `serve`.
    """
    imported = read_model(model)
    served = serve(stores, imported.functions())
    fastest = {structure: (_fastest(group),) for structure, group in served.candidates.items()}
    cores = max(read_info(store).cores for store in stores)
    target = cpu_target(cores, GENERIC_X86, fma=False)
    return first_layers(build(imported, fastest, target, folder, cache), most_macs)


def first_layers(plan: ModelPlan, most_macs: int) -> ModelPlan:
    """Return the plan of a model's first layers, at least one, that compute no more than so many MACs."""
    total, count = 0, 0
    for layer in plan.layers:
        total += layer.macs
        if total > most_macs and count:
            break
        count += 1
    if count == len(plan.layers):
        return plan
    return replace(plan, layers=plan.layers[:count], outputs=(("layer", count - 1, 0),))


def simulate(
    plan: ModelPlan, library: Path, cores: int, cache_bytes: int, build_dir: Path
) -> dict[str, list[Counted]]:
    """Return what each layer of two queries, one after the other, moves into and out of a cache, by state.

    `cores` share it. valgrind runs their threads in turn, some 100 000 basic blocks each, so that they drift
    apart further than on cores of their own. The cache is empty before the first query. Raises
    CachegrindError if valgrind is missing or fails.
    """
    valgrind = find_valgrind()
    if valgrind is None:
        raise CachegrindError(
            "valgrind is not installed; install it (Debian, Ubuntu: apt-get install valgrind)"
        )
    program = compile_c(SOURCE, build_dir, (*PORTABLE, "-rdynamic", "-ldl", "-pthread"))
    with TemporaryDirectory() as folder:
        network, out = Path(folder) / "network", Path(folder) / "counts"
        network.write_text("\n".join(network_lines(plan)) + "\n")
        caches = (f"--I1={I1}", f"--D1={D1}", f"--LL={cache_bytes},{WAYS},{CACHE_LINE_BYTES}")
        options = ("--cache-sim=yes", "--simulate-wb=yes", "--combine-dumps=yes", "--dump-line=no")
        ran = (library.resolve(), network, FLUSH_MULTIPLE * cache_bytes, len(STATES), cores)
        command = [
            valgrind,
            "--tool=callgrind",
            "--fair-sched=yes",
            f"--callgrind-out-file={out}",
            *options,
            *caches,
            program,
            *ran,
        ]
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, check=False, text=True, errors="replace"
        )
        if done.returncode != 0 or not out.is_file():
            own = [line for line in done.stderr.splitlines() if not line.startswith("==")]
            raise CachegrindError(
                f"callgrind failed on {plan.model} (exit status {done.returncode}): {' '.join(own)[-500:]}"
            )
        parts = [counts for name, counts in read_parts(out.read_text(encoding="utf-8")) if name == "layer"]
    return _by_state(plan, parts)


def network_lines(plan: ModelPlan) -> Iterator[str]:
    """Yield the lines of a network for `network_kernels`: its memory as the engine has it, its layers."""
    spans, total = query_spans(plan)
    yield f"memory {total} 0"
    homes = {source: (0, first) for source, (first, _) in spans.items()}
    memories = 1
    for number in range(len(plan.inputs)):
        yield f"memory {spans['input', number, 0][1]} 1"
        homes["input", number, 0] = (memories, 0)
        memories += 1
    for number, layer in enumerate(plan.layers):
        places, texts = [], tensors(plan, number, 0)
        for source, text in zip(layer.inputs, texts, strict=False):
            if source[0] == "constant":
                yield f"memory {_bytes_of(text)} 0"
                places.append((memories, 0))
                memories += 1
            else:
                places.append(homes[source])
        places += [homes["layer", number, output] for output in range(len(layer.outputs))]
        named = (f"{memory}@{offset}={text}" for (memory, offset), text in zip(places, texts, strict=True))
        yield f"layer __tvm_ffi_{plan.of(number)[0].symbol} {' '.join(named)}"


def check_network(
    plan: ModelPlan, library: Path, caches: Sequence[tuple[int, int]], build_dir: Path
) -> pd.DataFrame:
    """Return modelled beside simulated bytes of each layer, state and cache: `COLUMNS`.

    `caches` are how many cores share each, and its bytes.
    `alone_bytes` are those of the layer without its network: what the law without residency charges.
    """
    buffers = network_buffers(plan)
    versions = (0,) * len(plan.layers)
    reuses = {state: network_reuse(buffers, versions, cold=state == "cold") for state in STATES}
    rows: list[tuple[object, ...]] = []
    for cores, cache_bytes in caches:
        counted = simulate(plan, library, cores, cache_bytes, build_dir)
        for state in STATES:
            for layer, (found, reuse) in enumerate(zip(counted[state], reuses[state], strict=True)):
                constants = buffers.layers[layer].constant_bytes[0]
                alone = traffic_bytes(plan.of(layer)[0].tiling, cores, cache_bytes)
                modelled = (*_modelled(alone, reuse, cache_bytes), alone, constants)
                key = (plan.model, layer, state, cores, cache_bytes)
                rows.append((*key, found.fill_bytes, found.write_back_bytes, *modelled))
    return pd.DataFrame(rows, columns=COLUMNS)


def _modelled(alone_bytes: float, reuse: LayerReuse, cache_bytes: float) -> tuple[float, float]:
    found = reuse.found_within(cache_bytes) + reuse.found_old(cache_bytes)
    return max(0.0, alone_bytes - found), reuse.written_back(cache_bytes)


def _fastest(group: Sequence[Candidate]) -> Candidate:
    return min((one for one in group if one.trace is not None), key=lambda one: one.median_seconds)


def _by_state(plan: ModelPlan, parts: Sequence[Mapping[str, int]]) -> dict[str, list[Counted]]:
    count = len(plan.layers)
    if len(parts) != len(STATES) * count:
        raise CachegrindError(
            f"callgrind counted {len(parts)} layers of {plan.model}, not {len(STATES) * count}"
        )
    rows = [
        Counted(*(CACHE_LINE_BYTES * sum(part[event] for event in events) for events in (FILLS, WRITE_BACKS)))
        for part in parts
    ]
    return {state: rows[index * count : (index + 1) * count] for index, state in enumerate(STATES)}


def _bytes_of(text: str) -> int:
    kind, _, shape = text.partition(":")
    size = int(re.split(",", kind)[1]) // 8
    for extent in filter(None, shape.split(",")):
        size *= int(extent)
    return size
