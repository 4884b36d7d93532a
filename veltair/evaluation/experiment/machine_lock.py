"""The lock that lets one measurement at a time run on this machine."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RUNTIME = "XDG_RUNTIME_DIR"


@contextmanager
def machine_to_itself(lock: Path) -> Iterator[None]:
    """Hold a lock that no second run on this machine can hold, while something is measured."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another measurement on this machine to end ({lock})", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def measuring_lock() -> Path:
    """Return the lock that all runs of this user share.

    A folder that the environment names may be gone or another user's, as after `su` or in a container: then
    the folder for temporary files has it.
    """
    named = Path(os.environ.get(RUNTIME, ""))
    usable = named.is_absolute() and _is_own(named)
    return (named if usable else Path(tempfile.gettempdir())) / f"veltair-{os.getuid()}.lock"


def _is_own(folder: Path) -> bool:
    try:
        return (
            folder.is_dir() and folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK | os.X_OK)
        )
    except OSError:
        return False
