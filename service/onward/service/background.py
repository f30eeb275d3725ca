"""Background work, periodic or on demand, that continues after exceptions."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from random import SystemRandom
from typing import Any

from onward.service import telemetry

CANCEL_INTERVAL_S = 0.1
NO_SPREAD = timedelta(0)


@asynccontextmanager
async def repeated(
    work: Callable[[], Awaitable[None]], interval: timedelta, *, spread: timedelta = NO_SPREAD
) -> AsyncIterator[None]:
    """Call `work` at once, and again `interval` after each call has returned, until the block ends.

    An exception is logged and counted under the qualified name of `work`; the calls continue. With a `spread`, up to as
    much is added to each interval at random, so that many processes do not call at the same time.
    """
    async with _running(_repeat(work, interval.total_seconds(), spread.total_seconds())):
        yield


@asynccontextmanager
async def on_demand(
    wanted: asyncio.Event, work: Callable[[], Awaitable[None]], delay: timedelta
) -> AsyncIterator[None]:
    """Call `work`, `delay` after `wanted` was set, which is then cleared, again and again until the block ends.

    Exceptions are treated as by `repeated`. Unlike that, it costs nothing while there is nothing to do.
    """
    async with _running(_work_on_demand(wanted, work, delay.total_seconds())):
        yield


@asynccontextmanager
async def _running(endless: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine until the block ends."""
    task = asyncio.create_task(endless)
    try:
        yield
    finally:
        while not task.done():
            task.cancel()  # repeated: asyncio.wait_for swallows a cancellation that comes as its awaitable completes
            await asyncio.wait({task}, timeout=CANCEL_INTERVAL_S)


async def _repeat(work: Callable[[], Awaitable[None]], interval_s: float, spread_s: float) -> None:
    while True:
        await _call(work)
        await asyncio.sleep(interval_s + SystemRandom().random() * spread_s)


async def _work_on_demand(wanted: asyncio.Event, work: Callable[[], Awaitable[None]], delay_s: float) -> None:
    while True:
        await wanted.wait()
        await asyncio.sleep(delay_s)
        wanted.clear()
        await _call(work)


async def _call(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except Exception as error:  # if the task ended here unnoticed, its state would be stale for good
        telemetry.background_failed(work.__qualname__, error)
