"""Connections that all callers share: one is multiplexed, and reopened with back-off after it was lost.

`MultiplexedConnection` is one open connection; `ReconnectingConnection` opens them as they are needed.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from typing import Any

from hiredis import Reader, pack_command
from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, InvalidResponse, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

MAX_IN_FLIGHT = 10_000
"""Commands that may wait for their replies; further ones are refused at once."""
MAX_CONNECT_S = 5.0
"""Limit of one attempt to connect. Callers wait no longer than their own deadline, but the attempt goes on, so that it
gets past Sentinels that do not answer."""
BACKOFF_S = 0.1
"""Back-off after a failed attempt to connect: until it is over, calls fail at once."""

Argument = str | bytes | int | float
Command = tuple[Argument, ...]


class ReconnectingConnection:
    """Connects to one server lazily, and reconnects once the connection is lost; carries the calls of all callers.

    No call is retried, and at most one attempt to connect is made at a time.
    """

    def __init__(self, new_connection: Callable[[], AbstractConnection]) -> None:
        """Take a factory of redis-py connections, which are configured but not open."""
        self._new_connection = new_connection
        self._connection: MultiplexedConnection | None = None
        self._connecting: asyncio.Task[MultiplexedConnection] | None = None
        self._not_before_s = 0.0
        self._waiting = 0

    def execute(self, commands: Sequence[Command], deadline_s: float) -> Awaitable[list[Any]]:
        """Send commands as one pipeline and return the reply to each, a RedisError for one that was refused.

        Raises RedisError or OSError no later than the deadline, which is a time of the event loop's clock.
        """
        connection = self._connection
        if connection is None or connection.failure is not None:
            return self._execute_once_connected(commands, deadline_s)
        return connection.send(commands, deadline_s)

    async def aclose(self) -> None:
        """Close the connection; calls in flight fail."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._connection is not None:
            await self._connection.aclose()

    async def _execute_once_connected(self, commands: Sequence[Command], deadline_s: float) -> list[Any]:
        connection = await self._connected(deadline_s)
        return await connection.send(commands, deadline_s)

    async def _connected(self, deadline_s: float) -> "MultiplexedConnection":
        if self._waiting >= MAX_IN_FLIGHT:
            raise RedisError("Too many calls wait for a connection to the server.")
        connecting = self._connecting or self._start_connecting()
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline_s):
                return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            if connecting.cancelled():  # by aclose(); otherwise the caller was cancelled
                raise RedisConnectionError("The connection was closed.") from None
            raise
        finally:
            self._waiting -= 1

    def _start_connecting(self) -> "asyncio.Task[MultiplexedConnection]":
        loop = asyncio.get_running_loop()
        if loop.time() < self._not_before_s:
            raise RedisConnectionError("The server could not be reached a moment ago.")
        self._connecting = loop.create_task(self._connect())
        self._connecting.add_done_callback(_retrieve_exception)
        return self._connecting

    async def _connect(self) -> "MultiplexedConnection":
        connection = self._new_connection()
        try:
            async with asyncio.timeout(MAX_CONNECT_S):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
            if await connection.can_read():
                raise RedisConnectionError("The server sent data that was not requested.")
            self._connection = MultiplexedConnection(connection)
            return self._connection
        except BaseException:
            self._not_before_s = asyncio.get_running_loop().time() + BACKOFF_S
            await connection.disconnect(nowait=True)
            raise
        finally:
            self._connecting = None


def _retrieve_exception(task: "asyncio.Task[MultiplexedConnection]") -> None:
    """Mark a failure as retrieved: asyncio would log it if every caller had given up waiting."""
    if not task.cancelled():
        task.exception()


