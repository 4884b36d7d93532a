"""The lock that lets one measurement at a time run on this machine."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def machine_to_itself(lock: Path) -> Iterator[None]:
    """Hold a lock that no second run on this machine can hold, while something is measured."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another measurement on this machine to end ({lock})", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def measuring_lock() -> Path:
    """Return the lock that all runs of this user share."""
    return Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp")) / f"veltair-{os.getuid()}.lock"
