"""Wire: one open connection on which the calls of all callers follow each other."""

import asyncio
from collections import deque
from collections.abc import Sequence
from copy import copy
from typing import Any

from hiredis import Reader, pack_command
from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

MAX_IN_FLIGHT = 10_000
"""Commands that wait for their replies; one more is refused at once."""

Argument = str | bytes | int | float
Command = tuple[Argument, ...]


class Wire(asyncio.Protocol):
    """Sends what is asked in one turn of the event loop as one write, and gives each reply to who comes next.

    A caller that gives up keeps its place, so that no other one is given its reply. When a reply is overdue or none at
    all, the connection is closed and all calls in flight fail: nothing that comes late can reach a later call.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        """Take over an open connection, which redis-py has made ready; it is of no further use to redis-py."""
        self._loop = asyncio.get_running_loop()
        self._stream = take_stream(connection)
        self._transport = self._stream.transport
        self._reader = Reader(protocolError=InvalidResponse, replyError=self._refusal)
        self._calls: deque[_Call] = deque()
        self._unsent: list[bytes] = []
        self._in_flight = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._lost = self._loop.create_future()
        self.failure: RedisError | None = None
        """Why nothing can be sent any more."""
        self._transport.set_protocol(self)

    def send(self, commands: Sequence[Command], deadline_s: float) -> "asyncio.Future[list[Any]]":
        """Send commands and return their replies to be, in which a refused command has a RedisError.

        Args:
            commands: at least one.
            deadline_s: when to give up, on the clock of the event loop; not before that of earlier calls.

        Raises RedisError, as the future does.
        """
        if self.failure is not None:
            raise copy(self.failure)
        if self._in_flight + len(commands) > MAX_IN_FLIGHT:
            raise RedisError("Too many calls wait for the server's replies.")
        packed = [pack_command(command) for command in commands]  # type: ignore[arg-type]  # its stub has pairs alone
        if not self._unsent:
            self._loop.call_soon(self._write)
        self._unsent += packed
        call = _Call(self._loop.create_future(), len(packed), deadline_s)
        self._calls.append(call)
        self._in_flight += len(packed)
        if self._alarm is None:
            self._alarm = self._loop.call_at(deadline_s, self._look_at_deadline)
        return call.replies_to_be

    async def aclose(self) -> None:
        """Close the connection and wait until it is closed; what is in flight fails."""
        self._lose(RedisConnectionError("The connection was closed."))
        await self._lost

    def data_received(self, data: bytes) -> None:
        """Give replies to their callers."""
        calls, reader = self._calls, self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                call = calls[0]
                call.replies.append(reply)
                if len(call.replies) == call.expected:
                    del calls[0]
                    self._in_flight -= call.expected
                    if not call.replies_to_be.done():
                        call.replies_to_be.set_result(call.replies)
        except (RedisError, LookupError, ValueError):
            self._lose(InvalidResponse("The server sent what is no reply."))
        if self.failure is not None:
            self._lose(self.failure)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is in flight."""
        self._lose(RedisConnectionError("The server closed the connection."))
        if not self._lost.done():
            self._lost.set_result(None)

    def _write(self) -> None:
        if self.failure is None:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def _refusal(self, text: str) -> Exception:
        error: Exception = DefaultParser.parse_error(text)  # type: ignore[no-untyped-call]  # redis-py
        if isinstance(error, ReadOnlyError):  # a master no more: the next call is to find the new one
            self.failure = RedisConnectionError("The server became a replica.")
        return error

    def _look_at_deadline(self) -> None:
        """Watch over the oldest call alone: all others came after it."""
        self._alarm = None
        if not self._calls:
            return
        oldest = self._calls[0]
        if self._loop.time() < oldest.deadline_s:
            self._alarm = self._loop.call_at(oldest.deadline_s, self._look_at_deadline)
        else:  # what came while the event loop was held up is read by now: it reads before it looks at the clock
            self._lose(RedisTimeoutError("The server did not reply in time."))

    def _lose(self, failure: RedisError) -> None:
        self.failure = self.failure or failure
        self._transport.abort()
        if self._alarm is not None:
            self._alarm.cancel()
        while self._calls:
            replies_to_be = self._calls.popleft().replies_to_be
            if not replies_to_be.done():
                replies_to_be.set_exception(copy(self.failure))


class _Call:
    """What was sent together and is answered together."""

    __slots__ = ("deadline_s", "expected", "replies", "replies_to_be")

    def __init__(self, replies_to_be: "asyncio.Future[list[Any]]", expected: int, deadline_s: float) -> None:
        self.replies_to_be = replies_to_be
        self.expected = expected
        self.deadline_s = deadline_s
        self.replies: list[Any] = []


def take_stream(connection: AbstractConnection) -> asyncio.StreamWriter:
    """Take the stream away from an open connection of redis-py, which then has none.

    The only use of what redis-py does not promise to keep.
    """
    stream: asyncio.StreamWriter = connection._writer  # type: ignore[assignment]  # it is open
    connection._writer = connection._reader = None
    return stream
