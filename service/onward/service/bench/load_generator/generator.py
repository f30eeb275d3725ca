"""Runs the load generator in a separate process, so that it shares no interpreter with the caller."""

import asyncio
import gc
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Any, Self

from onward.service.bench.load_generator.closed_loop import ClosedLoop
from onward.service.bench.load_generator.load_result import LoadRecord, LoadResult
from onward.service.bench.load_generator.loads import Load, OpenLoad
from onward.service.bench.load_generator.open_loop import OpenLoop


class LoadGenerator:
    """A process that runs one load at a time; a context manager that ends the process."""

    def __enter__(self) -> Self:
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=gc.disable)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def run(self, load: Load) -> LoadResult:
        """Run a load to its end. Raises OSError if nothing listens at its URL."""
        return self._pool.submit(run_load, load).result()


def run_load(load: Load) -> LoadResult:
    """Run a load from this process."""
    gc.collect()
    if isinstance(load, OpenLoad):
        return LoadResult.of(_run(OpenLoop(load)), load.arrivals)
    return LoadResult.of(_run(ClosedLoop(load)))


def _run(loop: OpenLoop | ClosedLoop) -> LoadRecord:
    if sys.platform == "win32":
        return asyncio.run(_watch(loop))
    import uvloop

    return uvloop.run(_watch(loop))


async def _watch(loop: OpenLoop | ClosedLoop) -> LoadRecord:
    """Run to the end, or raise the first exception of a callback, which asyncio would only log."""
    errors: list[BaseException] = []
    running = asyncio.create_task(loop.run())

    def stop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        errors.append(context.get("exception") or RuntimeError(context["message"]))
        running.cancel()

    asyncio.get_running_loop().set_exception_handler(stop)
    try:
        return await running
    except asyncio.CancelledError:
        if errors:
            raise errors[0] from None
        raise
