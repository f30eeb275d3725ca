"""Work that is done again and again beside the requests, and that no fault ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from onward.service import telemetry

CANCEL_INTERVAL_S = 0.1


@asynccontextmanager
async def repeated(work: Callable[[], Awaitable[None]], interval: timedelta) -> AsyncIterator[None]:
    """Do `work` at once and then `interval` after each time it ended, until the block ends.

    A fault is logged and counted under the name of `work`, and the next time follows.
    """
    task = asyncio.create_task(_for_ever(work, interval.total_seconds()))
    try:
        yield
    finally:
        while not task.done():
            task.cancel()  # again and again: asyncio.wait_for swallows one that comes as what it waits for ends
            await asyncio.wait({task}, timeout=CANCEL_INTERVAL_S)


async def _for_ever(work: Callable[[], Awaitable[None]], interval_s: float) -> None:
    while True:
        try:
            await work()
        except Exception as error:  # work that ends unseen would leave an old state for ever
            telemetry.background_failed(work.__qualname__, error)
        await asyncio.sleep(interval_s)
