"""HTTP/1.1 connections: a state machine that bounds all that a caller can make the service hold, and for how long.

A connection is always in one phase:

    head       a part of a head has arrived, or the connection is new: bytes and time are limited
    body       the head is complete, the body is not: bytes and time are limited
    answering  complete requests are answered one after another; meanwhile nothing more is read
    paused     the caller has just been refused because of load or rate: nothing is read for a while
    idle       everything has been answered: the time until the next head begins is limited
    lingering  the last answer is written; what still arrives is discarded, so that the caller can read the answer
               before it learns that the connection is closed

Only complete requests are answered, so a slow body holds a connection but no slot of the service. `RequestReader` makes
requests of what arrives. See decision 27.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from http import HTTPStatus
from itertools import chain
from typing import Any, NamedTuple, Protocol

from starlette.responses import Response
from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from onward.service import telemetry
from onward.service.errors import BodyTooSlow, HeadTooSlow, Overloaded, ServiceError
from onward.service.http.connection_pool import NEVER_S, ConnectionPool, Phase
from onward.service.http.problems import problem_response
from onward.service.http.request_reader import Request, RequestReader

HTTP_SERVER = "http_server"
"""Name under which the application's state holds its HTTPServer."""
LINGER_BYTES = 8 * 2**20
LINGER_S = 2.0
LAST_HEAD_S = 1.0
"""Time for a head to arrive once the service stops."""
STATUS_LINES: Mapping[int, bytes] = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class Responder(Protocol):
    """Answers requests whose body has arrived."""

    def admit(self, scope: Scope) -> Response | None:
        """Begin a request; return the response if it is refused because of load."""
        ...

    def respond(self, scope: Scope, body: bytes) -> Awaitable[Response]:
        """Return the response to an admitted request; never raises."""
        ...


class HTTPServer(NamedTuple):
    """What all connections of a worker share."""

    responder: Responder
    pool: ConnectionPool


