"""Who gets a core first: whoever issues queries or takes them in, before kernels; kernels like any program.

Kernels fill every core, so LoadGen must be let in at once when its next query is due. Kernels at the lowest
priority instead would do for that, but any other program would then take their cores whole, and unseen.
"""

import ctypes
import os
import struct
from enum import StrEnum

# Linux reads the slice of a normal thread from 6.12 on; older ones take the call and leave it.
SLICE_NS = 100_000
_SCHED_SETATTR = 314  # the number of the system call on x86-64: the C library has no function for it
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # sched_attr: size, policy, flags, nice, priority, then three times


class Promptness(StrEnum):
    """How a thread is put before others, the best that was allowed."""

    REAL_TIME = "real time (SCHED_RR)"
    SHORT_SLICE = "short time slices (sched_setattr)"
    NORMAL = "like any program"


def run_promptly(thread: int = 0) -> Promptness:
    """Let a thread of any process, by its id, run before kernels, but not those it will start; 0 is this one.

    Real time needs root, CAP_SYS_NICE or a limit on it (`ulimit -r`); returns what was allowed.
    """
    # In turns, and without the threads that it starts: LoadGen's spin for one another, and would for ever.
    try:
        os.sched_setscheduler(thread, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        return Promptness.SHORT_SLICE if _shorten_slice(thread) else Promptness.NORMAL
    return Promptness.REAL_TIME


def _shorten_slice(thread: int) -> bool:
    given = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, 0, 0, SLICE_NS, 0, 0)
    result: int = ctypes.CDLL(None, use_errno=True).syscall(_SCHED_SETATTR, thread, given, 0)
    return result == 0
