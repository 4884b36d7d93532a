"""The simulator's inner loop in C: the same events as `python_core.py`, bit for bit, many times as fast."""

import ctypes
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veltair.compiler.footprint.traffic import CACHE_BYTES
from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.c_build import EXACT_LIBRARY, compile_c, default_build_dir
from veltair.machine.contention.contention import Contention
from veltair.machine.contention.sharing import CacheGroupShare, pinned_bytes_per_s, use_of
from veltair.machine.costs.cost_model import block_bytes_per_s
from veltair.serving.loop.dispatcher import BlockEnd, Resized
from veltair.serving.simulator.python_core import Delays

SOURCE = Path(__file__).parent / "simulator_core.c"
LOOP_SOURCE = SOURCE.with_name("serving_loop.c")

_NOTHING, _BLOCK_END = 0, 1
_OK = 0
_LAW_FIELDS = 5 + len(CACHE_BYTES)
_ARRAY = ctypes.c_void_p
_DOUBLE, _LONG, _INT = ctypes.c_double, ctypes.c_int64, ctypes.c_int32


class _Model(ctypes.Structure):
    _fields_ = (
        ("rows", _ARRAY),
        ("laws", _ARRAY),
        ("noise", _ARRAY),
        ("layers", _LONG),
        ("versions", _LONG),
        ("start_cost_s", _DOUBLE),
    )


class _Settings(ctypes.Structure):
    _fields_ = (
        *((name, _ARRAY) for name in ("models", "levels", "clocks", "limits", "capacities", "count_places")),
        *((name, _LONG) for name in ("level_count", "count_count", "cores", "group_cores", "groups")),
        *((name, _LONG) for name in ("resources", "most_layers")),
        *((name, _DOUBLE) for name in ("l3_bytes", "total_l3_bytes", "fork_s", "combine", "scale")),
        *((name, _DOUBLE) for name in ("resize_cost_s", "join_cost_s")),
        *((name, _INT) for name in ("by_law", "seated")),
    )


class _State(ctypes.Structure):
    _fields_ = (
        ("time_s", _DOUBLE),
        ("events", _LONG),
        ("running", _LONG),
        ("slot", _INT),
        ("cores", _INT),
    )


@dataclass(slots=True)
class _Tenant:
    """Whose block is in a slot, in the versions that were last asked for."""

    query_id: int
    block: LayerBlock
    versions: tuple[int, ...]
    noise_index: bytes


