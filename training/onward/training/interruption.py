"""Graceful interruption: after Ctrl-C a training ends with the current step and a checkpoint to resume from."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption:
    """Whether the training was asked to end; true after the first SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self.requested = False
        self.requested_at = 0.0

    def request(self) -> None:
        """Ask the training to end after the current step."""
        self.requested, self.requested_at = True, time.monotonic()

    def __bool__(self) -> bool:
        return self.requested


@contextmanager
def interruption(*, repeats_s: float = 0.0) -> Iterator[Interruption]:
    """Turn SIGINT and SIGTERM into a request to end after the current step; a second signal ends at once.

    Signals within `repeats_s` seconds after the first mean the same: a launcher passes on what the terminal sent too.
    """
    state = Interruption()

    def request(signal_number: int, frame: object) -> None:
        if not state:
            state.request()
        elif time.monotonic() - state.requested_at >= repeats_s:
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield state
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