class Connection(asyncio.Protocol):
    """One connection of a caller, created by uvicorn's server."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        server: HTTPServer = app_state[HTTP_SERVER]
        self._responder, self._pool, self._limits = server.responder, server.pool, server.pool.limits
        self._server_state, self._app_state, self._root_path = server_state, app_state, config.root_path
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: Any = None
        self._reader: RequestReader
        """Made with the connection's transport."""

        self.phase: Phase = "head"
        self.phase_began_s = 0.0
        """By the clock of the event loop, as is `deadline_s`."""
        self.deadline_s = NEVER_S
        self.body_bytes = 0
        """Received bytes of the incomplete body, framing included."""

        self._unread = b""
        """Arrived while requests were being answered."""
        self._is_paused = False
        self._has_ended = False
        """Whether the caller has ended its side."""
        self._is_lost = False
        self._may_write: asyncio.Future[None] | None = None
        """Set while the caller leaves unread what was written; done when it has read enough."""
        self._linger_bytes = LINGER_BYTES

    def shutdown(self) -> None:
        """Close the connection, after the answer in progress; called when the service stops.

        A request that is on its way on a new connection, which was accepted at the last moment, is answered too.
        """
        self._pool.is_closing = True
        if self.phase in ("idle", "paused"):
            self._transport.close()
        elif self.phase == "head":
            self.deadline_s = min(self.deadline_s, self._loop.time() + LAST_HEAD_S)

    def expire(self) -> None:
        """End the phase, whose deadline has passed."""
        if self._transport.is_closing():
            self._transport.abort()
        elif self.phase == "body":
            self.refuse(BodyTooSlow("The rest of the body did not arrive in time."))
        elif self.phase == "head" and self._reader.has_begun:
            self.refuse(HeadTooSlow("The rest of the headers did not arrive in time."))
        else:
            self._transport.abort()  # `close` would wait for a caller that does not read

    def refuse(self, refusal: ServiceError) -> None:
        """Answer with an error, after the requests that are complete, and end the connection."""
        self._reader.give_up(refusal)
        self._pool.release(self)
        if self.phase != "answering" and not self._reader.requests:
            self._write_refusal(refusal)

    def evict(self) -> None:
        """Make room for another connection at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first head."""
        self._transport = transport
        shared_scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "scheme": "http",
            "root_path": self._root_path,
            "client": _address(transport.get_extra_info("peername")),
            "server": _address(transport.get_extra_info("sockname")),
        }
        self._reader = RequestReader(self._limits, shared_scope, self._app_state, self._root_path)
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # typed for uvicorn's own protocols
        self._begin("head", self._limits.head_s)
        if not self._pool.admit(self):
            self.refuse(Overloaded("Too many connections are open.", {"Retry-After": "1"}))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; a request that is being answered is answered to its end, for its effects."""
        self._is_lost = True
        self._server_state.connections.discard(self)
        self._pool.remove(self)
        self._reader.requests.clear()
        self._unread = b""
        self.resume_writing()

    def eof_received(self) -> bool:
        """Keep the connection open for the answers to what has arrived."""
        self._has_ended = True
        return self.phase in ("answering", "paused")

    def pause_writing(self) -> None:
        """Wait for the caller to read, for a limited time."""
        self._may_write = self._may_write or self._loop.create_future()
        self.deadline_s = self._loop.time() + self._limits.write_s

    def resume_writing(self) -> None:
        """Go on: the caller has read enough, or is gone."""
        if self._may_write is not None:
            if not self._may_write.done():  # as when the task that waited for it was cancelled
                self._may_write.set_result(None)
            self._may_write = None
            if self.phase in ("answering", "paused"):
                self.deadline_s = NEVER_S

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; stop reading while requests are being answered."""
        if self.phase in ("answering", "paused"):
            self._unread += data
            self._pause_reading()
        elif self.phase == "lingering":
            self._linger_bytes -= len(data)
            if self._linger_bytes < 0:
                self._transport.abort()
        else:
            self._read(data)
            if self._reader.requests:
                self._start_answering()
            elif self._reader.refusal is not None:
                self._write_refusal(self._reader.refusal)
            elif self.phase == "idle" and self._reader.has_begun:
                self._begin("head", self._limits.head_s)

    def _begin(self, phase: Phase, seconds: float) -> None:
        self.phase, self.phase_began_s = phase, self._loop.time()
        self.deadline_s = self.phase_began_s + seconds

    def _read(self, data: bytes) -> None:
        """Parse what arrived, up to complete requests; keep account of a body that is not complete."""
        reader = self._reader
        self._unread = reader.feed(data)
        if self.body_bytes and (reader.requests or reader.is_over):
            self._pool.release(self)
        if reader.has_begun and reader.awaits_body:
            self._wait_for_body(len(data))

    def _wait_for_body(self, received: int) -> None:
        """Begin to wait for the rest of a body, or go on, after so many more bytes were received."""
        reader = self._reader
        if self.phase in ("idle", "head") and not reader.requests:
            self._begin("body", self._limits.body_s)
        if self.phase == "body" and reader.owes_continue:
            reader.owes_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._pool.hold(self, received)

    def _start_answering(self) -> None:
        """Refuse the first request at once if the load demands it, else start to answer."""
        self.phase, self.deadline_s = "answering", NEVER_S
        if (request := self._next_admitted()) is not None:
            task = self._loop.create_task(self._answer_all(request))
            self._server_state.tasks.add(task)
            task.add_done_callback(self._stop_answering)

    def _next_admitted(self) -> Request | None:
        """Return the first request, None if it was refused because of load: then the refusal is written."""
        request = self._reader.requests.popleft()
        if (refusal := self._responder.admit(request.scope)) is None:
            return request
        if self._write(request, refusal):
            self._pause()
        return None

    def _stop_answering(self, task: "asyncio.Task[None]") -> None:
        """Cut the connection if its answers were cancelled or failed: nothing else would end it."""
        self._server_state.tasks.discard(task)
        if task.cancelled():
            self._transport.abort()
        elif (error := task.exception()) is not None:
            telemetry.failed(error)
            self._transport.abort()

    async def _answer_all(self, request: Request | None) -> None:
        """Answer an admitted request and those behind it, one after another; yield to other connections between."""
        while request is not None:
            response = await self._responder.respond(request.scope, request.body)
            if self._is_lost or not self._write(request, response):
                return
            if self._may_write is not None:
                await self._may_write
            if response.status_code in (429, 503) and "retry-after" in response.headers:
                self._pause()
                return
            if self._reader.requests:
                await asyncio.sleep(0)
            elif not (self._unread and self._read_unread()):
                self._wait_for_next()
                return
            request = None if self._is_lost else self._next_admitted()

    def _write(self, request: Request, response: Response) -> bool:
        """Write a response; return False if it is the last one."""
        keep_alive = request.keep_alive and not self._pool.is_closing
        self._transport.write(encode(response, self._server_state.default_headers, keep_alive=keep_alive))
        self._server_state.total_requests += 1
        if not keep_alive:
            self._linger()
        return keep_alive

    def _pause(self) -> None:
        """Read nothing for a while: a caller that was told to wait could otherwise be refused all the time."""
        self._begin("paused", NEVER_S if self._may_write is None else self._limits.write_s)
        self._pause_reading()
        self._loop.call_later(self._pool.refusal_pause_s(), self._end_pause)

    def _end_pause(self) -> None:
        if self._is_lost or self.phase != "paused":
            return
        if self._may_write is not None:
            self._may_write.add_done_callback(lambda _: self._end_pause())
        elif self._reader.requests or self._read_unread():
            self._start_answering()
        else:
            self._wait_for_next()

    def _read_unread(self) -> bool:
        """Parse what arrived meanwhile; return whether it holds a complete request."""
        if unread := self._unread:
            self._read(unread)
        return bool(self._reader.requests)

    def _wait_for_next(self) -> None:
        """Go on to read, unless the connection is over."""
        if self._is_lost:
            return
        reader = self._reader
        if not reader.has_begun:
            self._begin("idle", self._limits.idle_s)
        else:
            self._begin("head", self._limits.head_s)
            if reader.awaits_body:
                self._wait_for_body(0)
        if reader.refusal is not None:
            self._write_refusal(reader.refusal)
        elif self._has_ended or self._pool.is_closing:
            self._transport.close()
        if self._is_paused:
            self._resume_reading()

    def _pause_reading(self) -> None:
        if not self._is_paused and not self._transport.is_closing():
            self._transport.pause_reading()
            self._is_paused = True

    def _resume_reading(self) -> None:
        if self._is_paused and not self._transport.is_closing():
            self._transport.resume_reading()
            self._is_paused = False

    def _write_refusal(self, refusal: ServiceError) -> None:
        if self.phase == "lingering":
            return
        telemetry.refused(refusal.code)
        request_id = telemetry.new_request_id()
        response = problem_response(refusal, request_id)
        response.raw_headers.append((b"x-request-id", request_id.encode()))
        self._transport.write(encode(response, self._server_state.default_headers, keep_alive=False))
        self._linger()

    def _linger(self) -> None:
        """Close once the caller has, or after a while: closing at once could destroy the answer on its way."""
        self._reader.give_up()
        self._unread = b""
        self._pool.release(self)
        self._begin("lingering", self._limits.write_s if self._transport.get_write_buffer_size() else LINGER_S)
        if self._has_ended or self._transport.is_closing():
            self._transport.close()
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._resume_reading()


def encode(response: Response, default_headers: Iterable[tuple[bytes, bytes]], *, keep_alive: bool) -> bytes:
    """Encode a response as HTTP/1.1."""
    parts = [STATUS_LINES[response.status_code]]
    for name, value in chain(default_headers, response.raw_headers):
        parts += (name, b": ", value, b"\r\n")
    parts += (b"\r\n" if keep_alive else b"connection: close\r\n\r\n", bytes(response.body))
    return b"".join(parts)


def _address(name: Any) -> tuple[str, int] | None:
    """Return host and port of a socket's name; None for a unix socket."""
    return (str(name[0]), int(name[1])) if isinstance(name, list | tuple) else None
