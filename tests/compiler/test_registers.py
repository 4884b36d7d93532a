import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.compiler.registers import AVX2, AVX512, Registers


def test_six_rows_of_two_vectors_feed_the_multipliers_of_avx2_at_every_cycle() -> None:
    # 12 sums take 6 cycles, as do neither its 8 loads nor the latency of 4.
    assert AVX2.efficiency(6, 2) == 1.0


def test_four_sums_wait_for_the_latency_of_their_additions_half_the_time() -> None:
    assert AVX2.efficiency(2, 2) == 0.5


def test_one_vector_of_columns_is_bound_by_its_broadcasts() -> None:
    # 14 sums take 7 cycles, their 1 + 14 loads 7.5.
    assert AVX2.efficiency(14, 1) == pytest.approx(14 / 15)


def test_sums_that_need_more_registers_than_there_are_are_refused() -> None:
    # 7 x 2 sums, 2 vectors of weights and a broadcast are 17 registers.
    assert AVX2.efficiency(7, 2) == 0.0
    assert AVX512.efficiency(7, 2) > 0.0


def test_registers_that_are_all_in_use_are_enough() -> None:
    # 6 x 2 sums, 2 vectors of weights and a broadcast are 15.
    assert Registers(8, 15).efficiency(6, 2) == 1.0
    assert Registers(8, 14).efficiency(6, 2) == 0.0


@given(
    rows=st.integers(1, 40),
    vectors=st.integers(1, 8),
    registers=st.sampled_from([AVX2, AVX512]),
)
def test_no_tile_is_faster_than_its_core(rows: int, vectors: int, registers: Registers) -> None:
    assert 0.0 <= registers.efficiency(rows, vectors) <= 1.0
    # Each sum takes a register, and what it reads takes more.
    assert rows * vectors < registers.count or registers.efficiency(rows, vectors) == 0.0
