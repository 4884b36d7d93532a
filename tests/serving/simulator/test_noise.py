"""Noise of whole traces: the draws of one query after the other."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import make_context, make_machine, make_model, random_queries
from tests.support.serving.policy_cases import traffic_context
from veltair.machine.costs.block_costs import BlockCosts
from veltair.machine.costs.table import CostTable
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import Context
from veltair.serving.loop.query import Query
from veltair.serving.policies.presets import make_policy
from veltair.serving.simulator.noise import noise_batches, noise_rows, service_factors
from veltair.serving.simulator.simulator import Simulator

FACTORS = (0.8, 1.0, 1.0, 1.3)


def one_by_one(arrivals: list[Query], site: Context, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    repeats = {name: len(site.costs.model(name).noise) for name in site.models}
    layers = {name: len(model.layers) for name, model in site.models.items()}
    return [rng.integers(repeats[query.model], size=layers[query.model]).tolist() for query in arrivals]


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 50))
def test_batches_hold_what_a_draw_for_each_query_gives(count: int, seed: int, size: int) -> None:
    site = traffic_context(seed, factors=FACTORS)
    arrivals = random_queries(site, count, seed)
    batches = list(noise_batches(arrivals, site, np.random.default_rng(seed), size=size))
    rows = [row.tolist() for row in noise_rows(iter(batches), site)]
    assert rows == one_by_one(arrivals, site, seed)
    assert [query for found in batches for query in found.queries] == arrivals
    assert all(len(found.queries) <= size for found in batches)
    names = list(site.models)
    assert [names[index] for found in batches for index in found.models] == [
        query.model for query in arrivals
    ]


def test_indices_beyond_the_layers_of_a_model_are_zero() -> None:
    site = traffic_context(1, factors=FACTORS)
    layers = [len(model.layers) for model in site.models.values()]
    assert len(set(layers)) > 1
    (batch,) = noise_batches(random_queries(site, 60, 1), site, np.random.default_rng(1))
    for model, noise_index in zip(batch.models, batch.noise_index, strict=True):
        assert not noise_index[layers[model] :].any()
    assert batch.noise_index.any()


def test_the_factors_are_those_that_the_simulator_charges() -> None:
    # Queries far apart on a machine of their own take the sum of their layers' times and factors.
    alone = make_context(
        {"net": np.array([[[[1.0]]], [[[2.0]]]])},
        [make_model(macs=(1, 1))],
        cores=(1,),
        machine=make_machine(1),
    )
    once = alone.costs.repeats
    rows = pd.concat(
        [
            once.assign(repeat=repeat, seconds=once["seconds"] * factor)
            for repeat, factor in enumerate(FACTORS)
        ]
    )
    site = replace(alone, costs=CostTable(rows, "toy"))
    arrivals = [Query(number, "net", 10.0 * number, 100.0) for number in range(20)]
    rng = np.random.default_rng(7)
    noise = noise_batches(arrivals, site, rng)
    simulator = Simulator(arrivals, site, noise, drain_s=100.0, costs=BlockCosts(start_s=1e-5))
    policy = make_policy("baselines.fcfs_min:FcfsMin", site, "paper", {})
    latencies_s = [record.latency_s - 1e-5 for record in serve(Dispatcher(policy, site), simulator)]
    drawn = service_factors(noise_batches(arrivals, site, np.random.default_rng(7)), site)
    assert [float(factors @ [1.0, 2.0]) for factors in drawn] == pytest.approx(latencies_s)
