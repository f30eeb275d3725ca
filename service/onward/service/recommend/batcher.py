"""Micro-batching: queries that arrive in the same iteration of the event loop are answered together.

A batch costs less than its queries one by one. Batching adds no delay: a batch holds only what has already arrived.
See decision 18.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
Item = TypeVar("Item", bound="Pending[Any]")


class Pending(Generic[Result]):
    """Something whose `result` is awaited."""

    __slots__ = ("result",)

    def __init__(self) -> None:
        self.result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def resolve(self, outcome: Result | Exception) -> None:
        """Set the result or the exception, unless nobody waits for it any more."""
        if self.result.done():
            return
        if isinstance(outcome, Exception):
            self.result.set_exception(outcome)
        else:
            self.result.set_result(outcome)


class Batcher(Generic[Item]):
    """Collects pending items into batches for a function that resolves every item of a batch."""

    def __init__(self, process: Callable[[Sequence[Item]], Awaitable[None]], *, max_batch: int) -> None:
        self._process = process
        self._max_batch = max_batch
        self._queue: list[Item] = []
        self._running: set[asyncio.Task[None]] = set()

    def submit(self, item: Item) -> None:
        """Queue an item for the next batch."""
        if not self._queue:
            self._start_batch()
        self._queue.append(item)

    def _start_batch(self) -> None:
        """Start a task that takes its batch from the queue when it runs, in the next iteration of the event loop."""
        task = asyncio.get_running_loop().create_task(self._run(), context=Context())  # of no single request
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self) -> None:
        """Process the oldest items; if more are queued, start those in the next iteration of the event loop."""
        batch, self._queue = self._queue[: self._max_batch], self._queue[self._max_batch :]
        if self._queue:
            self._start_batch()
        try:
            await self._process(batch)
        except Exception as error:  # every caller of the batch gets it
            for item in batch:
                item.resolve(error)
