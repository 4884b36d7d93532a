"""How the processes of a service end with the one that watches over them."""

import ctypes
import os
import signal

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def end_with_parent() -> None:
    """Have this process told to end when the one that started it is gone; a terminal's ^C is that one's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it was gone before that
        os.kill(os.getpid(), signal.SIGTERM)