class MultiplexedConnection(asyncio.Protocol):
    """One open connection on which the calls of all callers are pipelined.

    Commands sent in the same event-loop iteration go out as one write. Replies are matched to calls by their order. A
    caller that gives up keeps its place, so that its reply reaches no one else. If a reply is overdue or malformed, the
    connection is closed and all calls in flight fail: no late reply can be taken for that of a later call.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        """Take over the stream of an open redis-py connection, which cannot be used any more."""
        self._loop = asyncio.get_running_loop()
        self._stream = take_stream(connection)
        self._transport = self._stream.transport
        self._reader = Reader(protocolError=InvalidResponse, replyError=self._error_reply)
        self._calls: deque[_Call] = deque()
        self._unsent: list[bytes] = []
        self._in_flight = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = self._loop.create_future()
        self.failure: RedisError | None = None
        """Why the connection can send no more; None while it works."""
        self._transport.set_protocol(self)

    def send(self, commands: Sequence[Command], deadline_s: float) -> Awaitable[list[Any]]:
        """Send commands and return an awaitable of their replies; one refused or not encodable has a RedisError.

        Args:
            commands: at least one.
            deadline_s: when to give up, on the clock of the event loop; not before the deadlines of earlier calls.

        Raises RedisError, as does the awaitable.
        """
        if self.failure is not None:
            raise copy(self.failure)
        if self._in_flight + len(commands) > MAX_IN_FLIGHT:
            raise RedisError("Too many calls wait for the server's replies.")
        try:
            packed = [pack_command(command) for command in commands]  # type: ignore[arg-type]  # its stub has pairs alone
        except (TypeError, UnicodeEncodeError):
            return self._send_encodable(commands, deadline_s)
        if not self._unsent:
            self._loop.call_soon(self._write)
        self._unsent += packed
        call = _Call(self._loop.create_future(), len(packed), deadline_s)
        self._calls.append(call)
        self._in_flight += len(packed)
        if self._timer is None:
            self._timer = self._loop.call_at(deadline_s, self._check_deadline)
        return call.future

    async def _send_encodable(self, commands: Sequence[Command], deadline_s: float) -> list[Any]:
        """Send the commands that can be encoded; the reply to each other one is a DataError."""
        replies: list[Any] = [_encoding_error(command) for command in commands]
        encodable = [position for position, error in enumerate(replies) if error is None]
        if encodable:
            sent = await self.send([commands[position] for position in encodable], deadline_s)
            for position, reply in zip(encodable, sent, strict=True):
                replies[position] = reply
        return replies

    async def aclose(self) -> None:
        """Close the connection and wait until it is closed; calls in flight fail."""
        self._fail(RedisConnectionError("The connection was closed."))
        await self._closed

    def data_received(self, data: bytes) -> None:
        """Parse replies and complete the oldest calls with them."""
        calls, reader = self._calls, self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                call = calls[0]
                call.replies.append(reply)
                if len(call.replies) == call.expected:
                    del calls[0]
                    self._in_flight -= call.expected
                    if not call.future.done():
                        call.future.set_result(call.replies)
        except (RedisError, LookupError, ValueError):
            self._fail(InvalidResponse("The server sent a malformed reply, or one too many."))
        if self.failure is not None:
            self._fail(self.failure)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the calls in flight."""
        self._fail(RedisConnectionError("The server closed the connection."))
        if not self._closed.done():
            self._closed.set_result(None)

    def _write(self) -> None:
        if self.failure is None:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def _error_reply(self, text: str) -> Exception:
        error: Exception = DefaultParser.parse_error(text)  # type: ignore[no-untyped-call]  # redis-py
        if isinstance(error, ReadOnlyError):  # no longer a master: reconnect, so that the next call finds the new one
            self.failure = RedisConnectionError("The server became a replica.")
        return error

    def _check_deadline(self) -> None:
        """Watch the oldest call only: deadlines do not decrease from one call to the next."""
        self._timer = None
        if not self._calls:
            return
        oldest = self._calls[0]
        if self._loop.time() < oldest.deadline_s:
            self._timer = self._loop.call_at(oldest.deadline_s, self._check_deadline)
        else:  # not because the event loop was blocked: it reads the replies that have arrived before it runs timers
            self._fail(RedisTimeoutError("The server did not reply in time."))

    def _fail(self, failure: RedisError) -> None:
        """Close the connection and fail all calls in flight, with an earlier failure if there was one."""
        self.failure = self.failure or failure
        self._transport.abort()
        if self._timer is not None:
            self._timer.cancel()
        while self._calls:
            future = self._calls.popleft().future
            if not future.done():
                future.set_exception(copy(self.failure))


class _Call:
    """Commands that were sent together, and the replies received so far."""

    __slots__ = ("deadline_s", "expected", "future", "replies")

    def __init__(self, future: "asyncio.Future[list[Any]]", expected: int, deadline_s: float) -> None:
        self.future = future
        self.expected = expected
        self.deadline_s = deadline_s
        self.replies: list[Any] = []


def _encoding_error(command: Command) -> DataError | None:
    try:
        pack_command(command)  # type: ignore[arg-type]  # its stub has pairs alone
    except (TypeError, UnicodeEncodeError) as error:
        return DataError(f"The command cannot be encoded: {error}")
    return None


def take_stream(connection: AbstractConnection) -> asyncio.StreamWriter:
    """Detach the stream from an open redis-py connection and return it.

    This is the only use of attributes that redis-py does not document.
    """
    stream: asyncio.StreamWriter = connection._writer  # type: ignore[assignment]  # it is open
    connection._writer = connection._reader = None
    return stream
