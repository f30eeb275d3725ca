"""Terminate a child process when its parent ends, even if the parent was killed.

As a program, run with the parent's process id and a command, it executes the command as such a child: a process with
threads cannot safely run Python in a child before the command starts.
"""

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


if __name__ == "__main__":
    terminate_with_parent(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606  # the command of the parent
