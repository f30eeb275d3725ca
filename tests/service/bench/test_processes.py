"""What processes use is told while their threads and children come and go."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from onward.service.bench.processes import PROC, cpu_seconds, memory

pytestmark = pytest.mark.skipif(not PROC.exists(), reason="only Linux tells")


@pytest.fixture
def restless() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose threads and children each end at once."""
    program = (
        "import subprocess, threading\n"
        "def start():\n"
        "    while True: subprocess.run(['true'])\n"
        "threading.Thread(target=start, daemon=True).start()\n"
        "while True:\n"
        "    thread = threading.Thread(target=int)\n"
        "    thread.start()\n"
        "    thread.join()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        yield process
        process.kill()


def test_what_ends_meanwhile_is_no_fault(restless: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        usage, held = cpu_seconds(restless.pid), memory(restless.pid)
        assert usage is not None
        assert usage.store_s is None
        assert held is not None
        assert 0 <= held.pss_bytes <= held.rss_bytes


def test_the_time_of_a_busy_process_grows() -> None:
    def used() -> float:
        usage = cpu_seconds(os.getpid())
        assert usage is not None
        return usage.workers_s

    before = used()
    busy = threading.Thread(target=lambda: sum(range(30_000_000)))
    busy.start()
    busy.join()
    assert used() > before
