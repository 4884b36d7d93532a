import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from veltair.machine.workers.crash_notes import CRASH_NOTE

RUNNING, RESTING = 1, 0
WORKS = """
import os, resource, signal, sys, time
from pathlib import Path
from veltair.evaluation.experiment.script import logged
from veltair.evaluation.experiment.supervision import supervise
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
with logged(sys.argv[1]):
    supervise(Path(sys.argv[2]))
    {work}
"""


def note(query: int, layer: int, state: int, model: str) -> bytes:
    return np.array((query, layer, state, model.encode()), CRASH_NOTE).tobytes()


def supervised(work: str, folder: Path, notes: bytes | None = None) -> subprocess.CompletedProcess[str]:
    """Run a line of Python as the work of a supervised script; return what became of the script."""
    if notes is not None:
        (folder / "notes").write_bytes(notes)
    command = [sys.executable, "-c", WORKS.format(work=work), str(folder / "log"), str(folder / "notes")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_work_that_ends_well_ends_the_script_well_and_is_logged_once(tmp_path: Path) -> None:
    done = supervised("print('done', flush=True)", tmp_path)
    assert (done.returncode, done.stdout, (tmp_path / "log").read_text()) == (0, "done\n", "done\n")


def test_an_error_of_the_work_is_told_once_and_fails_the_script(tmp_path: Path) -> None:
    done = supervised("raise ValueError('no such layer')", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("error: no such layer") == 1


def test_an_error_is_told_alone_where_an_orderly_end_would_crash(tmp_path: Path) -> None:
    crash_late = "import atexit; atexit.register(os.kill, os.getpid(), signal.SIGSEGV)"
    done = supervised(
        f"{crash_late}; raise ValueError('its kernel hangs')", tmp_path, note(1, 0, RUNNING, "x")
    )
    assert done.returncode == 1
    assert done.stderr == f"error: its kernel hangs\n(the trace is in {tmp_path / 'log'})\n"
    assert not (tmp_path / "notes").exists()


def test_a_crash_is_told_with_what_the_workers_were_at(tmp_path: Path) -> None:
    notes = note(7, 3, RUNNING, "resnet50") + note(8, 1, RESTING, "bert")
    done = supervised("os.kill(os.getpid(), signal.SIGSEGV)", tmp_path, notes)
    assert done.returncode == 1
    told = "a kernel crashed with SIGSEGV; the workers were at: worker 0: layer 3 of resnet50, query 7. "
    assert told in done.stderr
    assert "bert" not in done.stderr
    assert not (tmp_path / "notes").exists()


def test_a_crash_beside_no_block_is_not_put_on_a_kernel(tmp_path: Path) -> None:
    done = supervised("os.kill(os.getpid(), signal.SIGBUS)", tmp_path, note(7, 3, RESTING, "resnet50"))
    assert "the process crashed with SIGBUS while no block ran on our workers" in done.stderr


def test_a_process_that_was_killed_is_told_to_lack_memory(tmp_path: Path) -> None:
    done = supervised("os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert "killed by SIGKILL: most likely the machine has no memory left" in done.stderr


def test_work_does_not_outlive_its_script(tmp_path: Path) -> None:
    work = "Path(sys.argv[1] + '.pid').write_text(str(os.getpid())); time.sleep(60)"
    command = [sys.executable, "-c", WORKS.format(work=work), str(tmp_path / "log"), str(tmp_path / "notes")]
    with subprocess.Popen(command) as script:
        worker = first_line(tmp_path / "log.pid")
        script.kill()
    wait_until_gone(worker)


def test_a_signal_that_ends_the_script_ends_the_work_first(tmp_path: Path) -> None:
    work = "Path(sys.argv[1] + '.pid').write_text(str(os.getpid())); time.sleep(60)"
    command = [sys.executable, "-c", WORKS.format(work=work), str(tmp_path / "log"), str(tmp_path / "notes")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as script:
        worker = first_line(tmp_path / "log.pid")
        script.send_signal(signal.SIGTERM)
        _, told = script.communicate()
    assert "error: ended by SIGTERM" in told
    wait_until_gone(worker)


def first_line(path: Path) -> int:
    """Return the number that another process writes, once it has."""
    return until(lambda: int(path.read_text()) if path.exists() and path.read_text() else 0)


def wait_until_gone(pid: int) -> None:
    until(lambda: not Path(f"/proc/{pid}").exists())


def until(look: Callable[[], int]) -> int:
    """Return what is looked for, once it is there. Raises TimeoutError after 30 s."""
    end_s = time.monotonic() + 30
    while not (found := look()):
        if time.monotonic() > end_s:
            raise TimeoutError
        time.sleep(0.01)
    return found
