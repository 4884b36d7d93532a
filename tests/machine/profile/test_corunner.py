import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from veltair.machine.c_build import FLAGS, NativeBuildError, compile_c
from veltair.machine.probes.probe import SOURCE as PROBE_SOURCE
from veltair.machine.profile.corunner import SOURCE, AchievedPressure, CoRunner, CoRunnerLoad, load_at
from veltair.machine.topology.topology import Machine

L3_BYTES = 4 * 2**20
CORE = max(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def build_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("build")


def make_machine(*cores: int, dram_bytes_per_s: float = 1e9) -> Machine:
    """Slow memory and little L3, so that one core reaches any level at once."""
    return Machine(
        "made-up", 1, (cores or (CORE,),), 2**20, L3_BYTES, 1e11, dram_bytes_per_s, validated=False
    )


def test_level_0_starts_nothing_and_achieves_nothing(tmp_path: Path) -> None:
    with CoRunner(0.0, CORE, make_machine(), tmp_path / "build") as corunner:
        assert not (tmp_path / "build").exists()
    assert corunner.achieved.pressure == 0.0


def test_it_achieves_a_pressure_between_nothing_and_all(build_dir: Path) -> None:
    with CoRunner(0.5, CORE, make_machine(), build_dir) as corunner:
        warm_s = processor_seconds(corunner.pid)
        while processor_seconds(corunner.pid) < warm_s + 0.05:
            time.sleep(0.01)
    achieved = corunner.achieved
    assert 0.0 < achieved.dram_share <= 1.0
    assert 0.0 < achieved.l3_share <= 0.5
    assert achieved.pressure == max(achieved.dram_share, achieved.l3_share)


def processor_seconds(pid: int) -> float:
    """How long the process has run: on a busy machine less than has passed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_it_never_streams_much_more_than_its_level(build_dir: Path) -> None:
    # Slices lost to other processes are not made up for, so this bound holds on a busy machine too.
    with CoRunner(0.25, CORE, make_machine(dram_bytes_per_s=4e8), build_dir) as corunner:
        time.sleep(0.2)
    assert corunner.achieved.dram_share < 0.3


def test_it_runs_on_its_core_only_and_ends_with_the_context(build_dir: Path) -> None:
    with CoRunner(0.25, CORE, make_machine(), build_dir) as corunner:
        pid = corunner.pid
        assert os.sched_getaffinity(pid) == {CORE}
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(RuntimeError, match="read `pid` in the with block"):
        _ = corunner.pid


def test_achieved_is_not_known_before_it_is_stopped(build_dir: Path) -> None:
    with (
        CoRunner(0.25, CORE, make_machine(), build_dir) as corunner,
        pytest.raises(RuntimeError, match="read `achieved` after the with block"),
    ):
        _ = corunner.achieved


def test_an_error_in_the_context_passes_and_stops_it(build_dir: Path) -> None:
    corunner = CoRunner(0.25, CORE, make_machine(), build_dir)
    with pytest.raises(ZeroDivisionError), corunner:
        pid = corunner.pid
        raise ZeroDivisionError
    assert not Path(f"/proc/{pid}").exists()


def test_its_early_death_is_an_error(build_dir: Path) -> None:
    with (
        pytest.raises(RuntimeError, match=r"ended early \(exit status -9\).*measure again"),
        CoRunner(0.25, CORE, make_machine(), build_dir) as corunner,
    ):
        os.kill(corunner.pid, signal.SIGKILL)
        os.waitid(os.P_PID, corunner.pid, os.WEXITED | os.WNOWAIT)


def test_a_core_that_cannot_be_had_is_an_error(build_dir: Path) -> None:
    with (
        pytest.raises(RuntimeError, match=r"core 100000 did not start \(exit status 1\): cannot pin"),
        CoRunner(0.25, 100000, make_machine(100000), build_dir),
    ):
        pass


def test_it_dies_with_its_parent(build_dir: Path, tmp_path: Path) -> None:
    # A parent killed outright cannot stop it: the kernel must.
    machine = make_machine()
    script = (
        "import os, signal\nfrom pathlib import Path\n"
        "from veltair.machine.profile.corunner import CoRunner\n"
        "from veltair.machine.topology.topology import Machine\n"
        f"machine = Machine('made-up', 1, {machine.cache_groups}, 1, {L3_BYTES}, 1.0, 1e9, validated=False)\n"
        f"with CoRunner(0.25, {CORE}, machine, Path({str(build_dir)!r})) as corunner:\n"
        f"    Path({str(tmp_path / 'pid')!r}).write_text(str(corunner.pid))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = SOURCE.parent.parent.parent
    subprocess.run([sys.executable, "-c", script], cwd=root, check=False)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(200):
        if not is_running(pid):
            break
        time.sleep(0.02)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    """Whether the process runs; one that is dead but not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_it_does_not_start_for_a_parent_that_is_gone(build_dir: Path) -> None:
    program = compile_c(SOURCE, build_dir)
    done = subprocess.run([program, str(CORE), "0", "0", "0", "0", "-1"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (3, b"")


@pytest.mark.parametrize("level", [-0.1, 1.1, float("nan")])
def test_a_level_outside_0_to_1_is_refused(level: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"give a pressure in \[0, 1\]"):
        CoRunner(level, CORE, make_machine(), tmp_path)


def test_a_core_of_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="made-up has no core 7"):
        CoRunner(0.5, 7, make_machine(0, 1), tmp_path)


def test_without_a_compiler_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NativeBuildError, match="install it"), CoRunner(0.5, CORE, make_machine(), tmp_path):
        pass


@pytest.mark.parametrize("shares", [(-0.1, 0.0), (0.0, 1.1)])
def test_shares_outside_0_to_1_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        AchievedPressure(*shares)


@pytest.mark.parametrize("source", [SOURCE, PROBE_SOURCE], ids=lambda path: path.name)
def test_the_sources_compile_without_warnings_for_any_64_bit_processor(source: Path, tmp_path: Path) -> None:
    flags = [flag for flag in FLAGS if flag != "-march=native"]
    assert compile_c(source, tmp_path, (*flags, "-Werror")).exists()


def achieved_by(load: CoRunnerLoad, build_dir: Path) -> AchievedPressure:
    """What a co-runner does of a load in 50 ms of its processor's time."""
    with CoRunner(1.0, CORE, make_machine(), build_dir, load) as corunner:
        warm_s = processor_seconds(corunner.pid)
        while processor_seconds(corunner.pid) < warm_s + 0.05:
            time.sleep(0.01)
    return corunner.achieved


def test_a_level_is_that_share_of_the_cache_and_of_the_bandwidth() -> None:
    assert load_at(0.25, make_machine(dram_bytes_per_s=8e8)) == CoRunnerLoad(L3_BYTES // 4, 2e8, 0.25)


def test_a_load_of_footprint_alone_streams_nothing(build_dir: Path) -> None:
    achieved = achieved_by(CoRunnerLoad(L3_BYTES, 0.0), build_dir)
    assert achieved.dram_share == 0.0
    assert achieved.l3_share > 0.0


@pytest.mark.parametrize("writes", [False, True])
def test_a_load_of_a_stream_alone_touches_nothing(writes: bool, build_dir: Path) -> None:
    achieved = achieved_by(CoRunnerLoad(0, 1e9, writes=writes), build_dir)
    assert achieved.dram_share > 0.0
    assert achieved.l3_share == 0.0


@pytest.mark.parametrize("values", [(-1, 0.0, 1.0), (0, -1.0, 1.0), (0, float("nan"), 1.0), (0, 0.0, 1.1)])
def test_a_load_that_cannot_be_is_refused(values: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="bytes are not negative"):
        CoRunnerLoad(*values)
