"""The simulator's inner loop in C: the same events as `python_core.py`, bit for bit, many times as fast."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import nan
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veltair.compiler.footprint.residency import RESIDENT_CACHE_BYTES, Residency
from veltair.compiler.footprint.traffic import CURVE_BYTES
from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.c_build import EXACT_LIBRARY, default_build_dir
from veltair.machine.c_library import CLayoutError, CLibrary, KeptArrays, load_library
from veltair.machine.contention.contention import Contention
from veltair.machine.contention.sharing import CacheGroupShare, pinned_bytes_per_s, use_of
from veltair.machine.costs.block_costs import BlockCosts
from veltair.machine.costs.cost_model import MachineCostModel, block_bytes_per_s
from veltair.serving.loop.backend import BlockEnd, Resized
from veltair.serving.loop.policy import MOST_SHARING, Allocation, most_blocks

SOURCE = Path(__file__).parent / "simulator_core.c"
_LOOP, _DECISIONS = (Path(__file__).parents[1] / room for room in ("loop", "policies/native"))
BESIDE = [SOURCE.with_name("simulator_backend.c"), _LOOP / "serving_loop.c", _DECISIONS / "decisions.c"]
HEADERS = [
    *(_LOOP / name for name in ("view.h", "backend.h", "serving_loop.h")),
    _DECISIONS / "decisions.h",
    *(SOURCE.with_name(name) for name in ("simulator_core.h", "simulator_backend.h")),
]

NO_BATCHES: Mapping[str, Mapping[int, str]] = MappingProxyType({})
_OK = 0
_NO_BYTES = (nan,) * len(CURVE_BYTES)
_NO_RESIDENCY = (nan,) * 3 * len(RESIDENT_CACHE_BYTES)


@dataclass(slots=True)
class _BlockInSlot:
    """Whose block is in a slot, in the versions that were last asked for."""

    query_id: int
    block: LayerBlock
    versions: tuple[int, ...]
    noise_index: bytes


class NativeCore:
    """The inner loop in C. A running block has a slot: its index in the arrays of C."""

    def __init__(
        self,
        contention: Contention,
        noise: Mapping[str, NDArray[np.float64]],
        costs: BlockCosts,
        build_dir: Path | None = None,
        batches: Mapping[str, Mapping[int, str]] = NO_BATCHES,
    ) -> None:
        """Begin with nothing running at time 0; the C source is compiled into `build_dir` at first use.

        `noise` is of the models that are served first, and then of those of `batches`. Raises
        NativeBuildError if it cannot be compiled.
        """
        self._library = library = load(build_dir or default_build_dir())
        functions, self._null = library.functions, library.ffi.NULL
        self._contention = contention
        self._indices = {name: index for index, name in enumerate(noise)}
        self._arrays = KeptArrays(library)
        settings = _settings(contention, noise, costs, self._arrays)
        settings |= _batched(self._indices, batches, self._arrays)
        self._handle = functions.simulator_new(library.ffi.new("settings_t *", settings))
        if not self._handle:
            raise MemoryError("no memory for the simulator's core")
        weakref.finalize(self, functions.simulator_free, self._handle)
        self._start, self._resize = functions.simulator_start, functions.simulator_resize
        self._advance, self._pin = functions.simulator_advance, functions.simulator_pin
        self._yield = functions.simulator_yield
        self._pressure, self._clear = functions.simulator_pressure, functions.simulator_clear
        self._nothing, self._block_end = functions.NOTHING, functions.BLOCK_END
        self._state = functions.simulator_state(self._handle)
        self._ended = functions.simulator_ended(self._handle)
        slots = most_blocks(contention.machine)
        self._free = list(range(slots))[::-1]
        self._slots: dict[int, int] = {}
        # C reads the noise indices of running blocks, so they are kept here.
        self._blocks: list[_BlockInSlot | None] = [None] * slots
        self._progress = _Progress(self._slots, self._ended)

    @property
    def library(self) -> CLibrary:
        """The compiled library: the simulator, the loop and the decisions in C."""
        return self._library

    def backend(self) -> Any:
        """Return the `backend_t` that the loop in C runs over, as long as this object lives."""
        backend = self._library.ffi.new("backend_t *")
        self._library.functions.simulator_backend(self._handle, backend)
        return backend

    @property
    def events(self) -> int:
        """Layer ends so far."""
        return int(self._state.events)

    def start(self, allocation: Allocation, noise_index: bytes, now_s: float) -> None:
        """Run a block from now on. Raises LookupError if it was not profiled so."""
        query_id, block, cores = allocation.query_id, allocation.block, allocation.cores
        versions, slot = allocation.versions, self._free[-1]
        packed = self._packed(block, versions, cores)
        of_block = self._indices[block.model], block.start, block.stop, cores
        most = allocation.dram_bytes_per_s or 0.0
        started = self._start(self._handle, slot, *of_block, most, packed, noise_index, now_s)
        if started != _OK:
            self._explain(block, versions, cores)
        self._blocks[slot] = _BlockInSlot(query_id, block, versions, noise_index)
        self._slots[query_id] = self._free.pop()

    def check(self, block: LayerBlock, versions: tuple[int, ...], cores: int) -> None:
        """Raise LookupError, which says what is missing, if a block was not profiled so."""
        self._contention.demands(block, versions, cores)

    def pin(self, query_id: int, group_cores: CacheGroupShare) -> None:
        """Say on which cache groups a block's cores are."""
        self.pin_slot(self._slots[query_id], group_cores)

    def pin_slot(self, slot: int, group_cores: CacheGroupShare) -> None:
        """Say the same of the block in a slot."""
        machine = self._contention.machine
        use = use_of(machine, group_cores)
        limit = pinned_bytes_per_s(machine, sum(cores for _, cores in group_cores), use)
        groups, counts = zip(*group_cores, strict=True)
        resources, parts = zip(*use, strict=True)
        self._pin(self._handle, slot, len(groups), groups, counts, len(use), resources, parts, limit)

    def resize(self, query_id: int, cores: int, versions: tuple[int, ...] | None, now_s: float) -> None:
        """Change a running block at a later layer end. Raises LookupError if that was not profiled."""
        slot = self._slots[query_id]
        running = self._blocks[slot]
        assert running is not None
        block = running.block
        packed = self._null if versions is None else self._packed(block, versions, cores)
        wanted = running.versions if versions is None else versions
        if self._resize(self._handle, slot, cores, packed, now_s) != _OK:
            first = self._ended[slot] + 1
            rest = LayerBlock(block.model, block.start + first, block.stop)
            self._explain(rest, wanted[first:], cores)
        running.versions = wanted

    def yield_block(self, query_id: int, now_s: float) -> None:
        """End a running block at a later layer end."""
        self._yield(self._handle, self._slots[query_id], now_s)

    def advance(self, limit_s: float) -> BlockEnd | Resized | None:
        """Let layers end up to a time, and return the first event that leaves the simulator, if any does."""
        what = self._advance(self._handle, limit_s)
        if what == self._nothing:
            return None
        event = self._state.event
        slot = event.slot
        running = self._blocks[slot]
        assert running is not None
        query_id = running.query_id
        if what != self._block_end:
            return Resized(event.time_s, query_id, event.cores)
        self._blocks[slot] = None
        del self._slots[query_id]
        self._free.append(slot)
        return BlockEnd(event.time_s, query_id, event.next_layer)

    def pressure(self) -> float:
        """Return the pressure in [0, 1] that a block started now would meet."""
        pressure: float = self._pressure(self._handle)
        return pressure

    def progress(self) -> Mapping[int, int]:
        """Return how many layers of each running block have ended; a live view."""
        return self._progress

    def clear(self) -> None:
        """End all blocks at once."""
        self._clear(self._handle)
        self._free.extend(self._slots.values())
        self._slots.clear()
        self._blocks = [None] * len(self._blocks)

    def _packed(self, block: LayerBlock, versions: tuple[int, ...], cores: int) -> bytes:
        try:
            return bytes(versions)
        except ValueError:
            self._explain(block, versions, cores)
            raise

    def _explain(self, block: LayerBlock, versions: tuple[int, ...], cores: int) -> None:
        """Raise the error of the contention model for a block that was not profiled so."""
        self._contention.demands(block, versions, cores)
        raise LookupError(f"{block} in versions {versions} on {cores} cores was not profiled")


