"""Traffic as valgrind's cachegrind simulates it, to check what is modelled from a version's tiling."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from veltair.compiler.build.build import LIBRARY, ModelPlan, VersionPlan, read_plan
from veltair.compiler.footprint.traffic import traffic_bytes
from veltair.machine.c_build import FLAGS, compile_c
from veltair.machine.topology.topology import CACHE_LINE_BYTES

SOURCE = Path(__file__).with_name("cachegrind_kernel.c")
# For any x86-64: valgrind knows no instructions newer than AVX2.
PORTABLE = tuple(flag for flag in FLAGS if flag != "-march=native")
WAYS = 16
# Of instructions, as most cores have it. Cachegrind simulates two levels of data caches; both are looked at.
I1 = "32768,8,64"
DATA_MISSES = (("D1mr", "D1mw"), ("DLmr", "DLmw"))
# Larger than any cache that is simulated here, for one pass must throw out all that it held.
FLUSH_MULTIPLE = 2
# DLPack's type codes, by numpy's kinds.
CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
COLUMNS = [
    *("model", "layer", "version", "symbol", "macs"),
    *("parallelism", "blocking_bytes", "compulsory_bytes"),
    *("cache_bytes", "modelled_bytes", "simulated_bytes", "ratio"),
]


class CachegrindError(RuntimeError):
    """Cachegrind is missing or failed; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A version of a layer to simulate, and the texts of its tensors for `cachegrind_kernel`."""

    model: str
    layer: int
    version: int
    macs: int
    plan: VersionPlan
    tensors: tuple[str, ...]


def find_valgrind() -> Path | None:
    """Return where valgrind is, None if it is not installed."""
    found = shutil.which("valgrind")
    return None if found is None else Path(found)


def read_counts(text: str) -> dict[str, int]:
    """Return the counts of a whole run by event, from the output file of cachegrind.

    The lines `events:` and `summary:` are read, as valgrind's manual describes them (chapter on Cachegrind,
    section on its output file format). Raises ValueError without them, or where their lengths differ.
    """
    events = re.search(r"^events:\s*(.+)$", text, re.MULTILINE)
    summary = re.search(r"^summary:\s*(.+)$", text, re.MULTILINE)
    if events is None or summary is None:
        raise ValueError("this is no output of cachegrind: it lacks a line `events:` or `summary:`")
    names, numbers = events.group(1).split(), summary.group(1).replace(",", "").split()
    if len(names) != len(numbers):
        raise ValueError(f"cachegrind names {len(names)} events, but counts {len(numbers)}")
    return {name: int(number) for name, number in zip(names, numbers, strict=True)}


def read_parts(text: str) -> list[tuple[str, dict[str, int]]]:
    """Return the parts of an output file of callgrind: what asked for each, and its counts by event.

    A part ends with its line `totals:` or `summary:`; zeros at the end of it are left out. Source: valgrind's
    manual, "Callgrind Format Specification". Raises ValueError where a part names no events.
    """
    parts: list[tuple[str, dict[str, int]]] = []
    trigger, names = "", None
    for line in text.splitlines():
        key, _, rest = line.partition(": ")
        if key == "desc" and rest.startswith("Trigger: "):
            trigger = rest.removeprefix("Trigger: ").removeprefix("Client Request: ")
        elif key == "events":
            names = rest.split()
        elif key == "summary":
            if names is None:
                raise ValueError("this is no output of callgrind: it lacks a line `events:`")
            numbers = list(map(int, rest.split()))
            padded = numbers + [0] * (len(names) - len(numbers))
            parts.append((trigger, dict(zip(names, padded, strict=True))))
    return parts


def sample(plan: ModelPlan, count: int, most_macs: int) -> list[Sampled]:
    """Return the first and the last version of some layers of a model, unlike ones from small to large.

    `most_macs` bounds what a layer computes, for a simulated instruction takes fifty times as long.
    """
    first = {layer.structure: number for number, layer in reversed(list(enumerate(plan.layers)))}
    fitting = [number for number in first.values() if 0 < plan.layers[number].macs <= most_macs]
    ordered = sorted(fitting, key=lambda number: (plan.layers[number].macs, number))
    indices = np.unique(np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int))
    return [
        Sampled(
            plan.model,
            number,
            version,
            plan.layers[number].macs,
            plan.of(number)[version],
            tensors(plan, number, version),
        )
        for number in (ordered[index] for index in indices.tolist())
        for version in sorted({0, len(plan.of(number)) - 1})
    ]


def tensors(plan: ModelPlan, layer: int, version: int) -> tuple[str, ...]:
    """Return the arguments of a version's kernel: type code, bits and shape of each, like `2,32:1,8`."""
    chosen, called = plan.of(layer)[version], plan.layers[layer]
    packed = dict(zip(chosen.packed, chosen.packed_shapes, strict=True))

    def of(index: int, source: tuple[str, int, int]) -> str:
        kind, number, output = source
        if kind == "constant":
            constant = plan.constants[number]
            return _text(packed.get(index, constant.shape), constant.dtype)
        if kind == "input":
            return _text(plan.inputs[number].shape, plan.inputs[number].dtype)
        return _text(plan.layers[number].outputs[output], plan.layers[number].dtypes[output])

    inputs = [of(index, source) for index, source in enumerate(called.inputs)]
    return (*inputs, *map(_text, called.outputs, called.dtypes))


