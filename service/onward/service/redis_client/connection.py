"""Connections that all callers share: one is multiplexed, and reopened under a circuit breaker after it was lost.

`MultiplexedConnection` is one open connection; `ReconnectingConnection` opens them as they are needed.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from copy import copy
from typing import Any

from hiredis import Reader, pack_command
from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, InvalidResponse, NoPermissionError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from onward.service.redis_client.circuit import CircuitBreaker

MAX_IN_FLIGHT = 10_000
"""Commands that may wait for their replies; further ones are refused at once."""
HANDSHAKE_TIMEOUT_S = 0.5
"""Limit of each step of an attempt to connect. Callers wait no longer than their own deadline, but the attempt goes on,
so that a server that is slow to greet is reached."""
MAX_CONNECT_S = 5.0
"""Limit of an attempt in all."""
GRACE_S = 0.5
"""How long an overdue reply may still come. Until then only the overdue calls fail, and the connection is kept."""
MAX_MARK = 10**8
ECHO_HEAD = b"*2\r\n$4\r\nECHO\r\n$8\r\n"

Argument = str | bytes | int | float
Command = tuple[Argument, ...]


async def open_connection(connection: AbstractConnection) -> AbstractConnection:
    """Open a connection of redis-py and return it. Raises RedisError and OSError."""
    try:
        await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
        if await connection.can_read():
            raise RedisConnectionError("The server sent data that was not requested.")
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


class ReconnectingConnection:
    """Connects to one server lazily, and reconnects once the connection is lost; carries the calls of all callers.

    No call is retried, and at most one attempt to connect is made at a time.
    """

    def __init__(self, open_: Callable[[], Awaitable[AbstractConnection]], circuit: CircuitBreaker) -> None:
        """Take what opens a connection of redis-py, and the circuit breaker of the server."""
        self._open = open_
        self._circuit = circuit
        self._connection: MultiplexedConnection | None = None
        self._connecting: asyncio.Task[MultiplexedConnection] | None = None
        self._waiting = 0
        self.address: tuple[str, int] | None = None
        """Host and port of the latest connection; None of one by a unix socket."""

    @property
    def is_open(self) -> bool:
        """Whether a connection is open."""
        return self._connection is not None and self._connection.failure is None

    def execute(self, commands: Sequence[Command], deadline_s: float) -> Awaitable[list[Any]]:
        """Send commands as one pipeline and return the reply to each, a RedisError for one that was refused.

        Raises RedisError or OSError no later than the deadline, which is a time of the event loop's clock.
        """
        connection = self._connection
        if connection is None or connection.failure is not None:
            return self._execute_once_connected(commands, deadline_s)
        return connection.send(commands, deadline_s)

    def drop(self, reason: str) -> None:
        """Close the connection, if one is open, so that the next call opens another; calls in flight fail."""
        if self._connection is not None:
            self._connection.fail(RedisConnectionError(reason))

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
        """Start an attempt. Raises RedisConnectionError if the circuit breaker does not admit one."""
        era = self._circuit.begin()
        self._connecting = asyncio.get_running_loop().create_task(self._connect(era))
        self._connecting.add_done_callback(lambda task: self._end_connecting(task, era))
        return self._connecting

    def _end_connecting(self, task: "asyncio.Task[MultiplexedConnection]", era: int) -> None:
        """Report an attempt that was cancelled, also before it ran; others may try then.

        Any other failure counts as retrieved: asyncio would log it if every caller had given up waiting.
        """
        if task.cancelled():
            self._circuit.failed(era)
        else:
            task.exception()

    async def _connect(self, era: int) -> "MultiplexedConnection":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(MAX_CONNECT_S):
                connection = await self._open()
        except Exception as error:
            self._circuit.failed(era, error)
            if isinstance(error, RedisError | OSError):
                raise
            raise RedisConnectionError(f"The server's greeting could not be read: {error!r}") from error
        finally:
            self._connecting = None
        opened_s = loop.time()
        self._circuit.succeeded()
        host, port = getattr(connection, "host", None), getattr(connection, "port", None)
        self.address = None if host is None or port is None else (str(host), int(port))
        self._connection = MultiplexedConnection(
            connection, on_lost=lambda: self._circuit.lost(era, loop.time() - opened_s)
        )
        return self._connection


class MultiplexedConnection(asyncio.Protocol):
    """One open connection on which the calls of all callers are pipelined.

    Commands sent in the same event-loop iteration go out as one write, followed by a mark that the server echoes.
    Replies are matched to calls by their order, and handed out once the echo shows that it was kept. A caller that
    gives up keeps its place, so that its reply reaches no one else, and so does a call that is overdue. The connection
    is closed, and all calls in flight fail, if a reply is malformed or out of order, or overdue by the time of grace.
    """

    def __init__(self, connection: AbstractConnection, on_lost: Callable[[], None]) -> None:
        """Take over the stream of an open redis-py connection, which cannot be used any more.

        `on_lost` is called once if the connection is lost, other than by `aclose`.
        """
        self._loop = asyncio.get_running_loop()
        self._stream = take_stream(connection)
        self._transport = self._stream.transport
        self._reader = Reader(protocolError=InvalidResponse, replyError=self._error_reply)
        self._unsent: list[_Call] = []
        self._batches: deque[_Batch] = deque()
        self._mark = 0
        self._in_flight = 0
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_s = math.inf
        self._closed = self._loop.create_future()
        self._on_lost: Callable[[], None] | None = on_lost
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
        unsent = self._unsent
        if not unsent:
            self._loop.call_soon(self._write)
        call = _Call(self._loop.create_future(), packed, deadline_s)
        unsent.append(call)
        self._in_flight += len(packed)
        if deadline_s < self._wakes_s:
            self._wake_at(deadline_s)
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

    def fail(self, failure: RedisError) -> None:
        """Close the connection and fail all calls in flight, with an earlier failure if there was one."""
        self.failure = self.failure or failure
        self._transport.abort()
        if self._timer is not None:
            self._timer.cancel()
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost()
        for call in self._calls_in_flight():
            if not call.future.done():
                call.future.set_exception(copy(self.failure))
        self._batches.clear()
        self._unsent = []

    async def aclose(self) -> None:
        """Close the connection and wait until it is closed; calls in flight fail."""
        self._on_lost = None
        self.fail(RedisConnectionError("The connection was closed."))
        await self._closed

    def data_received(self, data: bytes) -> None:
        """Parse replies and complete the oldest calls with them."""
        batches, reader = self._batches, self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                batch = batches[0]
                batch.replies.append(reply)
                if len(batch.replies) > batch.commands:
                    self._complete(batch)
        except Exception:  # whatever the bytes made the parser do
            self.fail(InvalidResponse("The server sent a malformed reply, or one too many."))
        if self.failure is not None:
            self.fail(self.failure)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the calls in flight."""
        self.fail(RedisConnectionError("The server closed the connection."))
        if not self._closed.done():
            self._closed.set_result(None)

    def _write(self) -> None:
        calls = self._unsent
        if not calls:  # they have failed
            return
        self._unsent = []
        self._mark = (self._mark + 1) % MAX_MARK
        mark = b"%08d" % self._mark
        parts = [command for call in calls for command in call.packed]
        self._batches.append(_Batch(calls, len(parts), mark))
        parts.append(ECHO_HEAD + mark + b"\r\n")
        self._transport.write(b"".join(parts))

    def _complete(self, batch: "_Batch") -> None:
        """Hand out the replies of the oldest batch. Raises InvalidResponse if its echo is not where it belongs."""
        replies = batch.replies
        echo = replies.pop()
        # An account that may not echo is told so in the place of the echo.
        if echo != batch.mark and not isinstance(echo, NoPermissionError):
            raise InvalidResponse("Replies are not in the order of the calls.")
        del self._batches[0]
        self._in_flight -= batch.commands
        first = 0
        for call in batch.calls:
            last = first + len(call.packed)
            if not call.future.done():
                call.future.set_result(replies[first:last])
            first = last

    def _error_reply(self, text: str) -> Exception:
        error: Exception = DefaultParser.parse_error(text)  # type: ignore[no-untyped-call]  # redis-py
        if isinstance(error, ReadOnlyError):  # no longer a master: reconnect, so that the next call finds the new one
            self.failure = RedisConnectionError("The server became a replica.")
        return error

    def _calls_in_flight(self) -> "Iterator[_Call]":
        for batch in self._batches:
            yield from batch.calls
        yield from self._unsent

    def _check_deadlines(self) -> None:
        """Fail the calls that are overdue; close the connection if the oldest one is overdue by the time of grace.

        Deadlines do not decrease from one call to the next. That the event loop was blocked makes no call overdue: it
        reads the replies that have arrived before it runs timers.
        """
        self._wakes_s = math.inf
        now_s = self._loop.time()
        closes_s = math.inf
        for call in self._calls_in_flight():
            closes_s = min(closes_s, call.deadline_s + GRACE_S)
            if now_s >= closes_s:
                self.fail(RedisTimeoutError("The server did not reply in time."))
                return
            if now_s < call.deadline_s:
                self._wake_at(min(call.deadline_s, closes_s))
                return
            if not call.future.done():
                call.future.set_exception(RedisTimeoutError("The server did not reply in time."))
        if closes_s < math.inf:
            self._wake_at(closes_s)

    def _wake_at(self, time_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wakes_s = time_s
        self._timer = self._loop.call_at(time_s, self._check_deadlines)


class _Call:
    """Commands that were sent together, as the server reads them."""

    __slots__ = ("deadline_s", "future", "packed")

    def __init__(self, future: "asyncio.Future[list[Any]]", packed: list[bytes], deadline_s: float) -> None:
        self.future = future
        self.packed = packed
        self.deadline_s = deadline_s


class _Batch:
    """The calls of one write, and the replies received so far."""

    __slots__ = ("calls", "commands", "mark", "replies")

    def __init__(self, calls: list[_Call], commands: int, mark: bytes) -> None:
        self.calls = calls
        self.commands = commands
        self.mark = mark
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
