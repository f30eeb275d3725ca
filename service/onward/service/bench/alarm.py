"""An alarm for an event loop that goes off on time: the loops' own timers count whole milliseconds."""

import asyncio
import ctypes
import os
import struct
import sys
from collections.abc import Callable
from typing import Protocol


class Alarm(Protocol):
    """Calls its function once, at the time that was set last."""

    def set(self, wait_s: float) -> None:
        """Go off in so many seconds, above 0."""
        ...

    def close(self) -> None:
        """Go off no more."""
        ...


class LoopAlarm:
    """By the loop's timers."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None

    def set(self, wait_s: float) -> None:
        """Go off in so many seconds, above 0."""
        self.close()
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._ring)

    def close(self) -> None:
        """Go off no more."""
        if self._timer is not None:
            self._timer.cancel()


class KernelAlarm:
    """By a timer of Linux that the loop waits for as for a socket; good to some microseconds."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._timer < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._timer, self._rang)

    def set(self, wait_s: float) -> None:
        """Go off in so many seconds, above 0."""
        whole, part = divmod(max(1, int(wait_s * 1e9)), 1_000_000_000)
        self._libc.timerfd_settime(self._timer, 0, struct.pack("@qqqq", 0, 0, whole, part), None)

    def close(self) -> None:
        """Go off no more."""
        self._loop.remove_reader(self._timer)
        os.close(self._timer)

    def _rang(self) -> None:
        try:
            os.read(self._timer, 8)
        except BlockingIOError:  # it was set anew meanwhile
            return
        self._ring()


_CLOCK_MONOTONIC = 1


def make_alarm(ring: Callable[[], None]) -> Alarm:
    """The best to be had for the running loop."""
    return KernelAlarm(ring) if sys.platform == "linux" else LoopAlarm(ring)
