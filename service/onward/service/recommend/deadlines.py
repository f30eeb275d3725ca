"""Deadlines: one timer for the deadlines of all queries."""

import asyncio
import math
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar


class Expiring(Protocol):
    """What may be resolved before its deadline."""

    result: asyncio.Future[Any]
    deadline_s: float


Item = TypeVar("Item", bound=Expiring)


class Deadlines(Generic[Item]):
    """Calls a function with each item that is not resolved at its deadline.

    Almost every item is resolved long before, and a timer of its own would cost more than all else that is done here
    for it. So there is one, for the earliest deadline. An item that is no longer waited for is to be forgotten at once:
    thousands of them would burden the garbage collector.
    """

    def __init__(self, expire: Callable[[Item], None]) -> None:
        self._expire = expire
        self._items: dict[Item, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._runs_s = math.inf

    def watch(self, item: Item) -> None:
        """Watch an item, whose `deadline_s` is by the clock of the event loop."""
        self._items[item] = None
        if item.deadline_s < self._runs_s:
            self._run_at(item.deadline_s)

    def forget(self, item: Item) -> None:
        """Watch an item no longer."""
        self._items.pop(item, None)

    def _run_at(self, time_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._runs_s = time_s
        self._timer = asyncio.get_running_loop().call_at(time_s, self._run)

    def _run(self) -> None:
        """Expire what is due, and set the timer for the rest."""
        now_s = asyncio.get_running_loop().time()
        self._timer, self._runs_s = None, math.inf
        due = [item for item in self._items if item.deadline_s <= now_s]
        for item in due:
            self.forget(item)
        if self._items:
            self._run_at(min(item.deadline_s for item in self._items))
        for item in due:
            if not item.result.done():
                self._expire(item)
