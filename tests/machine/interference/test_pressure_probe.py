import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.machine.c_build import FLAGS, compile_c
from veltair.machine.interference import pressure_probe
from veltair.machine.interference.pressure_probe import (
    SOURCE,
    ProbePair,
    ProbeSizes,
    lost_shares,
    probe_sizes,
    quiet_seconds,
)
from veltair.machine.interference.source import InterferenceUnavailableError, PressureFit
from veltair.machine.topology.topology import Machine

CORE = min(os.sched_getaffinity(0))
TINY = ProbeSizes(l3_bytes=2**16, dram_read_bytes=2**14, dram_bytes=2**18)
PERIOD_S = 0.0002
SECONDS = st.floats(1e-9, 1e3)


@pytest.fixture(scope="module")
def build_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("build")


def make_machine(*groups: tuple[int, ...], l2: int = 2**20, l3: int = 2**25) -> Machine:
    return Machine("made-up", 1, groups or ((CORE,),), l2, l3, 1e11, 1e10, validated=False)


@pytest.fixture
def probe(build_dir: Path) -> Iterator[ProbePair]:
    source = ProbePair(make_machine(), build_dir, period_s=PERIOD_S, sizes=TINY)
    source.start()
    yield source
    source.stop()


@pytest.mark.parametrize(
    ("l2", "l3", "l3_bytes", "dram_bytes"),
    [
        (2**19, 2**25, 2**21, 2**27),  # Zen 3
        (2**19, 2**24, 2**21, 2**26),  # Zen 2
        (2**21, 2**23, 2**22, 2**26),  # as much L2 as an L3 can hold: half of the L3
    ],
)
def test_sizes_follow_the_caches(l2: int, l3: int, l3_bytes: int, dram_bytes: int) -> None:
    assert probe_sizes(make_machine(l2=l2, l3=l3)) == ProbeSizes(l3_bytes, 2**20, dram_bytes)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 2, 1)])
def test_sizes_that_cannot_be_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="give sizes above 0"):
        ProbeSizes(*sizes)


def test_a_read_of_twice_its_quiet_time_lost_half_of_its_speed() -> None:
    assert lost_shares((1.0, 2.0, 3.0), (2.0, 2.0, 4.0)) == (0.5, 0.0, 0.25)


def test_a_read_faster_than_in_quiet_lost_nothing() -> None:
    assert lost_shares((1.0, 1.0), (0.5, 0.0)) == (0.0, 0.0)


