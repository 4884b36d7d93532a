import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from veltair.evaluation.remote.server_facts import RemoteError
from veltair.evaluation.runtimes import started_server
from veltair.evaluation.runtimes.started_server import StartedServer, free_port, null_server, rival
from veltair.wire.messages import ModelMetadata

ROOT = Path(__file__).parents[3]


def started(code: str, folder: Path) -> StartedServer:
    return StartedServer("it", [sys.executable, "-c", code], free_port(), ["m"], folder)


def test_a_server_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    server = started("import sys; sys.exit('no such module')", tmp_path)
    with pytest.raises(RemoteError, match="it ended with exit status 1: no such module"), server:
        pass


def test_a_server_that_never_is_ready_is_given_up_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(started_server, "START_S", 0.3)
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(RemoteError, match="it was not ready in 0"), started(code, tmp_path):
        pass
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_rival_without_its_environment_says_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="evaluation rivals mlserver"):
        rival("mlserver", {}, 2, tmp_path, tmp_path)


def test_a_server_ends_with_who_started_it_however_that_ends(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from veltair.evaluation.runtimes.started_server import null_server\n"
        "from veltair.wire.messages import ModelMetadata\n"
        "with null_server([ModelMetadata('m')], Path(sys.argv[1])) as server:\n"
        "    print(server._process.pid, flush=True)\n    input()\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    os.kill(starter.pid, signal.SIGKILL)
    starter.communicate()
    end_s = time.monotonic() + 10
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_a_server_is_gone_after_its_context(tmp_path: Path) -> None:
    with null_server([ModelMetadata("m")], tmp_path) as server:
        process = server._process
        assert process is not None
    assert process.returncode is not None
