"""What the live loop in C reads: buffers, samples and the layout of the machine, kept as long as it runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from veltair.machine.c_build import EXACT_LIBRARY
from veltair.machine.c_library import CLibrary, KeptArrays, load_library
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.call_tables import CallTables
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import Sample
from veltair.serving.loop.policy import Context

SOURCE = Path(__file__).parent / "live_loop.c"
_SERVING, _MACHINE = Path(__file__).parents[1], Path(__file__).parents[2] / "machine"
BESIDE = [
    _SERVING / "loop" / "serving_loop.c",
    _SERVING / "policies" / "native" / "decisions.c",
    _MACHINE / "topology" / "placement.c",
]
HEADERS = [
    *(_SERVING / "loop" / name for name in ("view.h", "backend.h", "serving_loop.h")),
    _SERVING / "policies" / "native" / "decisions.h",
    _MACHINE / "workers" / "pool_types.h",
    _MACHINE / "topology" / "placement.h",
    SOURCE.with_name("live_loop.h"),
]


def load(build_dir: Path) -> CLibrary:
    """Return the library of the live loop, compiled into `build_dir` if it is not there yet."""
    return load_library(SOURCE, HEADERS, build_dir, EXACT_LIBRARY, beside=BESIDE)


def core_layout(machine: Machine, placement: str, arrays: KeptArrays) -> dict[str, Any]:
    """Return a `core_layout_t` of workers, numbered as the machine's cores are."""
    indices = {core: index for index, core in enumerate(machine.core_ids)}
    groups = [sorted(group) for group in machine.cache_groups]
    begins = np.cumsum([0, *map(len, groups)])
    return {
        "cores": arrays.pointer([indices[core] for group in groups for core in group], np.uint16),
        "group_begins": arrays.pointer(begins, np.int32),
        "groups": len(groups),
        "placement": arrays.library.ffi.typeof("placement_t").relements[placement.upper()],
    }


class LiveTables:
    """The models and samples of a run as C reads them, in `settings`."""

    def __init__(
        self,
        library: CLibrary,
        context: Context,
        buffers: Mapping[str, Sequence[CallTables]],
        rows: Sequence[Mapping[str, Any]],
    ) -> None:
        """Lay them out. `rows` are a `live_sample_t` each, which the caller keeps what they point to."""
        self._arrays = arrays = KeptArrays(library)
        profiled = {cores: index for index, cores in enumerate(context.costs.cores)}
        models = [
            {
                "tables": arrays.pointer([table.address for table in buffers[name]], np.uintp),
                "moved_bytes": arrays.pointer(context.costs.model(name).traffic_bytes[..., 0]),
                "versions": context.costs.model(name).traffic_bytes.shape[1],
                "qos_s": model.qos_s,
                "table_count": len(buffers[name]),
                "layers": len(model.layers),
            }
            for name, model in context.models.items()
        ]
        self.settings = {
            "models": arrays.structs("live_model_t", models),
            "samples": arrays.structs("live_sample_t", rows),
            "model_count": len(models),
            "sample_count": len(rows),
            "count_indices": arrays.pointer(
                [profiled.get(cores, -1) for cores in range(context.machine.cores + 1)], np.int32
            ),
            "count_count": len(profiled),
        }


class LiveSamples:
    """Fixed inputs and their right answers, as C reads them: `rows` for `LiveTables`."""

    def __init__(
        self,
        library: CLibrary,
        pool: NativePool,
        context: Context,
        buffers: Mapping[str, Sequence[CallTables]],
        samples: Sequence[tuple[str, Sample]],
    ) -> None:
        """Lay them out.

        Raises ValueError for a sample that is not like its model's buffers.
        """
        self._bound = [(name, pool.bind_sample(sample, buffers[name][0])) for name, sample in samples]
        pointer, numbers = library.ffi.cast, {name: number for number, name in enumerate(context.models)}
        self.rows = [
            {
                "inputs": pointer("void *", sample.inputs),
                "answers": pointer("void *", sample.answers),
                "outputs": library.ffi.NULL,
                "model": numbers[name],
            }
            for name, sample in self._bound
        ]
