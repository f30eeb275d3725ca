"""Graceful interruption: after Ctrl-C a training ends with the current step and a checkpoint to resume from."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption:
    """Whether the training was asked to end; true after the first SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Turn SIGINT and SIGTERM into a request to end after the current step; a second signal ends at once."""
    state = Interruption()

    def request(signal_number: int, frame: object) -> None:
        if state:
            raise KeyboardInterrupt
        state.requested = True

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield state
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
