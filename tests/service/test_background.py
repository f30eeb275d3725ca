"""Work that is repeated whatever happens to it."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import structlog.testing

from onward.service.background import repeated

AT_ONCE = timedelta(microseconds=1)


class Work:
    """Fails the first times, tells when it was done often enough, and counts."""

    def __init__(self, *, failures: int, enough: int) -> None:
        self.calls = 0
        self.done = asyncio.Event()
        self._failures = failures
        self._enough = enough

    async def do(self) -> None:
        self.calls += 1
        if self.calls == self._enough:
            self.done.set()
        if self.calls <= self._failures:
            raise MemoryError


async def test_work_outlives_its_faults_and_each_is_logged() -> None:
    work = Work(failures=3, enough=5)
    with structlog.testing.capture_logs() as lines:
        async with repeated(work.do, AT_ONCE):
            await work.done.wait()
    failed = [line["work"] for line in lines if line["event"] == "background work failed"]
    assert failed == ["Work.do"] * 3


async def test_work_ends_with_its_block() -> None:
    work = Work(failures=0, enough=2)
    async with repeated(work.do, AT_ONCE):
        await work.done.wait()
    calls = work.calls
    await asyncio.sleep(0.01)
    assert work.calls == calls


async def test_work_ends_with_its_block_though_a_library_swallows_a_cancellation() -> None:
    begun = asyncio.Event()

    async def swallow_the_first() -> None:
        if begun.is_set():
            return
        begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    async with asyncio.timeout(5), repeated(swallow_the_first, AT_ONCE):
        await begun.wait()
