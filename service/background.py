"""Work that is done again and again beside the requests, and that no fault ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from service import telemetry


@asynccontextmanager
async def repeated(work: Callable[[], Awaitable[None]], interval: timedelta) -> AsyncIterator[None]:
    """Do `work` at once and then `interval` after each time it ended, until the block ends.

    A fault is logged and counted under the name of `work`, and the next time follows.
    """
    task = asyncio.create_task(_for_ever(work, interval.total_seconds()))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _for_ever(work: Callable[[], Awaitable[None]], interval_s: float) -> None:
    while True:
        try:
            await work()
        except Exception as error:  # work that ends unseen would leave an old state for ever
            telemetry.background_failed(work.__qualname__, error)
        await asyncio.sleep(interval_s)
