import os
from functools import partial
from pathlib import Path

import pytest

from tests.support.table_builders import make_config, write_made_up_tables
from veltair.evaluation.benchmarks.decisions import decision_figures, decisions_us
from veltair.evaluation.benchmarks.engine import block_figures, busy_figures
from veltair.evaluation.benchmarks.workers import ratio_figures, worker_figures
from veltair.evaluation.experiment.scenario import Scenario, policy_maker, scenario_of
from veltair.evaluation.measurement.run import make_samples
from veltair.machine.costs.folder import read_tables
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import Launch

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]


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
