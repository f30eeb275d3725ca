"""End a command by SIGTERM or Ctrl-C, within a second or two also while a library computes."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from onward.training.data.staging import remove_unfinished

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_S = 1.0
"""Time for the main thread to end by itself; it cannot while a library computes."""
SHOW_CURSOR = "\r\x1b[K\x1b[?25h"


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End the process by SIGINT and SIGTERM with one line and exit code 130 or 143, nothing half-written left.

    Python calls its handlers between two steps of the main thread only, and one call of Polars may take minutes. So a
    thread of its own hears of signals too, and ends a process that writes a folder if the main thread does not. While
    other handlers are set, as by `interruption`, they alone count.
    """
    handlers = {number: signal.signal(number, _end) for number in SIGNALS}
    heard, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    earlier = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(heard,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(earlier)
        wakeup.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _end(signal_number: int, frame: object) -> NoReturn:
    sys.stderr.write(_line(signal_number))
    sys.exit(128 + signal_number)


def _line(signal_number: int) -> str:
    return f"error: ended by {signal.Signals(signal_number).name}\n"


def _watch(heard: socket.socket) -> None:
    with heard:
        while received := heard.recv(1):
            number = received[0]
            if number not in SIGNALS or signal.getsignal(number) is not _end:
                continue
            time.sleep(GRACE_S)
            if remove_unfinished():
                start = SHOW_CURSOR if sys.stderr.isatty() else ""
                os.write(sys.stderr.fileno(), (start + _line(number)).encode())
                os._exit(128 + number)