class NativeCore:
    """The inner loop in C. Blocks have slots there: their place in its arrays while they run."""

    def __init__(
        self,
        contention: Contention,
        noise: Mapping[str, NDArray[np.float64]],
        delays: Delays,
        build_dir: Path | None = None,
    ) -> None:
        """Begin with nothing running at time 0; the C source is compiled into `build_dir` at first use.

        Raises NativeBuildError if it cannot be compiled.
        """
        library = _load(build_dir or default_build_dir())
        self._contention = contention
        self._delays = delays
        self._places = {name: index for index, name in enumerate(noise)}
        self._pointers = Pointers()
        settings = _settings(contention, noise, delays, self._pointers)
        self._library = library
        self._handle = library.simulator_new(ctypes.byref(settings))
        if not self._handle:
            raise MemoryError("no memory for the simulator's core")
        weakref.finalize(self, library.simulator_free, self._handle)
        self._start, self._resize = library.simulator_start, library.simulator_resize
        self._advance, self._seat = library.simulator_advance, library.simulator_seat
        self._pressure, self._clear = library.simulator_pressure, library.simulator_clear
        self._state: Any = _State.from_address(library.simulator_state(self._handle))
        slots = contention.machine.cores
        self._ended = (_INT * slots).from_address(library.simulator_ended(self._handle))
        self._free = list(range(slots))[::-1]
        self._slots: dict[int, int] = {}
        # C reads the picks of running blocks, so they are kept here.
        self._tenants: list[_Tenant | None] = [None] * slots
        self._progress = _Progress(self._slots, self._ended)

    @property
    def library(self) -> Any:
        """The compiled library, of simulator_core.c and serving_loop.c."""
        return self._library

    @property
    def handle(self) -> int:
        """Where the simulator is in C's memory, as long as this object lives."""
        return int(self._handle)

    @property
    def grant_s(self) -> float:
        """How long it takes until a running block knows of a resize."""
        return self._delays.grant_s

    @property
    def events(self) -> int:
        """Layer ends so far."""
        return int(self._state.events)

    def start(
        self,
        query_id: int,
        block: LayerBlock,
        versions: tuple[int, ...],
        cores: int,
        noise_index: bytes,
        now_s: float,
    ) -> None:
        """Run a block from now on. Raises LookupError if it was not profiled so."""
        slot = self._free[-1]
        packed = self._packed(block, versions, cores)
        index = self._places[block.model]
        if (
            self._start(self._handle, slot, index, block.start, block.stop, cores, packed, noise_index, now_s)
            != _OK
        ):
            self._explain(block, versions, cores)
        self._tenants[slot] = _Tenant(query_id, block, versions, noise_index)
        self._slots[query_id] = self._free.pop()

    def seat(self, query_id: int, seat: CacheGroupShare) -> None:
        """Say on which cache groups a block's cores are."""
        self.seat_slot(self._slots[query_id], seat)

    def seat_slot(self, slot: int, seat: CacheGroupShare) -> None:
        """Say the same of the block in a slot."""
        machine = self._contention.machine
        use = use_of(machine, seat)
        limit = pinned_bytes_per_s(machine, sum(cores for _, cores in seat), use)
        groups, counts = zip(*seat, strict=True)
        resources, parts = zip(*use, strict=True)
        self._seat(
            self._handle, slot,
            len(seat), (_INT * len(seat))(*groups), (_INT * len(seat))(*counts),
            len(use), (_INT * len(use))(*resources), (_DOUBLE * len(use))(*parts), limit,
        )  # fmt: skip

    def resize(self, query_id: int, cores: int, versions: tuple[int, ...] | None, now_s: float) -> None:
        """Change a running block at a later layer end. Raises LookupError if that was not profiled."""
        slot = self._slots[query_id]
        tenant = self._tenants[slot]
        assert tenant is not None
        block = tenant.block
        packed = None if versions is None else self._packed(block, versions, cores)
        wanted = tenant.versions if versions is None else versions
        if self._resize(self._handle, slot, cores, packed, now_s + self._delays.grant_s) != _OK:
            first = self._ended[slot] + 1
            rest = LayerBlock(block.model, block.start + first, block.stop)
            self._explain(rest, wanted[first:], cores)
        tenant.versions = wanted

    def advance(self, limit_s: float) -> BlockEnd | Resized | None:
        """Let layers end up to a time, and return the first event that leaves the simulator, if any does."""
        what = self._advance(self._handle, limit_s)
        if what == _NOTHING:
            return None
        state = self._state
        slot = state.slot
        tenant = self._tenants[slot]
        assert tenant is not None
        query_id = tenant.query_id
        if what != _BLOCK_END:
            return Resized(state.time_s, query_id, state.cores)
        self._tenants[slot] = None
        del self._slots[query_id]
        self._free.append(slot)
        return BlockEnd(state.time_s, query_id)

    def pressure(self) -> float:
        """Return the pressure in [0, 1] that a block started now would meet."""
        return self._pressure(self._handle)  # type: ignore[no-any-return]

    def progress(self) -> Mapping[int, int]:
        """Return how many layers of each running block have ended; a live view."""
        return self._progress

    def clear(self) -> None:
        """End all blocks at once."""
        self._clear(self._handle)
        self._free.extend(self._slots.values())
        self._slots.clear()
        self._tenants = [None] * len(self._tenants)

    def _packed(self, block: LayerBlock, versions: tuple[int, ...], cores: int) -> bytes:
        try:
            return bytes(versions)
        except ValueError:
            self._explain(block, versions, cores)
            raise

    def _explain(self, block: LayerBlock, versions: tuple[int, ...], cores: int) -> None:
        """Raise the error of the contention model for a block that was not profiled so."""
        self._contention.loads(block, versions, cores)
        raise LookupError(f"{block} in versions {versions} on {cores} cores was not profiled")


class _Progress(Mapping[int, int]):
    """Layers that have ended, by query: a view of the core's memory."""

    def __init__(self, slots: Mapping[int, int], ended: Any) -> None:
        self._slots, self._ended = slots, ended

    def __getitem__(self, query_id: int) -> int:
        return self._ended[self._slots[query_id]]  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[int]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)


