"""What a process takes from itself before it looks at a stranger's bytes.

Limits of the system hold for the process and all that it starts. Where the system allows it, it also has no
network. It can still read and write what its user can; run the service as a user of its own.
"""

import ctypes
import os
import resource
from pathlib import Path

from veltair.service.keys.builder_keys import BuilderKeys

NICEST = 19
_NEW_NETWORK, _NEW_USER = 0x40000000, 0x10000000
_NO_NEW_PRIVILEGES, _DIE_WITH_PARENT = 38, 1
_SIGKILL = 9


def confine(keys: BuilderKeys) -> bool:
    """Bound this process; return whether it has no network any more.

    A new process of its own group, which nothing but the order was given to, calls it first.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_DIE_WITH_PARENT, _SIGKILL, 0, 0, 0)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    without_network = not libc.unshare(_NEW_NETWORK) or not libc.unshare(_NEW_USER | _NEW_NETWORK)
    os.umask(0o077)
    os.nice(NICEST)
    _limit(resource.RLIMIT_AS, keys.memory_mb * 1e6)
    _limit(resource.RLIMIT_CPU, keys.cpu_seconds)
    _limit(resource.RLIMIT_FSIZE, keys.file_mb * 1e6)
    _limit(resource.RLIMIT_NOFILE, keys.open_files)
    _limit(resource.RLIMIT_NPROC, _own_threads() + keys.processes)
    _limit(resource.RLIMIT_CORE, 0)
    return without_network


def _limit(kind: int, most: float) -> None:
    _, hard = resource.getrlimit(kind)
    value = int(most) if hard == resource.RLIM_INFINITY else min(int(most), hard)
    resource.setrlimit(kind, (value, value))


def _own_threads() -> int:
    """Return how many threads this user has in all: the limit counts them."""
    user, count = os.getuid(), 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if folder.stat().st_uid == user:
                    count += len(list((folder / "task").iterdir()))
            except OSError:
                continue  # it has ended
    return count
