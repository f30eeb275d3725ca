"""Processor time and memory are read while threads and child processes start and end."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from onward.service.bench.processes import PROC, cpu_seconds, memory

pytestmark = pytest.mark.skipif(not PROC.exists(), reason="needs /proc")


@pytest.fixture
def restless() -> Iterator[subprocess.Popen[bytes]]:
    """A process that keeps starting threads and children that end at once."""
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


def test_a_thread_or_child_that_ends_during_the_reading_is_no_error(restless: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        cpu_time, memory_now = cpu_seconds(restless.pid), memory(restless.pid)
        assert cpu_time is not None
        assert cpu_time.store_s is None
        assert memory_now is not None
        assert 0 <= memory_now.pss_bytes <= memory_now.rss_bytes


def test_the_time_of_a_busy_process_grows() -> None:
    def used() -> float:
        cpu_time = cpu_seconds(os.getpid())
        assert cpu_time is not None
        return cpu_time.workers_s

    before = used()
    busy = threading.Thread(target=lambda: sum(range(30_000_000)))
    busy.start()
    busy.join()
    assert used() > before
