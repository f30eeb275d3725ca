"""Steps of tests with replicas of a versioned store."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from onward.service.errors import LiveStoreUnavailable, ServiceError
from onward.service.live.replica import Edit, Replica
from onward.service.live.versioned_store import Entry

TRIES = 50
PAUSE_S = 0.02

T = TypeVar("T")


async def put(replica: Replica, values: dict[str, Any]) -> dict[str, Entry | ServiceError]:
    def edit(value: Any) -> Edit:
        return lambda current: value

    return await replica.update({name: edit(value) for name, value in values.items()})


def values(replica: Replica) -> dict[str, Any]:
    return {name: entry.value for name, entry in replica.entries.items()}


async def reconnected(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call until it does not fail because a connection was lost."""
    for _ in range(TRIES):
        try:
            return await call()
        except LiveStoreUnavailable as error:
            if error.__cause__ is None:  # not the connection
                raise
            await asyncio.sleep(PAUSE_S)
    return await call()
