"""A server of a benchmark, in a process of its own."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

PORT = "{port}"
LONGEST_START_S = 60


@contextmanager
def served(command: Sequence[str], *, ready: str) -> Iterator[tuple[int, int]]:
    """Run a command that serves on the port in place of `{port}`, free before; gives the port and the process id.

    It is ready once it answers at the path `ready`. Raises TimeoutError where it does not.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [part.replace(PORT, str(port)) for part in command],
        env={**os.environ, "SERVICE_LOG_LEVEL": "warning"},
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_until_it_answers(port, ready)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def _wait_until_it_answers(port: int, path: str) -> None:
    give_up_s = time.monotonic() + LONGEST_START_S
    while time.monotonic() < give_up_s:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1):
            return
        time.sleep(0.1)
    raise TimeoutError(f"{path}: no answer after {LONGEST_START_S} s")
