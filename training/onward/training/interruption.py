"""Ctrl-C as a request: a training ends after the running step, with a checkpoint to go on from."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption:
    """Whether someone asked the training to end; true after the first SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Turn SIGINT and SIGTERM into a request that is met after the running step; a second one ends at once."""
    asked = Interruption()

    def ask(signal_number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.requested = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