class _Progress(Mapping[int, int]):
    """Layers that have ended, by query: a view of the core's memory."""

    def __init__(self, slots: Mapping[int, int], ended: Any) -> None:
        self._slots, self._ended = slots, ended

    def __getitem__(self, query_id: int) -> int:
        ended: int = self._ended[self._slots[query_id]]
        return ended

    def __iter__(self) -> Iterator[int]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)


@lru_cache
def load(build_dir: Path) -> CLibrary:
    """Return the compiled library, by its headers."""
    library = load_library(SOURCE, HEADERS, build_dir, EXACT_LIBRARY, beside=BESIDE)
    expected = {"CACHE_SIZES": CURVE_BYTES, "RESIDENT_SIZES": RESIDENT_CACHE_BYTES}
    for name, sizes in expected.items():
        if len(sizes) != getattr(library.functions, name):
            raise CLayoutError(
                f"{name} of {SOURCE.stem}.h is {getattr(library.functions, name)}, but there are "
                f"{len(sizes)} sizes in Python; give it that number"
            )
    return library


def _settings(
    contention: Contention, noise: Mapping[str, NDArray[np.float64]], costs: BlockCosts, arrays: KeptArrays
) -> dict[str, Any]:
    machine, table = contention.machine, contention.costs
    models = [_model(contention, name, noise[name], costs.start_of(name), arrays) for name in noise]
    all_layers = 0
    for model in models:
        model["layers_before"] = all_layers
        all_layers += model["layers"]
    counts = range(machine.cores + 1)
    cost_model = contention.cost_model
    profiled = {cores: index for index, cores in enumerate(table.cores)}
    pointer = arrays.pointer
    return {
        "models": arrays.structs("model_t", models),
        "levels": pointer(table.levels),
        "clocks": pointer([machine.clock(active) for active in counts]),
        "limits": pointer([block_bytes_per_s(machine, max(1, cores)) for cores in counts]),
        "capacities": pointer(contention.capacities),
        "stretches": pointer(_stretches(costs.oversubscription, machine.cores)),
        "count_indices": pointer([profiled.get(cores, -1) for cores in counts], np.int32),
        "level_count": len(table.levels),
        "count_count": len(table.cores),
        "slots": most_blocks(machine),
        "cores": machine.cores,
        "cores_per_group": len(machine.cache_groups[0]),
        "groups": len(machine.cache_groups),
        "resources": len(contention.capacities),
        "most_layers": max((model["layers"] for model in models), default=1),
        "all_layers": all_layers,
        "l3_bytes": machine.l3_bytes,
        "total_l3_bytes": machine.total_l3_bytes,
        "dram_bytes_per_s": machine.dram_bytes_per_s,
        "fork_s": machine.launch_s + machine.join_s,
        "combine": cost_model.combine if cost_model else 1.0,
        "scale": contention.scale,
        "grant_s": costs.grant_s,
        "resize_cost_s": costs.resize_s,
        "join_cost_s": costs.join_s,
        "yield_cost_s": costs.yield_s,
        "decision_s": costs.decision_s,
        "cache_bytes": list(map(float, CURVE_BYTES)),
        "resident_cache_bytes": list(map(float, RESIDENT_CACHE_BYTES)),
        "by_cost_model": cost_model is not None,
        "pinned": contention.pinned,
    }


