from dataclasses import replace
from math import inf, isnan

import pytest

from veltair.compiler.footprint.residency import Residency
from veltair.compiler.footprint.traffic import Tiling
from veltair.machine.costs.cost_model import (
    LayerCostModel,
    MachineCostModel,
    block_bytes_per_s,
    block_l3_bytes,
    predicted_seconds,
    spread_dram_bytes,
)
from veltair.machine.costs.cost_model_fit import (
    EXPONENTS,
    Fit,
    ScaledLayer,
    compute_seconds,
    fit_cost_model,
    fits_by_exponent,
    modelled_seconds,
)
from veltair.machine.topology.topology import Machine

MACHINE = Machine(
    "made-up", 1, ((0, 1, 2, 3),), 2**18, 10**6, 1e9, 3e6, validated=False, core_dram_bytes_per_s=1e6
)


def cells_of(exponent: float, cores: int = 4) -> list[ScaledLayer]:
    """Return cells whose times are the law's with an exponent; computing and moving take about as long."""
    found = []
    for number in range(8):
        tiling = Tiling(parallelism=8, blocking_bytes=50_000, compulsory_bytes=100_000 * (number + 1))
        cost_model = LayerCostModel(0.4, tiling)
        solo_s, there_s = (
            predicted_seconds(
                cost_model,
                MachineCostModel(exponent, {}),
                MACHINE,
                count,
                spread_dram_bytes(tiling, MACHINE, count, block_l3_bytes(MACHINE, count)),
                block_bytes_per_s(MACHINE, count),
                count,
            )
            for count in (1, cores)
        )
        found.append(ScaledLayer("net", number, 0, tiling, 0, solo_s, cores, there_s))
    return found


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_the_exponent_that_made_the_times_is_found_again(exponent: float) -> None:
    fit = fit_cost_model(cells_of(exponent), MACHINE)
    assert fit.exponent == exponent
    assert fit.fork_s == pytest.approx({4: 0.0}, abs=1e-12)


def test_the_cost_of_a_fork_is_found_beside_the_exponent() -> None:
    cells = [replace(cell, seconds=cell.seconds + 0.02) for cell in cells_of(1.5)]
    fit = fit_cost_model(cells, MACHINE)
    assert fit.exponent == 1.5
    assert fit.fork_s == pytest.approx({4: 0.02})
    for cell in cells:
        assert modelled_seconds(cell, MACHINE, fit) == pytest.approx(cell.seconds)


def test_a_layer_of_one_iteration_pays_no_fork() -> None:
    serial = Tiling(parallelism=1, blocking_bytes=1, compulsory_bytes=1)
    cell = ScaledLayer("net", 0, 0, serial, 0, 1.0, 4, 1.0)
    assert modelled_seconds(cell, MACHINE, Fit(1.0, {4: 0.5}, 0.0)) == pytest.approx(1.0, rel=1e-5)


def test_the_model_given_the_time_on_one_core_expects_that_time_there() -> None:
    for cell in cells_of(1.5, cores=1):
        assert modelled_seconds(cell, MACHINE, Fit(1.5, {}, 0.0)) == pytest.approx(cell.solo_s)


def test_computing_is_net_of_moving_and_at_the_clock_of_all_cores() -> None:
    tiling = Tiling(parallelism=8, blocking_bytes=1000, compulsory_bytes=100_000)  # 0.1 s at 1e6 bytes/s
    boosted = Machine(
        *("made-up", 1, ((0, 1, 2, 3),), 2**18, 10**6, 1e9, 3e6, False),
        clock_factors=((1, 2.0), (4, 1.0)),
        core_dram_bytes_per_s=1e6,
    )
    assert compute_seconds(tiling, 0, 0.5, boosted, 1.0) == pytest.approx(2.0 * 0.4)


def test_computing_takes_at_least_the_multiply_adds_at_the_peak() -> None:
    tiling = Tiling(parallelism=8, blocking_bytes=1000, compulsory_bytes=900_000)  # 0.9 s of moving
    assert compute_seconds(tiling, 10**8, 0.8, MACHINE, 1.0) == pytest.approx(0.2)


def test_without_times_on_several_cores_nothing_is_told_of_the_exponent() -> None:
    fit = fit_cost_model(cells_of(1.0, cores=1), MACHINE)
    assert (fit.exponent, fit.fork_s, isnan(fit.error)) == (inf, {}, True)
    assert fits_by_exponent([], MACHINE) == {}


def test_what_a_layer_found_when_it_was_measured_is_no_memory_time() -> None:
    # 10^6 bytes at 10^6 bytes/s; all but a tenth was there, and of an older query nothing.
    found = Residency((900_000,) * 10, (100_000,) * 10, (0,) * 10)
    alone, resident = (Tiling(1, 10**6, 10**6, residency=known) for known in (None, found))
    seconds = [compute_seconds(tiling, 0, 3.0, MACHINE, 1.0) for tiling in (alone, resident)]
    assert seconds == [pytest.approx(2.0), pytest.approx(2.9)]


def test_a_layer_that_finds_all_takes_no_less_than_its_bytes_through_two_loads_a_cycle() -> None:
    written = Residency((0,) * 10, (0,) * 10, (10**6,) * 10)
    tiling = Tiling(1, 10**6, 10**6, residency=written)
    # All of 1 s is memory time. A core that computes 10^9 FLOP/s loads 2 x 10^9 bytes/s.
    assert compute_seconds(tiling, 0, 1.0, MACHINE, 1.0) == pytest.approx(10**6 / (2 * 10**9))
