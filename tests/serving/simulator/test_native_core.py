"""The core in C against its oracle in Python: the same events, bit for bit, on random machines and traces."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.contended_builders import LAYERS, VERSIONS, contended_context, random_cost_model
from tests.support.sim_builders import Cost, allocation, context, trace
from veltair.compiler.frontend.model import LayerBlock
from veltair.machine import c_build as native
from veltair.machine.c_library import CLayoutError
from veltair.machine.costs.block_costs import BlockCosts
from veltair.machine.costs.cost_model import MachineCostModel
from veltair.serving.loop.backend import BackendWrapper, BlockEnd, Command, Resized
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import Allocation, Answer, Context, Resize, Snapshot, Yield
from veltair.serving.loop.query import Ending, Query
from veltair.serving.simulator import native_core
from veltair.serving.simulator.noise import noise_batches
from veltair.serving.simulator.simulator import SensorError, Simulator


@dataclass
class Restless:
    """Starts blocks of any length and version on any free count; resizes, re-versions and yields others.

    Some may draw a part of the memory only, `limited` of them. If it `shares`, all blocks share the cores.
    """

    context: Context
    rng: np.random.Generator
    whole: bool = False
    yields: float = 0.2
    limited: float = 0.0
    shares: bool = False

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        free, rng = snapshot.free_cores, self.rng
        answers: list[Answer] = []
        for running in snapshot.running:
            if running.yields:
                continue
            if rng.random() < self.yields:
                answers.append(Yield(running.query.id))
                continue
            if self.shares or running.cores != running.target_cores or rng.random() < 0.5:
                continue
            cores = int(rng.integers(1, running.cores + free + 1))
            versions = tuple(rng.integers(VERSIONS, size=len(running.block)).tolist())
            answers.append(Resize(running.query.id, cores, versions if rng.random() < 0.5 else None))
            free -= max(0, cores - running.cores)
        for pending in snapshot.pending:
            if not free:
                break
            cores = int(rng.integers(1, (self.context.machine.cores if self.shares else free) + 1))
            model, start = pending.query.model, pending.next_layer
            stop = LAYERS[model] if self.whole else int(rng.integers(start + 1, LAYERS[model] + 1))
            versions = tuple(rng.integers(VERSIONS, size=stop - start).tolist())
            limit = float(rng.uniform(5.0, 60.0)) if rng.random() < self.limited else None
            granted = {"dram_bytes_per_s": limit, "shares_cores": self.shares}
            block = LayerBlock(model, start, stop)
            answers.append(Allocation(pending.query.id, block, versions, cores, **granted))
            free -= 0 if self.shares else cores
        return answers


@dataclass
class Log:
    """A backend that writes down all that another one says."""

    backend: Simulator
    lines: list[Any] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def wait(self) -> Any:
        self.lines.append(self.backend.wait())
        return self.lines[-1]

    def pressure(self) -> float:
        self.lines.append(self.backend.pressure())
        return self.lines[-1]

    def progress(self) -> Mapping[int, int]:
        self.lines.append(dict(self.backend.progress()))
        return self.backend.progress()


def log_of(
    core: str,
    seed: int,
    gap_s: float,
    inputs: Mapping[str, Any],
    by_cost_model: bool,
    drain_s: float,
    **asks: Any,
) -> list[Any]:
    rng = np.random.default_rng(seed)
    served = contended_context(rng)
    cost_model = random_cost_model(rng) if by_cost_model else None
    times = rng.exponential(gap_s, 12).cumsum().tolist()
    queries = [Query(index, "mn"[int(rng.integers(2))], at, 100.0) for index, at in enumerate(times)]
    backend = Simulator(
        queries,
        served,
        noise_batches(queries, served, rng),
        cost_model=cost_model,
        drain_s=drain_s,
        core=core,
        **inputs,
    )
    log = Log(backend)
    policy = Restless(served, np.random.default_rng(seed), **asks)
    for record in serve(Dispatcher(policy, served), log):
        log.lines.append(record)
    return [*log.lines, backend.events]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    gap_s=st.sampled_from([0.0, 0.3, 2.0]),
    by_cost_model=st.booleans(),
    drain_s=st.sampled_from([0.5, 1000.0]),
    inputs=st.fixed_dictionaries(
        {
            "placement": st.sampled_from(["spread", "pinned"]),
            "contention_scale": st.sampled_from([1.0, 0.0, 1.7]),
            "costs": st.builds(
                BlockCosts,
                start_s=st.sampled_from([0.0, 0.1]),
                starts_s=st.sampled_from([{}, {"m": 0.3}]),
                resize_s=st.sampled_from([0.0, 0.05]),
                grant_s=st.sampled_from([0.0, 0.2]),
                join_s=st.sampled_from([0.0, 0.03]),
                yield_s=st.sampled_from([0.0, 0.07]),
                decision_s=st.sampled_from([0.0, 0.04]),
            ),
            "sensor_error": st.sampled_from([None, SensorError(sigma=0.1)]),
        }
    ),
)
def test_both_cores_give_the_same_events_bit_for_bit(seed, gap_s, by_cost_model, drain_s, inputs):
    assert log_of("c", seed, gap_s, inputs, by_cost_model, drain_s) == log_of(
        "python", seed, gap_s, inputs, by_cost_model, drain_s
    )


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    gap_s=st.sampled_from([0.0, 0.3, 2.0]),
    by_cost_model=st.booleans(),
    limited=st.sampled_from([0.0, 0.5]),
    shares=st.booleans(),
    placement=st.sampled_from(["spread", "pinned"]),
    scale=st.sampled_from([1.0, 1.7]),
    costs=st.builds(
        BlockCosts,
        yield_s=st.sampled_from([0.0, 0.07]),
        grant_s=st.sampled_from([0.0, 0.2]),
        oversubscription=st.sampled_from([(), ((1.0, 1.0), (2.0, 1.1), (4.0, 1.5))]),
    ),
)
def test_both_cores_limit_memory_and_share_cores_alike(
    seed, gap_s, by_cost_model, limited, shares, placement, scale, costs
):
    inputs = {"placement": "spread" if shares else placement, "contention_scale": scale, "costs": costs}
    c, python = (
        log_of(core, seed, gap_s, inputs, by_cost_model, 1000.0, limited=limited, shares=shares)
        for core in ("c", "python")
    )
    assert c == python


class Bookkeeper(BackendWrapper):
    """Writes down the layers of each block that ended, and sees that no core is held twice."""

    def __init__(self, backend: Simulator, cores: int) -> None:
        super().__init__(backend)
        self.layers: dict[int, list[int]] = {}
        self._first: dict[int, int] = {}
        self._held: dict[int, int] = {}
        self._cores = cores

    def do(self, command: Command) -> None:
        super().do(command)
        if isinstance(command, Allocation):
            self._first[command.query_id] = command.block.start
            self._held[command.query_id] = command.cores
        elif isinstance(command, Resize):
            self._held[command.query_id] = max(command.cores, self._held[command.query_id])
        assert sum(self._held.values()) <= self._cores

    def wait(self) -> Any:
        event = super().wait()
        if isinstance(event, BlockEnd):
            first = self._first.pop(event.query_id)
            self.layers.setdefault(event.query_id, []).extend(range(first, event.next_layer))
            del self._held[event.query_id]
        elif isinstance(event, Resized):
            self._held[event.query_id] = event.cores
        return event


@pytest.mark.parametrize("core", ["c", "python"])
@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    gap_s=st.sampled_from([0.0, 0.3, 2.0]),
    yield_s=st.sampled_from([0.0, 0.07]),
    grant_s=st.sampled_from([0.0, 0.2]),
    placement=st.sampled_from(["spread", "pinned"]),
    yields=st.sampled_from([0.2, 1.0]),
)
def test_whoever_yields_every_layer_runs_once_and_in_order(
    core, seed, gap_s, yield_s, grant_s, placement, yields
):
    rng = np.random.default_rng(seed)
    served = contended_context(rng)
    times = rng.exponential(gap_s, 12).cumsum().tolist()
    queries = [Query(index, "mn"[int(rng.integers(2))], at, 100.0) for index, at in enumerate(times)]
    backend = Simulator(
        queries,
        served,
        noise_batches(queries, served, rng),
        drain_s=1e6,
        costs=BlockCosts(yield_s=yield_s, grant_s=grant_s),
        placement=placement,
        core=core,
    )
    books = Bookkeeper(backend, served.machine.cores)
    dispatcher = Dispatcher(Restless(served, np.random.default_rng(seed), yields=yields), served)
    records = list(serve(dispatcher, books))
    assert {record.ending for record in records} == {Ending.SERVED}
    assert books.layers == {query.id: list(range(LAYERS[query.model])) for query in queries}
    assert backend.events == sum(LAYERS[query.model] for query in queries)
    assert dispatcher.free_cores == served.machine.cores


def test_a_cost_model_may_know_versions_that_the_table_lacks():
    rng = np.random.default_rng(3)
    served, cost_model = contended_context(rng), random_cost_model(rng)
    more = {
        name: tuple((*versions, versions[0]) for versions in layers)
        for name, layers in cost_model.layers.items()
    }
    found = []
    for one in (cost_model, MachineCostModel(cost_model.combine, more)):
        costs = {"drain_s": 1000.0}
        queries = [Query(index, "mn"[index % 2], 0.1 * index, 100.0) for index in range(9)]
        noise = noise_batches(queries, served, np.random.default_rng(0))
        backend = Simulator(queries, served, noise, cost_model=one, **costs)
        found.append(list(serve(Dispatcher(Restless(served, np.random.default_rng(1)), served), backend)))
    assert found[0] == found[1]


def test_where_the_c_core_cannot_be_built_the_python_one_serves_with_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "COMPILER", "no-such-compiler")
    served = context({"m": [[Cost(1.0)]]})
    costs, arrivals = {"drain_s": 10.0}, trace((0.0, "m"))
    noise = noise_batches(arrivals, served, np.random.default_rng(0))
    with pytest.warns(
        RuntimeWarning, match=r"simulating in Python, .* no-such-compiler was not found on PATH"
    ):
        backend = Simulator(arrivals, served, noise, build_dir=tmp_path, **costs)
    backend.wait()
    backend.do(allocation(0, "m", (0, 1), 1))
    assert backend.wait().time_s == 1.0


def test_the_c_core_is_compiled_into_the_folder_that_is_given(tmp_path: Path):
    served = context({"m": [[Cost(1.0)]]})
    with warnings.catch_warnings(action="error"):
        Simulator(
            [],
            served,
            iter(()),
            drain_s=1.0,
            build_dir=tmp_path,
        )
    assert [path.suffix for path in tmp_path.iterdir()] == [".so"]


def test_another_core_is_refused():
    served = context({"m": [[Cost(1.0)]]})
    with pytest.raises(ValueError, match="the simulator's core is 'fortran'; give one of c, python"):
        Simulator(
            [],
            served,
            iter(()),
            drain_s=1.0,
            core="fortran",
        )


def test_another_number_of_cache_sizes_than_the_headers_is_refused(monkeypatch, c_build: Path):
    monkeypatch.setattr(native_core, "CURVE_BYTES", native_core.CURVE_BYTES[:-1])
    with pytest.raises(CLayoutError, match=r"CACHE_SIZES of simulator_core\.h is 9, but there are 8"):
        native_core.load.__wrapped__(c_build)
