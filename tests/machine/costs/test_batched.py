from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.frontend.model import Layer
from veltair.machine.costs.batched import batched_name, with_batches
from veltair.machine.costs.derivation import derive
from veltair.machine.costs.folder import Tables
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.machine.topology.topology import Machine

# Compute-bound: all 64 bytes, of which 24 are weights, fit a cache of 400 bytes.
COMPUTE = Tiling(parallelism=6, blocking_bytes=8, compulsory_bytes=64)


def machine(name: str, groups: tuple[tuple[int, ...], ...], flops: float, bytes_per_s: float) -> Machine:
    return Machine(name, 1, groups, 2**18, 400, flops, bytes_per_s, validated=False)


HOST = machine("host", ((0, 1),), 1e9, 1e9)
# Half as fast a core as the host's, 4 cores, 800 bytes of L3, 1000 bytes/s.
THERE = machine("there", ((0, 1), (2, 3)), 5e8, 1000.0)


def host_tables(weight_bytes: int | None = 24, cores: tuple[int, ...] = (1,)) -> Tables:
    rows = [
        ("net", 0, 0, count, 0.0, repeat, seconds / count, 64.0, 64.0)
        for count in cores
        for repeat, seconds in enumerate((1.1, 1.2, 1.5))
    ]
    costs = CostTable(pd.DataFrame(rows, columns=list(COLUMNS)), "host")
    layers = {"net": (Layer("conv", "s0", 5, weight_bytes),)}
    return Tables(HOST, layers, {"net": ((COMPUTE,),)}, costs)


def times(tables: Tables, name: str) -> list[float]:
    """Return seconds alone by core count."""
    found: list[float] = tables.costs.model(name).seconds[0, 0, :, 0].tolist()
    return found


def test_a_batch_has_the_rounds_of_all_its_iterations() -> None:
    tables = with_batches(derive(host_tables(), THERE), {"net": (1, 2, 4)})
    # One query computes 2.4 s on one core, in 6 iterations: 6, 3, 2 and 2 rounds of 0.4 s.
    assert times(tables, "net") == pytest.approx([2.4, 1.2, 0.8, 0.8])
    # Two have 12 iterations: 12, 6, 4, 3; four have 24: 24, 12, 8, 6. Their bytes take less than that.
    assert times(tables, "net x2") == pytest.approx([4.8, 2.4, 1.6, 1.2])
    assert times(tables, "net x4") == pytest.approx([9.6, 4.8, 3.2, 2.4])


def test_a_batch_is_the_cost_model_and_the_tables_at_either_clock() -> None:
    tables = with_batches(derive(host_tables(), THERE), {"net": (1, 2)})
    assert tables.cost_model is not None and tables.busy_costs is not None
    (one,), (two,) = (tables.cost_model.layers[name][0] for name in ("net", "net x2"))
    assert two.compute_s == 2 * one.compute_s
    assert two.tiling.compulsory_bytes == 24 + 2 * 40
    assert tables.tilings["net x2"] == ((two.tiling,),)
    assert tables.costs.model("net x2").footprint_bytes.tolist() == [[104.0]]
    assert tables.costs.model("net x2").traffic_bytes[0, 0, 0, 0] == pytest.approx(104.0)
    assert tables.busy_costs.model("net x2").seconds.shape == tables.busy_costs.model("net").seconds.shape
    (layer,) = tables.layers["net x2"]
    assert (layer.macs, layer.structure) == (10, "s0 x2")


def test_repeats_of_a_batch_spread_as_those_of_a_query() -> None:
    tables = with_batches(derive(host_tables(), THERE), {"net": (1, 2)})
    one, two = (tables.costs.model(name).noise for name in ("net", "net x2"))
    np.testing.assert_allclose(two, one)


def test_measured_times_are_multiplied_by_what_the_fitted_cost_model_makes_of_a_batch() -> None:
    tables = with_batches(host_tables(cores=(1, 2)), {"net": (1, 2)})
    assert tables.cost_model is None
    # 1.2 s on one core and 0.6 s on two; of two queries 12 iterations: twice as long.
    assert times(tables, "net x2") == pytest.approx([2.4, 1.2])


def test_without_batches_tables_stay_as_they_are() -> None:
    tables = host_tables(None)
    assert with_batches(tables, {"net": (1,)}) is tables


def test_tables_that_do_not_know_the_weights_are_refused() -> None:
    with pytest.raises(
        LookupError, match=r"tables of net do not say .* weights layer conv has.*models.net.b"
    ):
        with_batches(derive(host_tables(None), THERE), {"net": (1, 2)})


def test_a_batch_is_no_slower_than_its_queries_one_by_one() -> None:
    tables = with_batches(derive(host_tables(), replace(THERE, launch_s=0.05)), {"net": (1, 8)})
    one, eight = (np.array(times(tables, name)) for name in ("net", batched_name("net", 8)))
    assert (eight <= 8 * one * (1 + 1e-9)).all()
