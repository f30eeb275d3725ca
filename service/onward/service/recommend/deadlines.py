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
LEAST_LIMIT = 1_024
"""Items that are watched before those that are resolved are looked for."""


class Deadlines(Generic[Item]):
    """Calls a function with each item that is not resolved at its deadline.

    Almost every item is resolved long before, and a timer of its own would cost more than all else that is done here
    for it. So there is one, for the earliest deadline; items that are resolved are forgotten when it runs, or when they
    are many.
    """

    def __init__(self, expire: Callable[[Item], None]) -> None:
        self._expire = expire
        self._items: list[Item] = []
        self._limit = LEAST_LIMIT
        self._timer: asyncio.TimerHandle | None = None
        self._runs_s = math.inf

    def watch(self, item: Item) -> None:
        """Watch an item, whose `deadline_s` is by the clock of the event loop."""
        self._items.append(item)
        if len(self._items) > self._limit:
            self._items = _unresolved(self._items)
            self._limit = max(LEAST_LIMIT, 2 * len(self._items))
        if item.deadline_s < self._runs_s:
            self._run_at(item.deadline_s)

    def _run_at(self, time_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._runs_s = time_s
        self._timer = asyncio.get_running_loop().call_at(time_s, self._run)

    def _run(self) -> None:
        """Expire what is due, forget what is resolved, and set the timer for the rest."""
        now_s = asyncio.get_running_loop().time()
        self._timer, self._runs_s = None, math.inf
        pending = _unresolved(self._items)
        self._items = [item for item in pending if item.deadline_s > now_s]
        if self._items:
            self._run_at(min(item.deadline_s for item in self._items))
        for item in pending:
            if item.deadline_s <= now_s:
                self._expire(item)


def _unresolved(items: list[Item]) -> list[Item]:
    return [item for item in items if not item.result.done()]
