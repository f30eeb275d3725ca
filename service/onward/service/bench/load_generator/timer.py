"""One-shot timers for an event loop, with a finer resolution than the loop's own millisecond."""

import asyncio
import ctypes
import os
import struct
import sys
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """Calls a function once, at the time that was set last."""

    def set(self, wait_s: float) -> None:
        """Fire once after `wait_s` seconds, above 0; replaces the time that was set before."""
        ...

    def close(self) -> None:
        """Cancel the timer and release what it holds."""
        ...


class LoopTimer:
    """A timer of the event loop itself, for systems without timerfd."""

    def __init__(self, on_expiry: Callable[[], None]) -> None:
        self._on_expiry = on_expiry
        self._handle: asyncio.TimerHandle | None = None

    def set(self, wait_s: float) -> None:
        """Fire once after `wait_s` seconds, above 0; replaces the time that was set before."""
        self.close()
        self._handle = asyncio.get_running_loop().call_later(wait_s, self._on_expiry)

    def close(self) -> None:
        """Cancel the timer."""
        if self._handle is not None:
            self._handle.cancel()


class KernelTimer:
    """A Linux timerfd that the event loop polls like a socket; accurate to some microseconds."""

    def __init__(self, on_expiry: Callable[[], None]) -> None:
        self._on_expiry = on_expiry
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._expired)

    def set(self, wait_s: float) -> None:
        """Fire once after `wait_s` seconds, above 0; replaces the time that was set before."""
        seconds, nanoseconds = divmod(max(1, int(wait_s * 1e9)), 1_000_000_000)
        self._libc.timerfd_settime(self._descriptor, 0, struct.pack("@qqqq", 0, 0, seconds, nanoseconds), None)

    def close(self) -> None:
        """Cancel the timer and close its file descriptor."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _expired(self) -> None:
        try:
            os.read(self._descriptor, 8)
        except BlockingIOError:  # it was set again after it expired
            return
        self._on_expiry()


_CLOCK_MONOTONIC = 1


def make_timer(on_expiry: Callable[[], None]) -> Timer:
    """Return the most accurate timer that this system has."""
    return KernelTimer(on_expiry) if sys.platform == "linux" else LoopTimer(on_expiry)
