import pytest

from tests.support.compiler.candidates import candidate
from veltair.machine.costs.candidate_costs import modelled_costs
from veltair.machine.topology.described import described
from veltair.machine.topology.topology import Machine


def small_machine() -> Machine:
    # 4 cores, an L3 of 1 MB, 10 FLOP/s a core and 1 MB/s.
    return Machine("small", 2, ((0, 1, 2, 3),), 2**19, 10**6, 10.0, 1e6, validated=False)


def test_a_described_machine_computes_by_peak_and_rounds() -> None:
    # 64 iterations of 1 s together: 32 rounds on 2 cores, 16 on 4, here with half its peak. All data fits.
    one = candidate("conv", 0, 64, 100, 64.0)
    assert modelled_costs(small_machine(), 5.0)(one) == pytest.approx([16.0] * 3 + [8.0])


def test_a_described_machine_waits_for_its_memory_where_that_takes_longer() -> None:
    # A million bytes: one second with all of its bandwidth, two with the half that two cores are left.
    one = candidate("conv", 0, 64, 100, 0.64)
    assert modelled_costs(small_machine(), 10.0)(one) == pytest.approx([1.0, 2.0, 2.0, 1.0])


def test_without_a_known_peak_the_cores_count_as_equally_fast() -> None:
    one = candidate("conv", 0, 64, 100, 64.0)
    assert modelled_costs(small_machine(), 0.0)(one) == modelled_costs(small_machine(), 10.0)(one)


def test_the_paper_s_machine_is_judged_at_its_core_unit_and_its_doublings() -> None:
    one = candidate("conv", 0, 10**6, 100, 64.0)
    assert len(modelled_costs(described("threadripper-3990x"), 1e11)(one)) == 3 * 3 + 1
