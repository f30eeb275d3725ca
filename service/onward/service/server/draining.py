"""Stop in two steps: while the service drains it takes requests and is not ready; then it closes and answers the rest.

One worker handles the signals itself. Several are told by their supervisor: by DRAIN to drain, by SIGTERM to close.
"""

import os
import signal
import socket
import time
from collections.abc import Sequence
from datetime import timedelta
from types import FrameType

import uvicorn
from uvicorn.supervisors import Multiprocess

from onward.service import telemetry

DRAIN = signal.SIGUSR1
"""Tells the application of a worker that load balancers are to send it nothing more."""
STEP_S = 0.05


class Stop:
    """When to close: a delay after the first SIGTERM, at once at SIGINT or a second signal.

    It stands in for the threading.Event of uvicorn's supervisor, which a signal handler must not set.
    """

    def __init__(self, delay: timedelta) -> None:
        self.delay = delay
        self._due_s: float | None = None

    @property
    def is_asked(self) -> bool:
        """Whether a signal has come."""
        return self._due_s is not None

    def ask(self, number: int) -> None:
        """Take a signal."""
        waits = number == signal.SIGTERM and not self.is_asked
        self._due_s = time.monotonic() + (self.delay.total_seconds() if waits else 0)

    def set(self) -> None:
        """Close at once."""
        self._due_s = 0

    def is_set(self) -> bool:
        """Return whether it is time to close."""
        return self._due_s is not None and time.monotonic() >= self._due_s

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is time to close, at most for `timeout_s`; return whether it is."""
        end_s = time.monotonic() + timeout_s
        while not self.is_set() and time.monotonic() < end_s:
            time.sleep(STEP_S)
        return self.is_set()


class DrainingServer(uvicorn.Server):
    """The server of a service with one worker. SIGHUP is ignored: nothing could serve while the worker is replaced."""

    def __init__(self, config: uvicorn.Config, stop: Stop) -> None:
        super().__init__(config)
        self._stop = stop
        self._is_told = False
        self._hangups = 0
        signal.signal(signal.SIGHUP, self._hang_up)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM and SIGINT. While it closes, SIGINT gives up the requests in flight."""
        if self.should_exit:
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)
        self._stop.ask(sig)
        signal.raise_signal(DRAIN)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to close; called ten times a second."""
        if self._hangups:
            self._hangups = 0
            telemetry.hangup_ignored()
        if self._stop.is_asked and not self._is_told:
            self._is_told = True
            telemetry.draining(self._stop.delay)
        self.should_exit = self.should_exit or self._stop.is_set()
        return await super().on_tick(counter)

    def _hang_up(self, _signal: int, _frame: FrameType | None) -> None:
        self._hangups += 1


class DrainingWorkers(Multiprocess):
    """The supervisor of several workers. At SIGHUP it replaces them one after another; meanwhile the others serve."""

    def __init__(self, config: uvicorn.Config, sockets: Sequence[socket.socket], stop: Stop) -> None:
        super().__init__(config, list(sockets))
        self.should_exit = stop  # type: ignore[assignment]  # it has the methods that are called
        self._stop = stop
        self._is_told = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle_stop)

    def keep_subprocess_alive(self) -> None:
        """Replace workers that have ended, unless the service is about to stop."""
        if not self._stop.is_asked:
            super().keep_subprocess_alive()
            return
        self._drain()  # again, for workers that were starting
        if not self._is_told:
            self._is_told = True
            telemetry.draining(self._stop.delay)

    def _handle_stop(self, number: int, _frame: FrameType | None) -> None:
        self._stop.ask(number)
        self._drain()

    def _drain(self) -> None:
        for process in self.processes:
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, DRAIN)
