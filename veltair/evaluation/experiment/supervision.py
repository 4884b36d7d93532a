"""A process that only waits for the one that works, so that a crash of kernels ends in a message too."""

import ctypes
import os
import signal
import sys
from pathlib import Path

from veltair.machine.workers.crash_notes import read_notes

_PR_SET_PDEATHSIG = 1
_supervised = False  # whether this process is one that another waits for
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class CrashError(RuntimeError):
    """The working process was killed; the message says by what, and where its workers were."""


def supervise(notes: Path) -> None:
    """Go on in a new process, while this one waits for its end and then ends alike.

    It returns in the new process only. Call it before there are threads and heavy imports. `notes` is where
    the workers write what they are at (`NativeGang`); it is gone afterwards. In the old process this raises
    SystemExit with the exit status of the new one, or CrashError if that was killed by a signal. The new
    process is killed if the old one ends first.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    if (child := os.fork()) == 0:
        _end_with(parent)
        return
    for number in _PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(child, number))
    _, status = os.waitpid(child, 0)
    try:
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            raise CrashError(_told(-code, notes))
    finally:
        notes.unlink(missing_ok=True)
    raise SystemExit(code)


def end_if_supervised(message: str) -> None:
    """Print an error and end the process that `supervise` returned in at once; in any other do nothing.

    Workers may still be in kernels then, which would crash when an orderly end takes their memory away.
    """
    if _supervised:
        print(message, file=sys.__stderr__, flush=True)
        sys.stdout.flush()
        os._exit(1)


def _end_with(parent: int) -> None:
    """Let this process be killed when its parent ends."""
    global _supervised  # noqa: PLW0603 # a fact about this process
    _supervised = True
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before that took effect
        os._exit(1)


def _told(number: int, notes: Path) -> str:
    """Return what is known of a process that a signal ended."""
    name = signal.Signals(number).name
    if number in _PASSED_ON:
        return f"ended by {name}"
    if number == signal.SIGKILL:
        return (
            f"killed by {name}: most likely the machine has no memory left; serve fewer models or set "
            "engine.memory_mb"
        )
    workers = read_notes(notes) if notes.exists() else []
    if not workers:
        return f"the process crashed with {name} while no block ran on our workers"
    return (
        f"a kernel crashed with {name}; the workers were at: {'; '.join(workers)}. Build the model anew: "
        "delete its folder of the builds and run again"
    )
