"""Terminate a child process when its parent ends, even if the parent was killed."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def terminate_with_parent(parent_pid: int) -> None:
    """Have Linux send this process SIGTERM when its parent ends, or at once if it has ended already.

    On other systems this does nothing.
    """
    if _libc is None:
        return
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGTERM)
