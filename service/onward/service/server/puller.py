"""Pull bundles of an address into a folder: beside the workers of a service, or as a process of its own."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from onward.bundle.mirror import Mirror, Pulled, PullProblem
from onward.service import telemetry

FIRST_PULL_TIMEOUT_S = 30.0
"""How long a start waits for the first look at the address; the service starts without a bundle then."""

STOP_TIMEOUT_S = 5.0


class Puller:
    """Lets a mirror follow its address, and reports what happens: each problem once, and its end."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._problem: PullProblem | None = None
        self._since_s = 0.0

    def pull(self) -> Pulled:
        """Look at the address once."""
        pulled = self._mirror.pull()
        if pulled.bundle is not None:
            telemetry.bundle_pulled(pulled.bundle, str(self._mirror.address), pulled.seconds)
        if pulled.problem is not None and pulled.problem != self._problem:
            telemetry.pull_failed(pulled.problem.bundle, pulled.problem.reason)
        if self._problem is None:
            self._since_s = time.monotonic()
        elif pulled.problem is None:
            telemetry.pull_mended(time.monotonic() - self._since_s)
        self._problem = pulled.problem
        return pulled

    def run(self, every: timedelta, stop: threading.Event, looked: threading.Event) -> None:
        """Look at the address again and again until `stop` is set; `looked` is set after the first time."""
        while not stop.is_set():
            try:
                self.pull()
            except Exception as error:  # if the thread ended here unnoticed, the bundle would be stale for good
                telemetry.background_failed(type(self).__qualname__, error)
            looked.set()
            stop.wait(every.total_seconds())


@contextmanager
def pulling(mirror: Mirror, every: timedelta) -> Iterator[None]:
    """Let a mirror follow its address, in a thread, in this block; the block begins after the first look.

    Raises MirrorError.
    """
    stop, looked = threading.Event(), threading.Event()
    with mirror.held():
        thread = threading.Thread(target=Puller(mirror).run, args=(every, stop, looked), name="puller", daemon=True)
        thread.start()
        looked.wait(FIRST_PULL_TIMEOUT_S)
        try:
            yield
        finally:
            stop.set()
            thread.join(STOP_TIMEOUT_S)
