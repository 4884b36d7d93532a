import os
import subprocess
import sys
import time
from math import isnan, nan

import pytest

from veltair.evaluation.measurement import core_use
from veltair.evaluation.measurement.core_use import UNKNOWN, CoreTimes, CoreUse, core_times, read_stat

# user nice system idle iowait irq softirq steal guest guest_nice, in ticks of 10 ms.
STAT = """\
cpu  900 0 90 3000 60 0 0 30 0 0
cpu0 300 0 30 1000 20 0 0 10 0 0
cpu1 600 0 60 2000 40 0 0 20 0 0
intr 7
"""


def test_idle_time_and_steal_are_those_of_the_named_cores() -> None:
    assert read_stat(STAT, [1], ticks_per_s=100) == (20.4, 0.2)
    assert read_stat(STAT, [0, 1], ticks_per_s=100) == (pytest.approx(30.6), pytest.approx(0.3))


@pytest.mark.parametrize("text", ["", "cpu0 1 2 3 4\n", STAT])
def test_a_core_that_the_system_says_nothing_of_makes_all_unknown(text: str) -> None:
    assert all(isnan(seconds) for seconds in read_stat(text, [0, 2], 100))


def test_others_used_what_was_neither_idle_nor_the_run_s_own() -> None:
    # Two cores for 10 s: 12 s idle, 6 s of the run: 2 of 20 s are others'.
    use = CoreTimes(0.0, 100.0, 5.0, 1.0).until(CoreTimes(10.0, 112.0, 5.0, 7.0), cores=2)
    assert use == CoreUse(pytest.approx(0.1), 0.0)


def test_stolen_time_is_others_whether_or_not_the_kernel_counts_it_as_the_run_s_own() -> None:
    # 2 of 20 s stolen: in one kernel's books the run used 6 s, in another's 8.
    for own_s in (6.0, 8.0):
        use = CoreTimes(0.0, 0.0, 0.0, 0.0).until(CoreTimes(10.0, 12.0, 2.0, own_s), cores=2)
        assert use == CoreUse(pytest.approx(0.1), pytest.approx(0.1))


def test_books_that_round_in_the_run_s_favour_give_no_negative_share() -> None:
    use = CoreTimes(0.0, 0.0, 0.0, 0.0).until(CoreTimes(10.0, 12.1, 0.0, 8.0), cores=2)
    assert use == CoreUse(0.0, 0.0)


def test_a_run_of_no_time_or_on_a_silent_system_is_unknown_and_no_problem() -> None:
    begin = CoreTimes(1.0, 0.0, 0.0, 0.0)
    assert begin.until(begin, 2) is UNKNOWN
    assert CoreTimes(0.0, nan, nan, 0.0).until(CoreTimes(1.0, nan, nan, 1.0), 2) is UNKNOWN
    assert UNKNOWN.problem == ""


@pytest.mark.parametrize(("others", "disturbed"), [(0.05, False), (0.051, True)])
def test_a_run_that_shares_more_than_5_percent_of_its_cores_is_disturbed(
    others: float, disturbed: bool
) -> None:
    assert bool(CoreUse(others, 0.01).problem) is disturbed


def test_a_disturbed_run_says_by_how_much_and_what_to_do() -> None:
    assert CoreUse(0.123, 0.1).problem == (
        "others used 12.3% of the cores (stolen by other guests: 10.0%), over 5%: stop other programs, or "
        "measure on a machine that is not shared"
    )


def test_the_time_of_a_process_that_was_waited_for_is_the_run_s_own() -> None:
    cores = sorted(os.sched_getaffinity(0))
    begin, spin = core_times(cores), "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-c", spin], check=True)
    assert core_times(cores).own_s - begin.own_s >= 0.2


def test_the_time_of_this_process_is_its_own_and_that_of_others_is_not() -> None:
    cores = sorted(os.sched_getaffinity(0))
    begin = core_times(cores)
    until_s = time.process_time() + 0.05
    while time.process_time() < until_s:
        pass
    end = core_times(cores)
    assert end.own_s - begin.own_s >= 0.05
    assert end.at_s > begin.at_s


def test_a_system_without_the_file_tells_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    monkeypatch.setattr(core_use, "STAT", core_use.Path(tmp_path) / "none")
    assert isnan(core_times([0]).idle_s)
