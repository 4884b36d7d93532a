import os
from dataclasses import replace
from pathlib import Path

import pytest

from veltair.compiler.select.shipped import host_flags
from veltair.machine.probes import probe as module
from veltair.machine.probes.probe import HostSpeeds, probe
from veltair.machine.topology.topology import Topology

CORES = tuple(sorted(os.sched_getaffinity(0)))
SPEEDS = HostSpeeds((1e11, 1.2e11), (2e10, 3e10, 1e10), (5e10, 4e10, 6e10))


def test_a_peak_is_the_best_repeat_and_a_bandwidth_the_median() -> None:
    assert (SPEEDS.core_peak_flops, SPEEDS.core_dram_bytes_per_s, SPEEDS.dram_bytes_per_s) == (
        1.2e11,
        2e10,
        5e10,
    )


def test_all_cores_together_are_never_slower_than_one() -> None:
    assert HostSpeeds((1e11,), (3e10,), (2e10,)).dram_bytes_per_s == 3e10


def test_a_peak_is_that_of_a_core_while_all_are_at_work() -> None:
    speeds = replace(SPEEDS, flops_by_cores=((1, (9e10, 12e10)), (2, (2e11,)), (4, (3.9e11, 4e11))))
    assert speeds.core_peak_flops == 1e11
    assert speeds.clock_factors == ((1, 1.2), (2, 1.0), (4, 1.0))


def test_cores_that_seem_faster_for_being_more_count_as_equally_fast() -> None:
    speeds = replace(SPEEDS, flops_by_cores=((1, (0.9e11,)), (2, (2.2e11,)), (4, (4e11,))))
    assert dict(speeds.clock_factors) == pytest.approx({1: 1.1, 2: 1.1, 4: 1.0})


def test_without_several_core_counts_the_clock_is_one() -> None:
    assert SPEEDS.clock_factors == ((1, 1.0),)


def test_the_probe_returns_a_speed_for_each_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.01)
    monkeypatch.setattr(module, "REPEATS", 2)
    speeds = probe(tmp_path, Topology((CORES,), 2**19, 2**22, ()))
    for repeats in (
        speeds.core_flops,
        speeds.core_dram_bytes_per_s_repeats,
        speeds.dram_bytes_per_s_repeats,
    ):
        assert len(repeats) == 2
        assert all(1e6 < speed < 1e14 for speed in repeats)
    assert [cores for cores, _ in speeds.flops_by_cores][-1] == len(CORES)
    assert speeds.vector_bits in (128, 256, 512)


@pytest.mark.skipif("avx2" not in host_flags(), reason="this CPU has no AVX2")
def test_a_probe_for_a_cpu_without_avx512_uses_vectors_of_256_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.01)
    monkeypatch.setattr(module, "REPEATS", 1)
    assert probe(tmp_path, Topology((CORES[:1],), 2**19, 2**22, ()), "x86-64-v3").vector_bits == 256


def test_a_probe_on_a_core_that_cannot_be_had_says_which(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"the probe failed on cores 100000 \(exit status 1\)"):
        probe(tmp_path, Topology(((100000, 100001),), 2**19, 2**22, ()))