@given(SECONDS, SECONDS, SECONDS)
def test_shares_lie_between_0_and_1_and_grow_with_the_time(quiet: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0.0 <= lost_shares((quiet,), (low,))[0] <= lost_shares((quiet,), (high,))[0] <= 1.0


def test_quiet_seconds_are_the_medians_and_tell_the_widest_spread() -> None:
    # Quartiles of 1 … 5 are 2 and 4: (4 - 2) / 3.
    assert quiet_seconds([(float(k), 7.0) for k in range(1, 6)]) == ((3.0, 7.0), pytest.approx(2 / 3))


def test_it_reads_three_shares_from_0_to_1(probe: ProbePair) -> None:
    reading = probe.reading()
    assert len(reading) == len(ProbePair.features) == 3
    assert all(0.0 <= share <= 1.0 for share in reading)
    assert 0.0 <= probe.pressure() <= 1.0


def test_memory_slower_than_in_quiet_is_pressure(probe: ProbePair) -> None:
    # As if the quiet machine had been 1000 times as fast.
    probe.quiet[CORE] = tuple(seconds / 1000 for seconds in probe.quiet[CORE])
    by_s = time.monotonic() + 30.0
    while probe.pressure() <= 0.9 and time.monotonic() < by_s:
        time.sleep(PERIOD_S)
    assert probe.pressure() > 0.9


def test_the_fit_maps_the_reading(build_dir: Path) -> None:
    fit = PressureFit("probe", ProbePair.features, (0.0, 0.0, 0.0), 0.375, 0.9, 0.1)
    source = ProbePair(make_machine(), build_dir, period_s=PERIOD_S, sizes=TINY, fit=fit)
    source.start()
    try:
        assert source.pressure() == 0.375
    finally:
        source.stop()


def test_stopping_ends_the_thread_and_twice_is_harmless(probe: ProbePair) -> None:
    probe.stop()
    probe.stop()
    assert not any(thread.name == "probe" for thread in threading.enumerate())
    with pytest.raises(RuntimeError, match="start the source"):
        probe.pressure()


def test_a_second_start_keeps_the_quiet_times(probe: ProbePair) -> None:
    quiet = dict(probe.quiet)
    probe.stop()
    probe.start()
    assert probe.quiet == quiet
    assert len(probe.reading()) == 3


def test_the_caller_of_start_stays_where_it_may_run(probe: ProbePair) -> None:
    allowed = os.sched_getaffinity(0)
    probe.stop()
    probe.start()
    assert os.sched_getaffinity(0) == allowed


def test_it_visits_one_core_of_each_cache_group_in_turn(
    build_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visited: list[int] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: visited.extend(cores))
    machine = make_machine((0, 1), (2, 3), (4, 5))
    source = ProbePair(machine, build_dir, period_s=PERIOD_S, sizes=TINY)
    source.start()
    source.stop()
    assert visited[:6] == [1, 3, 5, 1, 3, 5]
    assert set(source.quiet) == {1, 3, 5}


def test_a_core_that_cannot_be_had_is_unavailable(build_dir: Path) -> None:
    source = ProbePair(make_machine((100000,)), build_dir, period_s=PERIOD_S, sizes=TINY)
    with pytest.raises(
        InterferenceUnavailableError, match=r"cores \(100000,\) cannot work: .*Invalid argument"
    ):
        source.start()


def test_memory_that_cannot_be_had_is_unavailable(build_dir: Path) -> None:
    sizes = ProbeSizes(2**16, 2**14, 2**60)
    source = ProbePair(make_machine(), build_dir, period_s=PERIOD_S, sizes=sizes)
    with pytest.raises(InterferenceUnavailableError, match="no 1099511627776 MiB of memory"):
        source.start()


def test_without_a_compiler_it_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InterferenceUnavailableError, match="the probe cannot be built: gcc was not found"):
        ProbePair(make_machine(), tmp_path).start()


def test_a_failure_while_it_runs_makes_pressure_an_error(
    probe: ProbePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("made up")

    monkeypatch.setattr(pressure_probe, "lost_shares", fail)
    assert probe._thread is not None
    probe._thread.join()
    with pytest.raises(RuntimeError, match="cannot work: made up"):
        probe.pressure()


def test_a_machine_that_is_not_quiet_is_told(
    probe: ProbePair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    probe.stop()
    probe.quiet.clear()
    monkeypatch.setattr(pressure_probe, "quiet_seconds", lambda taken: (taken[0], 0.5))
    with caplog.at_level(logging.WARNING):
        probe.start()
    assert "spread by 50 %: something else runs here" in caplog.text


@pytest.mark.parametrize(
    ("cores", "period_s", "said"),
    [((), 0.1, "give some of"), ((7,), 0.1, "give some of"), (None, 0.0, "above 0")],
)
def test_values_that_cannot_be_are_refused(
    cores: tuple[int, ...] | None, period_s: float, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        ProbePair(make_machine(), tmp_path, cores=cores, period_s=period_s)


def test_the_dram_read_moves_through_its_buffer_and_stays_inside(build_dir: Path) -> None:
    reads: list[tuple[int, int]] = []

    class Functions:
        @staticmethod
        def read_lines(index: int, size: int) -> float:
            reads.append((index, size))
            return 1.0

    # A buffer of two and a half reads: the third one begins earlier, so that it ends with the buffer.
    source = ProbePair(make_machine(), build_dir, period_s=1e-6, sizes=ProbeSizes(100, 10, 25))
    indices = itertools.cycle(range(0, 25, 10))
    visits = source._visits(SimpleNamespace(functions=Functions), [5000, 1000], indices)  # type: ignore[arg-type]
    thread = threading.Thread(target=lambda: list(itertools.islice(visits, 4)))
    thread.start()
    thread.join()
    assert reads[:3] == [(5000, 100), (5000, 100), (1000, 10)]
    assert [index for index, size in reads if size == 10] == [1000, 1010, 1015, 1000]


def test_the_source_compiles_without_warnings_for_any_64_bit_processor(tmp_path: Path) -> None:
    flags = [flag for flag in FLAGS if flag != "-march=native"]
    assert compile_c(SOURCE, tmp_path, (*flags, "-Werror", "-shared", "-fPIC")).exists()