@lru_cache
def _load(build_dir: Path) -> Any:
    """Return the compiled library. It calls no Python and is short: it keeps the interpreter's lock."""
    library = ctypes.PyDLL(str(compile_c(SOURCE, build_dir, EXACT_LIBRARY, beside=[LOOP_SOURCE])))
    handle, text = ctypes.c_void_p, ctypes.c_char_p
    integers = ctypes.POINTER(_INT)
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "simulator_new": (handle, (handle,)),
        "simulator_free": (None, (handle,)),
        "simulator_state": (handle, (handle,)),
        "simulator_ended": (handle, (handle,)),
        "simulator_start": (_INT, (handle, _INT, _INT, _INT, _INT, _INT, text, text, _DOUBLE)),
        "simulator_seat": (
            None,
            (handle, _INT, _INT, integers, integers, _INT, integers, ctypes.POINTER(_DOUBLE), _DOUBLE),
        ),
        "simulator_resize": (_INT, (handle, _INT, _INT, text, _DOUBLE)),
        "simulator_advance": (_INT, (handle, _DOUBLE)),
        "simulator_pressure": (_DOUBLE, (handle,)),
        "simulator_clear": (None, (handle,)),
        "loop_new": (handle, (handle, handle, handle)),
        "loop_free": (None, (handle,)),
        "loop_state": (handle, (handle,)),
        "loop_run": (_INT, (handle,)),
        "loop_add_arrivals": (None, (handle, handle)),
        "loop_add_errors": (None, (handle, handle, _LONG)),
        "loop_take_records": (None, (handle,)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Pointers:
    """What C holds addresses of: to be kept as long as C uses them."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def to(self, values: Any, dtype: Any = np.float64) -> int:
        """Return the address of the values as a contiguous array of a type."""
        array = np.ascontiguousarray(values, dtype=dtype)
        self._kept.append(array)
        return int(array.ctypes.data)

    def to_all(self, structures: Sequence[ctypes.Structure]) -> int:
        """Return the address of an array of structures of one type."""
        array = (type(structures[0]) * len(structures))(*structures)
        self._kept.append(array)
        return ctypes.addressof(array)


def _settings(
    contention: Contention, noise: Mapping[str, NDArray[np.float64]], delays: Delays, pointers: Pointers
) -> _Settings:
    machine, costs = contention.machine, contention.costs
    pointer = pointers.to
    models = [_model(contention, name, noise[name], delays.start_of(name), pointer) for name in noise]
    counts = range(machine.cores + 1)
    cost_model = contention.cost_model
    profiled = {cores: index for index, cores in enumerate(costs.cores)}
    return _Settings(
        models=pointers.to_all(models),
        levels=pointer(costs.levels),
        clocks=pointer([machine.clock(active) for active in counts]),
        limits=pointer([block_bytes_per_s(machine, max(1, cores)) for cores in counts]),
        capacities=pointer(contention.capacities),
        count_places=pointer([profiled.get(cores, -1) for cores in counts], np.int32),
        level_count=len(costs.levels),
        count_count=len(costs.cores),
        cores=machine.cores,
        group_cores=len(machine.cache_groups[0]),
        groups=len(machine.cache_groups),
        resources=len(contention.capacities),
        most_layers=max((model.layers for model in models), default=1),
        l3_bytes=machine.l3_bytes,
        total_l3_bytes=machine.total_l3_bytes,
        fork_s=machine.launch_s + machine.join_s,
        combine=cost_model.combine if cost_model else 1.0,
        scale=contention.scale,
        resize_cost_s=delays.resize_s,
        join_cost_s=delays.join_s,
        by_law=cost_model is not None,
        seated=contention.seated,
    )


def _model(
    contention: Contention, name: str, noise: NDArray[np.float64], start_s: float, pointer: Callable[..., int]
) -> _Model:
    curves = contention.curves(name)
    seconds, shares = curves.seconds, curves.dram_share
    l3 = np.broadcast_to(curves.l3_share[:, :, None], shares.shape)
    rows = np.concatenate([seconds, curves.slopes, shares[..., None], l3[..., None]], axis=3)
    cost_models = 0
    if contention.cost_model is not None:
        table = np.zeros((*seconds.shape[:2], _LAW_FIELDS))
        for layer, versions in enumerate(contention.cost_model.layers[name]):
            # A study of fewer versions leaves the law as it is: what the table lacks, nobody runs.
            for version, cost_model in enumerate(versions[: seconds.shape[1]]):
                tiling = cost_model.tiling
                table[layer, version] = (
                    cost_model.compute_s,
                    tiling.parallelism,
                    tiling.blocking_bytes,
                    tiling.compulsory_bytes,
                    tiling.steepness,
                    *(tiling.fetched_bytes or (nan,) * len(CACHE_BYTES)),
                )
        cost_models = pointer(table)
    return _Model(pointer(rows), cost_models, pointer(noise), seconds.shape[0], seconds.shape[1], start_s)
