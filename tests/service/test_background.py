"""Background work is repeated, whatever exceptions it raises, until its block ends."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest
import structlog.testing

from onward.service.background import on_demand, repeated

NO_INTERVAL = timedelta(microseconds=1)


class Work:
    """Counts its calls, fails the first ones, and sets `done` after enough of them."""

    def __init__(self, *, failures: int, expected_calls: int) -> None:
        self.calls = 0
        self.done = asyncio.Event()
        self._failures = failures
        self._expected_calls = expected_calls

    async def do(self) -> None:
        self.calls += 1
        if self.calls == self._expected_calls:
            self.done.set()
        if self.calls <= self._failures:
            raise MemoryError


async def test_work_continues_after_exceptions_which_are_logged_once() -> None:
    work = Work(failures=3, expected_calls=5)
    with structlog.testing.capture_logs() as lines:
        async with repeated(work.do, NO_INTERVAL):
            await work.done.wait()
    failed = [line["work"] for line in lines if line["event"] == "background work failed"]
    assert failed == ["Work.do"]


async def test_with_a_spread_intervals_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    slept_s: list[float] = []

    async def sleep(seconds: float) -> None:
        slept_s.append(seconds)
        await pause(0)

    pause = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", sleep)
    work = Work(failures=0, expected_calls=100)
    async with repeated(work.do, timedelta(seconds=5), spread=timedelta(seconds=5)):
        await work.done.wait()
    assert 5 <= min(slept_s) < 6
    assert 9 < max(slept_s) <= 10


async def test_work_ends_with_its_block() -> None:
    work = Work(failures=0, expected_calls=2)
    async with repeated(work.do, NO_INTERVAL):
        await work.done.wait()
    calls = work.calls
    await asyncio.sleep(0.01)
    assert work.calls == calls


async def test_work_ends_with_its_block_even_if_a_cancellation_is_swallowed() -> None:
    started = asyncio.Event()

    async def swallow_the_first() -> None:
        if started.is_set():
            return
        started.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    async with asyncio.timeout(5), repeated(swallow_the_first, NO_INTERVAL):
        await started.wait()


async def test_work_on_demand_is_done_once_for_all_that_want_it_and_goes_on_after_a_failure() -> None:
    wanted = asyncio.Event()
    work = Work(failures=1, expected_calls=2)
    async with on_demand(wanted, work.do, timedelta(0)):
        for expected in (1, 2):
            await asyncio.sleep(0.01)
            assert work.calls == expected - 1
            for _ in range(3):
                wanted.set()
            await asyncio.sleep(0.01)
    assert work.calls == 2
