"""One timer gives up each wait at its own deadline."""

import asyncio
from datetime import timedelta

import pytest

from service.deadlines import Deadlines

SOON, LATE = timedelta(milliseconds=30), timedelta(minutes=1)


async def test_a_wait_that_ends_in_time_gives_what_it_waited_for() -> None:
    deadlines = Deadlines(LATE)
    assert await deadlines.keep(asyncio.sleep(0, "done"), deadlines.from_now_s()) == "done"


async def test_waits_are_given_up_each_at_its_own_deadline() -> None:
    deadlines, late = Deadlines(SOON), Deadlines(LATE)
    begun_s = asyncio.get_running_loop().time()

    async def wait(seconds: float) -> float:
        await asyncio.sleep(seconds)
        with pytest.raises(TimeoutError):
            await deadlines.keep(asyncio.Event().wait(), deadlines.from_now_s())
        return asyncio.get_running_loop().time() - begun_s - seconds

    waited_s = await asyncio.gather(*(wait(0.01 * number) for number in range(5)))
    assert min(waited_s) >= SOON.total_seconds()
    assert await late.keep(asyncio.sleep(0.05, "done"), late.from_now_s()) == "done"


async def test_an_earlier_deadline_than_that_of_all_who_wait_is_kept() -> None:
    deadlines = Deadlines(LATE)
    waiting = asyncio.create_task(deadlines.keep(asyncio.Event().wait(), deadlines.from_now_s()))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await deadlines.keep(asyncio.Event().wait(), asyncio.get_running_loop().time() + 0.02)
    assert not waiting.done()
    waiting.cancel()


async def test_a_deadline_that_has_passed_is_missed_at_once() -> None:
    deadlines = Deadlines(LATE)
    with pytest.raises(TimeoutError):
        await deadlines.keep(asyncio.Event().wait(), asyncio.get_running_loop().time() - 1)


async def test_a_task_that_is_cancelled_is_cancelled() -> None:
    deadlines = Deadlines(LATE)
    waiting = asyncio.create_task(deadlines.keep(asyncio.Event().wait(), deadlines.from_now_s()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_what_the_wait_raises_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("a fault")

    deadlines = Deadlines(LATE)
    with pytest.raises(ValueError, match="a fault"):
        await deadlines.keep(fail(), deadlines.from_now_s())


async def test_a_task_that_missed_one_deadline_waits_again() -> None:
    deadlines = Deadlines(SOON)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await deadlines.keep(asyncio.Event().wait(), deadlines.from_now_s())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
