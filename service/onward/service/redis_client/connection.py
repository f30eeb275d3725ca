"""SharedConnection: a connection that is opened when it is needed and again once it was lost."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from onward.service.redis_client.wire import MAX_IN_FLIGHT, Command, Wire

LONGEST_OPENING_S = 5.0
"""Callers wait only as long as for any call; meanwhile it goes on, past Sentinels that do not answer."""
PAUSE_S = 0.1
"""After an opening that failed: calls until then fail at once."""


class SharedConnection:
    """Carries the calls of all callers to one server. No call is repeated, and one opening at a time is tried."""

    def __init__(self, new_connection: Callable[[], AbstractConnection]) -> None:
        """Take how redis-py makes a connection that is not open yet, with all that it takes to open it."""
        self._new_connection = new_connection
        self._wire: Wire | None = None
        self._opening: asyncio.Task[Wire] | None = None
        self._not_before_s = 0.0
        self._waiting = 0

    def replies(self, commands: Sequence[Command], deadline_s: float) -> Awaitable[list[Any]]:
        """Send commands in one go and return the reply to each, a RedisError for one that was refused.

        Raises RedisError and OSError, by the deadline on the clock of the event loop.
        """
        wire = self._wire
        if wire is None or wire.failure is not None:
            return self._replies_once_opened(commands, deadline_s)
        return wire.send(commands, deadline_s)

    async def aclose(self) -> None:
        """Close the connection; what is in flight fails."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        if self._wire is not None:
            await self._wire.aclose()

    async def _replies_once_opened(self, commands: Sequence[Command], deadline_s: float) -> list[Any]:
        wire = await self._opened(deadline_s)
        return await wire.send(commands, deadline_s)

    async def _opened(self, deadline_s: float) -> Wire:
        if self._waiting >= MAX_IN_FLIGHT:
            raise RedisError("Too many calls wait for a connection to the server.")
        opening = self._opening or self._begin_to_open()
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline_s):
                return await asyncio.shield(opening)
        except asyncio.CancelledError:
            if opening.cancelled():  # and not the caller
                raise RedisConnectionError("The connection was closed.") from None
            raise
        finally:
            self._waiting -= 1

    def _begin_to_open(self) -> "asyncio.Task[Wire]":
        loop = asyncio.get_running_loop()
        if loop.time() < self._not_before_s:
            raise RedisConnectionError("The server could not be reached a moment ago.")
        self._opening = loop.create_task(self._open())
        self._opening.add_done_callback(_take_note)
        return self._opening

    async def _open(self) -> Wire:
        connection = self._new_connection()
        try:
            async with asyncio.timeout(LONGEST_OPENING_S):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
            if await connection.can_read():
                raise RedisConnectionError("The server sent what nobody asked for.")
            self._wire = Wire(connection)
            return self._wire
        except BaseException:
            self._not_before_s = asyncio.get_running_loop().time() + PAUSE_S
            await connection.disconnect(nowait=True)
            raise
        finally:
            self._opening = None


def _take_note(opening: "asyncio.Task[Wire]") -> None:
    """Look at how it ended: that nobody waited any more is no fault to be logged."""
    if not opening.cancelled():
        opening.exception()
