"""Deadlines: a time that each of many waits may take, with one timer for all instead of one for each."""

import asyncio
import math
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, TypeVar

Waited = TypeVar("Waited")
AnyTask = asyncio.Task[Any]


class Deadlines:
    """Gives up the waits of tasks, each of which waits for one thing at a time, at their deadlines."""

    def __init__(self, timeout: timedelta) -> None:
        self._timeout_s = timeout.total_seconds()
        self._waiting: dict[AnyTask, float] = {}
        self._missed: set[AnyTask] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._next_s = math.inf

    def from_now_s(self) -> float:
        """The deadline of what begins now, on the clock of the event loop."""
        return asyncio.get_running_loop().time() + self._timeout_s

    async def keep(self, wait: Awaitable[Waited], deadline_s: float) -> Waited:
        """Wait until the deadline. Raises TimeoutError then, whatever else was to be waited for in `wait`."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a coroutine of ours runs in a task
        self._waiting[task] = deadline_s
        if deadline_s < self._next_s:
            self._watch(deadline_s)
        try:
            return await wait
        except asyncio.CancelledError as error:
            if task in self._missed and task.uncancel() == 0:
                raise TimeoutError from error
            raise
        finally:
            del self._waiting[task]
            self._missed.discard(task)

    def _watch(self, next_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next_s = next_s
        self._timer = asyncio.get_running_loop().call_at(next_s, self._give_up)

    def _give_up(self) -> None:
        """Give up what is overdue, and look again when the next is."""
        self._timer, self._next_s = None, math.inf
        now_s = asyncio.get_running_loop().time()
        for task in [task for task, deadline_s in self._waiting.items() if deadline_s <= now_s]:
            if task not in self._missed:
                self._missed.add(task)
                task.cancel()
        ahead = [deadline_s for deadline_s in self._waiting.values() if deadline_s > now_s]
        if ahead:
            self._watch(min(ahead))
