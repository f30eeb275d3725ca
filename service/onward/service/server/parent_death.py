"""Terminate a child process when its parent ends, even if the parent was killed."""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def terminate_with_parent() -> None:
    """Have Linux send this process SIGTERM when its parent ends; on other systems this does nothing."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
