"""A child process that does not outlive its parent, even where the parent is killed."""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_parent() -> None:
    """Have Linux send this process SIGTERM when its parent ends; nothing of the kind exists elsewhere."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
