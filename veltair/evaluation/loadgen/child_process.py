"""The process that a client of a run runs in: how it is started, stopped, and what it printed."""

import contextlib
import os
import socket
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from veltair.evaluation.loadgen.client_runs import ClientRun
from veltair.evaluation.loadgen.logs import LOG_FILES, LoadGenError

OUTPUT_FILE = "loadgen_output.txt"


class ChildProcess:
    """The process of a run's client."""

    def __init__(self, run: ClientRun) -> None:
        self._run = run
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_started(self) -> bool:
        """Whether it was started, however it went on."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """Its id. Raises RuntimeError before the start."""
        if self._process is None:
            raise RuntimeError("this LoadGenProcess was not started; call start first")
        return self._process.pid

    def start(self, channel: socket.socket) -> None:
        """Start it with its end of the socket, which is closed here. Raises LoadGenError."""
        run, outdir = self._run, self._run.outdir
        # LoadGen with a missing directory reports nothing and aborts at its exit.
        try:
            outdir.mkdir(parents=True, exist_ok=True)
            for name in LOG_FILES:
                (outdir / name).unlink(missing_ok=True)
            run.prepare()
        except OSError as error:
            raise LoadGenError(
                f"{run.client}'s logs cannot be written into {outdir}: {error.strerror}; give another folder"
            ) from error
        root = str(Path(str(files("veltair"))).resolve().parent)
        search_path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        end = channel.fileno()
        try:
            with (outdir / OUTPUT_FILE).open("wb") as output:
                self._process = subprocess.Popen(
                    # -P, or a package of our name in the working directory would be run instead.
                    [sys.executable, "-P", "-m", run.child, str(end), run.settings_text()],
                    pass_fds=[end],
                    env={**os.environ, "PYTHONPATH": search_path},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
        except OSError as error:
            raise LoadGenError(
                f"{run.client}'s process cannot be started: {error}; repeat the run"
            ) from error
        # Only the child may hold it now: otherwise its death would not end the stream.
        channel.close()

    def exit_code(self, timeout_s: float) -> int | None:
        """Return its exit code, waiting for it; None if it lives on, or never did."""
        if self._process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self._process.returncode

    def kill(self) -> None:
        """End it, and return once it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def output_tail(self) -> str:
        """Return what it printed last, for an error."""
        path = self._run.outdir / OUTPUT_FILE
        lines = path.read_text(errors="replace").strip().splitlines()[-5:] if path.exists() else []
        return f"its output ({path}) ends: {' | '.join(lines)}" if lines else f"it printed nothing ({path})"
