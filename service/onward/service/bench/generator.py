"""A generator of load in a process of its own, so that it shares an interpreter with nothing that it measures."""

import asyncio
import gc
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Any, Self

from onward.service.bench.closed_loop import ClosedLoop
from onward.service.bench.load import Load, OpenLoad
from onward.service.bench.open_loop import OpenLoop
from onward.service.bench.outcome import Outcome, Record


class Generator:
    """Sends one load after another; a context manager that ends its process."""

    def __enter__(self) -> Self:
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=gc.disable)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def ask(self, load: Load) -> Outcome:
        """Send a load and wait until it is over. Raises OSError where nothing answers at its URL."""
        return self._pool.submit(send, load).result()


def send(load: Load) -> Outcome:
    """Send a load from this process."""
    gc.collect()
    if isinstance(load, OpenLoad):
        return Outcome.of(_run(OpenLoop(load)), load.arrivals)
    return Outcome.of(_run(ClosedLoop(load)))


def _run(loop: OpenLoop | ClosedLoop) -> Record:
    if sys.platform == "win32":
        return asyncio.run(_watched(loop))
    import uvloop

    return uvloop.run(_watched(loop))


async def _watched(loop: OpenLoop | ClosedLoop) -> Record:
    """Run to the end, or to the first fault in a callback, which nothing would wait for."""
    faults: list[BaseException] = []
    asking = asyncio.create_task(loop.run())

    def stop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        faults.append(context.get("exception") or RuntimeError(context["message"]))
        asking.cancel()

    asyncio.get_running_loop().set_exception_handler(stop)
    try:
        return await asking
    except asyncio.CancelledError:
        if faults:
            raise faults[0] from None
        raise
