"""Periodic background work that continues after exceptions."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from onward.service import telemetry

CANCEL_INTERVAL_S = 0.1


@asynccontextmanager
async def repeated(work: Callable[[], Awaitable[None]], interval: timedelta) -> AsyncIterator[None]:
    """Call `work` at once, and again `interval` after each call has returned, until the block ends.

    An exception is logged and counted under the qualified name of `work`; the calls continue.
    """
    task = asyncio.create_task(_repeat(work, interval.total_seconds()))
    try:
        yield
    finally:
        while not task.done():
            task.cancel()  # repeated: asyncio.wait_for swallows a cancellation that comes as its awaitable completes
            await asyncio.wait({task}, timeout=CANCEL_INTERVAL_S)


async def _repeat(work: Callable[[], Awaitable[None]], interval_s: float) -> None:
    while True:
        try:
            await work()
        except Exception as error:  # if the task ended here unnoticed, its state would be stale for good
            telemetry.background_failed(work.__qualname__, error)
        await asyncio.sleep(interval_s)