def _batched(
    indices: Mapping[str, int], batches: Mapping[str, Mapping[int, str]], arrays: KeptArrays
) -> dict[str, Any]:
    most = max((queries for built in batches.values() for queries in built), default=1)
    table = np.full((len(indices), most + 1), -1, np.int32)
    table[:, 1] = np.arange(len(indices))
    for model, built in batches.items():
        for queries, name in built.items():
            table[indices[model], queries] = indices[name]
    return {"batched": arrays.pointer(table, np.int32), "most_batch": most}


@lru_cache
def _stretches(points: tuple[tuple[float, float], ...], cores: int) -> tuple[float, ...]:
    """Return by number of threads how many times as long layers take: of as many as may ever be at work."""
    costs = BlockCosts(oversubscription=points)
    return tuple(costs.stretch(threads, cores) for threads in range(MOST_SHARING * cores + 1))


def _model(
    contention: Contention, name: str, noise: NDArray[np.float64], start_s: float, arrays: KeptArrays
) -> dict[str, Any]:
    curves = contention.curves(name)
    seconds, shares = curves.seconds, curves.dram_share
    l3 = np.broadcast_to(curves.l3_share[:, :, None], shares.shape)
    rows = np.concatenate([seconds, curves.slopes, shares[..., None], l3[..., None]], axis=3)
    model = {
        "rows": arrays.pointer(rows),
        "noise": arrays.pointer(noise),
        "layers": seconds.shape[0],
        "versions": seconds.shape[1],
        "start_cost_s": start_s,
    }
    if contention.cost_model is not None:
        dtype = arrays.library.dtype("cost_model_t")
        model["cost_models"] = arrays.pointer(
            _cost_models(contention.cost_model, name, seconds.shape[1], dtype), dtype
        )
    return model


@lru_cache(maxsize=64)
def _cost_models(cost_model: MachineCostModel, name: str, most: int, dtype: Any) -> NDArray[Any]:
    """Return `most` cost models a layer: no more than the table has versions, zeros where there are fewer.

    A search runs the same machine dozens of times, so they are kept.
    """
    layers = cost_model.layers[name]
    records = np.zeros((len(layers), most), dtype)
    known = [one for versions in layers for one in versions[:most]]
    layer = [number for number, versions in enumerate(layers) for _ in versions[:most]]
    version = [number for versions in layers for number in range(len(versions[:most]))]
    tilings = [one.tiling for one in known]
    records["compute_s"][layer, version] = [one.compute_s for one in known]
    records["parallelism"][layer, version] = [tiling.parallelism for tiling in tilings]
    records["blocking_bytes"][layer, version] = [tiling.blocking_bytes for tiling in tilings]
    records["compulsory_bytes"][layer, version] = [tiling.compulsory_bytes for tiling in tilings]
    records["steepness"][layer, version] = [tiling.steepness for tiling in tilings]
    records["fetched_bytes"][layer, version] = [tiling.fetched_bytes or _NO_BYTES for tiling in tilings]
    records["copies"][layer, version] = [tiling.copies for tiling in tilings]
    records["private_share"][layer, version] = [tiling.private_share for tiling in tilings]
    records["resident_bytes"][layer, version] = [_side_by_side(tiling.residency) for tiling in tilings]
    records.flags.writeable = False
    return records


def _side_by_side(residency: Residency | None) -> Sequence[float]:
    if residency is None:
        return _NO_RESIDENCY
    kinds = (residency.within_bytes, residency.old_bytes, residency.written_bytes)
    return [float(amount) for amounts in zip(*kinds, strict=True) for amount in amounts]
