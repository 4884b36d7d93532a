"""A search without TVM's search and without measuring: sums in parts, which take as many seconds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tvm import s_tir, te

from veltair.compiler.search import search as search_module
from veltair.compiler.search.evolution import measurable, module_of
from veltair.compiler.search.progress import Progress
from veltair.compiler.search.records import Header, read_record
from veltair.compiler.search.runner import Measured
from veltair.compiler.search.search import SearchSettings

HEADER = Header("sum-1", target="x86-64-v3", cores=4, threads=1, seed=1, repeats=10)
SETTINGS = SearchSettings(trials=8, seed=1, population=4, batch=3)


def total(size: int = 64) -> Any:
    """Return O[0] = sum of x."""
    x = te.placeholder((size,), name="x")
    k = te.reduce_axis((0, size), name="k")
    return te.create_prim_func([x, te.compute((1,), lambda i: te.sum(x[k], axis=k), name="out")])


def sums_in(parts: int, function: Any) -> Any:
    """Return a schedule that sums in some parts."""
    schedule = s_tir.Schedule(module_of(function), debug_mask="none")
    (*_, loop) = schedule.get_loops(schedule.get_sblock("out"))
    schedule.split(loop, [parts, None])
    return schedule


class Workshop:
    """Stands for the evolution and the runner: proposes sums in 1, 2, … parts, which take as many seconds."""

    def __init__(self, most: int = 100) -> None:
        self.most = most  # after so many parts there are no more candidates
        self.seeds: list[int] = []
        self.learned: list[list[float]] = []
        self.measured: list[list[Any]] = []
        self.stop_at: int | None = None  # the batch that is interrupted
        self.broken: Sequence[int] = ()  # sizes of functions without a design space
        self.fails = False

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "Workshop":
        monkeypatch.setattr(search_module, "Evolution", lambda *a, **k: FakeEvolution(self, *a, **k))
        monkeypatch.setattr(search_module, "Runner", lambda *_: FakeRunner(self))
        return self

    def traces(self) -> list[list[Any]]:
        return [[trace_text(module) for module in batch] for batch in self.measured]


def trace_text(module: Any) -> str:
    return str(module)


class FakeRunner:
    def __init__(self, shop: Workshop) -> None:
        self._shop = shop

    def __enter__(self) -> "FakeRunner":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def measure(self, candidates: Sequence[tuple[Any, Any]], best_s: float) -> list[Measured]:
        self._shop.measured.append([module for module, _ in candidates])
        if len(self._shop.measured) == self._shop.stop_at:
            raise KeyboardInterrupt
        if self._shop.fails:
            return [Measured((), "LLVM ERROR")] * len(candidates)
        return [Measured((float(index + 1),), None) for index in range(len(candidates))]


class FakeEvolution:
    def __init__(self, shop: Workshop, function: Any, _: Any, *, batch: int, seed: int, **__: int) -> None:
        self._shop, self._function, self._batch, self._learned = shop, function, batch, 0
        self._left = 0
        shop.seeds.append(seed)

    def start(self, trials: int) -> None:
        size = int(self._function.params[0].shape[0])
        if size in self._shop.broken:
            raise RuntimeError(f"no design space for {size}")
        self._left = trials

    def propose(self) -> list[Any]:
        count = min(self._batch, self._left, self._shop.most - self._learned)
        self._left -= count
        parts = range(self._learned + 1, self._learned + 1 + count)
        return [measurable(sums_in(part, self._function)) for part in parts]

    def learn(self, candidates: Sequence[Any], run_seconds: Sequence[Any], proposed: bool) -> None:
        assert len(candidates) == len(run_seconds)
        self._learned += len(candidates)


def quiet(progress: Progress) -> None:
    pass


def counts(folder: Path, structure: str) -> list[int]:
    record = read_record(folder / f"{structure}.jsonl")
    return [len(batch.trials) for batch in record.batches] if record else []