def simulated_bytes(
    one: Sampled, library: Path, caches_bytes: tuple[int, int], build_dir: Path
) -> tuple[int, int]:
    """Return the bytes that one call of a kernel fetches into two caches that hold none of them.

    The second cache is behind the first one, as an L3 behind an L2: it sees what misses there. The bytes are
    the difference of two runs, with the call and without. Raises CachegrindError if valgrind is missing or
    fails.
    """
    called, idle = (_data_misses(one, library, caches_bytes, calls, build_dir) for calls in (1, 0))
    first, second = (
        CACHE_LINE_BYTES * (with_it - without) for with_it, without in zip(called, idle, strict=True)
    )
    return first, second


def check_traffic(
    builds: Mapping[str, Path], caches_bytes: tuple[int, int], count: int, most_macs: int, build_dir: Path
) -> pd.DataFrame:
    """Return modelled beside simulated traffic of a sample of layers on one core: `COLUMNS`.

    `builds` are the folders of built models; their kernels must be for AVX2, which valgrind simulates.
    `caches_bytes` are powers of two, at least 64 KiB, the smaller one first. Raises CachegrindError as
    `simulated_bytes` does.
    """
    rows: list[tuple[object, ...]] = []
    for folder in builds.values():
        for one in sample(read_plan(folder), count, most_macs):
            found = simulated_bytes(one, folder / LIBRARY, caches_bytes, build_dir)
            rows += (_row(one, *pair) for pair in zip(caches_bytes, found, strict=True))
            ratios = ", ".join(f"{row[-1]:.2f} of {row[-2]} bytes" for row in rows[-len(found) :])
            print(f"{one.model} layer {one.layer}, version {one.version}: {ratios}", flush=True)
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(one: Sampled, cache_bytes: int, found: int) -> tuple[object, ...]:
    plan = one.plan
    modelled = round(traffic_bytes(plan.tiling, 1, cache_bytes))
    key = (one.model, one.layer, one.version, plan.symbol, one.macs)
    loops = (plan.parallelism, plan.blocking_bytes, plan.compulsory_bytes)
    # A kernel of which nothing misses has no ratio.
    return (*key, *loops, cache_bytes, modelled, found, modelled / found if found else nan)


def _text(shape: Sequence[int], dtype: str) -> str:
    kind = np.dtype(dtype)
    return f"{CODES[kind.kind]},{8 * kind.itemsize}:{','.join(map(str, shape))}"


def _data_misses(
    one: Sampled, library: Path, caches_bytes: tuple[int, int], calls: int, build_dir: Path
) -> list[int]:
    """Return how many lines a program with so many calls fetches into each of the caches."""
    valgrind = find_valgrind()
    if valgrind is None:
        raise CachegrindError(
            "valgrind is not installed; install it (Debian, Ubuntu: apt-get install valgrind)"
        )
    program = compile_c(SOURCE, build_dir, (*PORTABLE, "-rdynamic", "-ldl", "-pthread"))
    with TemporaryDirectory() as folder:
        out = Path(folder) / "counts"
        options = ("--tool=cachegrind", "--cache-sim=yes", f"--cachegrind-out-file={out}")
        sizes = zip(("D1", "LL"), caches_bytes, strict=True)
        caches = (f"--I1={I1}", *(f"--{name}={size},{WAYS},{CACHE_LINE_BYTES}" for name, size in sizes))
        flushed = FLUSH_MULTIPLE * max(caches_bytes)
        kernel = (library.resolve(), f"__tvm_ffi_{one.plan.symbol}", flushed, calls)
        command = [valgrind, *options, *caches, program, *kernel, *one.tensors]
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, check=False, text=True, errors="replace"
        )
        if done.returncode != 0 or not out.is_file():
            raise CachegrindError(
                f"cachegrind failed on {one.plan.symbol} (exit status {done.returncode}): "
                f"{done.stderr.strip()[-500:]}; kernels for AVX-512 cannot be simulated, build them for AVX2"
            )
        counts = read_counts(out.read_text(encoding="utf-8"))
    return [sum(counts[event] for event in events) for events in DATA_MISSES]
