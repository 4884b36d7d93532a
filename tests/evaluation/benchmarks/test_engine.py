import os
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support.table_builders import make_config, write_made_up_tables
from veltair.compiler.frontend.model import Layer
from veltair.evaluation.benchmarks.decisions import decision_figures, decisions_us
from veltair.evaluation.benchmarks.engine import block_figures, busy_figures
from veltair.evaluation.benchmarks.native_engine import dispatch_figures, gaps_us, idle_figure
from veltair.evaluation.benchmarks.workers import ratio_figures, worker_figures
from veltair.evaluation.experiment.scenario import Scenario, make_scenario, policy_maker, scenario_of
from veltair.evaluation.measurement.run import make_samples
from veltair.machine.costs.folder import Tables, read_tables
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import Launch
from veltair.serving.engine.log_entries import Entry, EntryKind

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]


@pytest.fixture
def launch(c_build: Path) -> Launch:
    return partial(NativePool, build_dir=c_build)


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine("toy", 1, (CORES,), 2**19, 2**24, 1e11, 1e11, validated=True)


@pytest.fixture(scope="module")
def scenario(tiny_loaded: LoadedModel, machine: Machine) -> Scenario:
    """The tiny network on the cores there are, with a table made up."""
    rows = [
        ("tiny", layer, version, cores, 0.0, 0, 1e-4 * (1 + version) / cores, 1.0, 1.0)
        for layer in range(len(tiny_loaded.plan.layers))
        for version in range(len(tiny_loaded.plan.of(layer)))
        for cores in range(1, len(CORES) + 1)
    ]
    layers = tuple(Layer(layer.name, layer.structure, layer.macs) for layer in tiny_loaded.plan.layers)
    costs = CostTable(pd.DataFrame(rows, columns=list(COLUMNS)), "toy")
    return make_scenario(
        Tables(machine, {"tiny": layers}, {}, costs), {"tiny": 10.0}, 1.0, "mix", {"tiny": 1}
    )


def told(kind: EntryKind, core: int, end_s: float, busy_s: float = 0.0, first: int = 1) -> Entry:
    """Return the start or the end of a block of query `core` + 10, led by this core."""
    held = np.array([core], np.uint16).tobytes()
    blank = Entry(kind, end_s, busy_s, *(0.0,) * 4, core + 10, *(0,) * 8, held)
    return blank._replace(first=first, layer=first + 1)


def block(core: int, end_s: float, busy_s: float, first: int = 1) -> list[Entry]:
    start = told(EntryKind.BLOCK_STARTED, core, end_s - busy_s, first=first)
    return [start, told(EntryKind.BLOCK_ENDED, core, end_s, busy_s)]


def test_a_gap_lies_between_an_end_and_the_next_start_on_the_same_core() -> None:
    blocks = [block(0, 1.0, 0.5), block(1, 1.1, 0.1), block(0, 1.5, 0.4), block(1, 2.0, 0.7)]
    assert gaps_us(chain(*blocks), copies=True) == [pytest.approx(0.1e6), pytest.approx(0.2e6)]


def test_a_block_that_begins_with_its_sample_gives_no_gap() -> None:
    blocks = [block(0, 1.0, 0.5), block(0, 1.5, 0.4, first=0), block(0, 2.0, 0.4)]
    assert gaps_us(chain(*blocks), copies=True) == [pytest.approx(0.1e6)]
    assert len(gaps_us(chain(*blocks), copies=False)) == 2


def test_the_next_block_starts_after_the_end_of_the_one_before(
    launch: Launch, machine: Machine, c_build: Path
) -> None:
    figures = dispatch_figures(launch, machine, c_build, queries=50, arrivals=8)
    names = ("dispatch", "dispatch_python")
    assert set(figures) == {"arrival_ratio", *(f"{name}_{p}_us" for name in names for p in ("p50", "p99"))}
    for name in names:
        assert 0 < figures[f"{name}_p50_us"].value <= figures[f"{name}_p99_us"].value
        assert "49 blocks" in figures[f"{name}_p50_us"].unit
    assert figures["arrival_ratio"].value > 0
    assert len(figures["arrival_ratio"].samples) == 4


def test_gaps_are_found_while_loadgen_keeps_every_core_busy(
    scenario: Scenario, tiny_loaded: LoadedModel, c_build: Path
) -> None:
    models = {"tiny": tiny_loaded}
    samples = make_samples(models, scenario, seed=1)
    config = make_config()
    figures = busy_figures(
        config, scenario, models, samples, partial(NativePool, build_dir=c_build), seconds=0.2
    )
    assert set(figures) == {"dispatch_busy_p50_us", "dispatch_busy_p99_us"}
    assert figures["dispatch_busy_p99_us"].value > 0


def test_the_workers_have_all_of_their_figures(
    tiny_loaded: LoadedModel, machine: Machine, c_build: Path
) -> None:
    figures = worker_figures({"tiny": tiny_loaded}, {"tiny": (0,) * 6}, machine, c_build, rounds=2)
    names = {"kernel_overhead_us", "grant_us", "resize_cost_us", "start_cost_us", "yield_us"}
    names |= {"pool_vs_tvm", "pool_vs_tvm_tiny"}
    if machine.cores > 1:
        names |= {"co_tenancy_ratio", "co_tenancy_ratio_tiny"}
    assert set(figures) == names
    # What an adoption adds is a difference of times, and noise may hide it.
    assert all(figure.value > 0 for name, figure in figures.items() if name != "resize_cost_us")


def test_a_query_through_the_engine_is_compared_with_bare_kernels(
    scenario: Scenario, tiny_loaded: LoadedModel, launch: Launch
) -> None:
    models = {"tiny": tiny_loaded}
    figures = block_figures(
        models, make_samples(models, scenario, seed=1), scenario.context, launch, rounds=2
    )
    assert len(figures["block_ratio_tiny"].samples) == len(figures["layerwise_ratio_tiny"].samples) == 2
    assert figures["block_ratio"].value == pytest.approx(figures["block_ratio_tiny"].value)


def test_the_figure_of_several_models_is_their_geometric_mean() -> None:
    figures = ratio_figures("speed", "ratio", {"one": [1.0, 2.0, 9.0], "other": [8.0]})
    assert (figures["speed_one"].value, figures["speed"].value) == (2.0, pytest.approx(4.0))


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    """Two made-up models on four cores."""
    tables = write_made_up_tables(tmp_path_factory.mktemp("tables"))
    return scenario_of(make_config(), read_tables(tables), "mix")


def test_decisions_are_timed_while_as_many_queries_wait_as_named(made_up: Scenario) -> None:
    taken_us = decisions_us(policy_maker(make_config(), "FcfsMin"), made_up, 10)
    # Of a burst of 20, nine to eleven wait at three arrivals, and again while they are served.
    assert len(taken_us) >= 6
    assert all(took_us > 0 for took_us in taken_us)


def test_the_slowest_policy_gives_the_figure_of_a_decision(made_up: Scenario) -> None:
    figures = decision_figures(make_config(), made_up)
    for waiting in (10, 200):
        by_policy = [figures[f"decision_us_{waiting}_{name}"].value for name in ("FcfsMin", "Planaria")]
        assert figures[f"decision_us_{waiting}"].value == max(by_policy)


def test_an_engine_that_waits_uses_less_than_all_of_a_core(
    launch: Launch, machine: Machine, c_build: Path
) -> None:
    assert 0 <= idle_figure(launch, machine, c_build, seconds=0.05).value < len(CORES) + 1
