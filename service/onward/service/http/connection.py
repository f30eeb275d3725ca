"""HTTP/1.1 connections: a state machine over httptools that bounds all that a caller can make the service hold.

A connection is always in one phase:

    head       a part of a head has arrived, or the connection is new: bytes and time are limited
    body       the head is complete, the body is not: bytes and time are limited
    answering  complete requests are answered one after another; meanwhile nothing more is read
    paused     the caller has just been refused because of load or rate: nothing is read for a while
    idle       everything has been answered: the time until the next head begins is limited
    lingering  the last answer is written; what still arrives is discarded, so that the caller can read the answer
               before it learns that the connection is closed

Only complete requests are answered, so a slow body holds a connection but no slot of the service. Whatever the parser
cannot vouch for is refused and ends the connection. See decision 27.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterable, Mapping
from http import HTTPStatus
from itertools import chain
from typing import Any, NamedTuple, NoReturn, Protocol

import httptools
from starlette.responses import Response
from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from onward.service import telemetry
from onward.service.errors import (
    BodyTooLarge,
    BodyTooSlow,
    HeadersTooLarge,
    HeadTooSlow,
    MalformedRequest,
    Overloaded,
    ServiceError,
    URLTooLong,
)
from onward.service.http.connection_pool import NEVER_S, ConnectionPool, Phase
from onward.service.http.problems import problem_response

HTTP_SERVER = "http_server"
"""Name under which the application's state holds its HTTPServer."""
SLICE_BYTES = 16 * 2**10
"""Bytes given to the parser at once: they bound what it holds beyond a limit, and the requests parsed ahead."""
CHUNK_OVERHEAD = 8
"""Received bytes for each byte of a body: the smallest chunks take 6."""
LINGER_BYTES = 8 * 2**20
LINGER_S = 2.0
LAST_HEAD_S = 1.0
"""Time for a head to arrive once the service stops."""
UPGRADE_HEADERS = frozenset({b"upgrade", b"http2-settings"})
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


class Request(NamedTuple):
    """A complete request."""

    scope: Scope
    body: bytes
    keep_alive: bool
    """Whether the caller leaves the connection open after the answer."""


class _Stopped(Exception):
    """Stops the parser: nothing that follows is a request."""


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
        self._server_state = server_state
        self._app_state = app_state
        self._root_path, self._raw_root_path = config.root_path, config.root_path.encode()
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: Any = None
        self._shared_scope: dict[str, Any] = {}
        """What the scopes of all requests have in common."""

        self.phase: Phase = "head"
        self.phase_began_s = 0.0
        """By the clock of the event loop, as is `deadline_s`."""
        self.deadline_s = NEVER_S
        self.body_bytes = 0
        """Received bytes of the request in progress, after its head, framing included."""

        self._parser = httptools.HttpRequestParser(self)
        self._has_begun = False
        """Whether a part of a request has been parsed that is not complete."""
        self._in_head = True
        self._head_bytes = 0
        """Received bytes of the head, or, since the last byte of the body, of trailers; without the present slice."""
        self._slice_bytes = 0
        """Length of the slice that is being parsed."""
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._hosts = 0
        self._declared_bytes = 0
        self._owes_continue = False
        """Whether the caller waits for "100 Continue" before it sends the body."""
        self._keep_alive = True
        self._asks_for_upgrade = False
        self._scope: dict[str, Any] = {}
        self._body = bytearray()

        self._requests: deque[Request] = deque()
        self._refusal: ServiceError | None = None
        """What to answer after `_requests`, before the connection is closed."""
        self._is_over = False
        """Whether everything that follows is to be ignored."""
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
        elif self.phase == "head" and self._has_begun:
            self.refuse(HeadTooSlow("The rest of the headers did not arrive in time."))
        else:
            self._transport.abort()  # `close` would wait for a caller that does not read

    def refuse(self, refusal: ServiceError) -> None:
        """Answer with an error, after the requests that are complete, and end the connection."""
        self._give_up(refusal)
        if self.phase != "answering" and not self._requests:
            self._write_refusal(refusal)

    def evict(self) -> None:
        """Make room for another connection at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first head."""
        self._transport = transport
        self._shared_scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "scheme": "http",
            "root_path": self._root_path,
            "client": _address(transport.get_extra_info("peername")),
            "server": _address(transport.get_extra_info("sockname")),
        }
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # typed for uvicorn's own protocols
        self._begin("head", self._limits.head_s)
        if not self._pool.admit(self):
            self.refuse(Overloaded("Too many connections are open.", {"Retry-After": "1"}))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; a request that is being answered is answered to its end, for its effects."""
        self._is_lost = True
        self._server_state.connections.discard(self)
        self._pool.remove(self)
        self._requests.clear()
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
            self._parse(data)
            if self._requests:
                self._start_answering()
            elif self._refusal is not None:
                self._write_refusal(self._refusal)
            elif self.phase == "idle" and self._has_begun:
                self._begin("head", self._limits.head_s)

    def on_message_begin(self) -> None:
        """Begin a request; this and the following methods are called by the parser."""
        self._has_begun, self._in_head, self._head_bytes = True, True, 0
        self._url, self._headers, self._hosts, self._declared_bytes = b"", [], 0, 0
        self._owes_continue = False
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        """Collect a part of the URL."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; trailers, which follow the body, are ignored."""
        if not self._in_head:
            return
        name = name.lower()
        self._headers.append((name, value))
        if name == b"host":
            self._hosts += 1
        elif name == b"content-length":
            self._declared_bytes = int(value)
        elif name == b"expect":
            self._owes_continue = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        """Check the head, and begin to collect the body."""
        parser = self._parser
        if parser.should_upgrade():
            self._asks_for_upgrade = True
            return
        version = parser.get_http_version()
        if (refusal := self._refusal_of_head(version)) is not None:
            self._stop(refusal)
        self._in_head, self._head_bytes = False, 0
        self._owes_continue = self._owes_continue and version == "1.1"
        self._keep_alive = version == "1.1" and parser.should_keep_alive()
        path, query = self._target()
        self._scope = {
            **self._shared_scope,
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "path": self._root_path + path.decode("ascii"),
            "raw_path": self._raw_root_path + path,
            "query_string": query,
            "headers": self._headers,
            "state": self._app_state.copy(),
        }

    def on_body(self, body: bytes) -> None:
        """Collect a part of the body."""
        self._body += body
        self._head_bytes = 0

    def on_message_complete(self) -> None:
        """Queue the request."""
        if self._asks_for_upgrade:
            return
        if len(self._body) > self._limits.body_bytes:
            self._stop(_body_too_large(self._limits.body_bytes))
        self._requests.append(Request(self._scope, bytes(self._body), self._keep_alive))
        self._has_begun = False
        if self.body_bytes:
            self._pool.release(self)
        if not self._keep_alive:
            self._is_over = True
            raise _Stopped

    def _begin(self, phase: Phase, seconds: float) -> None:
        self.phase, self.phase_began_s = phase, self._loop.time()
        self.deadline_s = self.phase_began_s + seconds

    def _parse(self, data: bytes) -> None:
        """Parse one slice after another; stop when a request is complete, which is to be answered first."""
        if len(data) <= SLICE_BYTES:
            if not self._is_over:
                self._parse_slice(data)
            return
        for first in range(0, len(data), SLICE_BYTES):
            if self._requests or self._is_over:
                self._unread = data[first:]
                return
            self._parse_slice(data[first : first + SLICE_BYTES])

    def _parse_slice(self, data: bytes) -> None:
        self._slice_bytes = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            if not self._is_over:
                self._give_up(MalformedRequest("This is not a valid HTTP/1.1 request."))
        else:
            if self._has_begun:
                self._check_unfinished(len(data))

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Parse the head again, as if it did not ask for an upgrade, and then what follows it.

        The parser would skip the declared body, as the first bytes of another protocol, and take it for a request.
        """
        self._asks_for_upgrade = False
        head = _head_without_upgrade(self._parser, self._url, self._headers)
        self._parser = httptools.HttpRequestParser(self)
        self._parse_slice(head)
        if rest and not self._is_over:
            self._parse_slice(rest)

    def _check_unfinished(self, received: int) -> None:
        """Refuse a request whose unfinished head or body is too long already."""
        limits = self._limits
        self._head_bytes += received
        if len(self._url) > limits.line_bytes:
            self._give_up(_url_too_long(limits.line_bytes))
        elif self._head_bytes > limits.head_bytes + SLICE_BYTES:
            self._give_up(_headers_too_large(limits.head_bytes))
        if self._in_head or self._is_over:
            return
        if self.phase in ("idle", "head") and not self._requests:
            self._begin("body", limits.body_s)
        if self.phase == "body" and self._owes_continue:
            self._owes_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._pool.hold(self, received)
        if len(self._body) > limits.body_bytes or self.body_bytes > CHUNK_OVERHEAD * limits.body_bytes:
            self._give_up(_body_too_large(limits.body_bytes))

    def _refusal_of_head(self, version: str) -> ServiceError | None:
        limits = self._limits
        if len(self._url) > limits.line_bytes:
            return _url_too_long(limits.line_bytes)
        if self._head_bytes + self._slice_bytes > limits.head_bytes:  # otherwise the head is shorter in any case
            headers_bytes = sum([len(name) + len(value) + 4 for name, value in self._headers])
            if len(self._url) + headers_bytes > limits.head_bytes:
                return _headers_too_large(limits.head_bytes)
        if version not in ("1.1", "1.0"):
            return MalformedRequest("The service speaks HTTP/1.1.")
        if self._hosts > 1 or (version == "1.1" and not self._hosts):
            return MalformedRequest("A request has exactly one Host header.")
        if version == "1.0" and any(name == b"transfer-encoding" for name, _ in self._headers):
            return MalformedRequest("HTTP/1.0 has no Transfer-Encoding.")
        if self._declared_bytes > limits.body_bytes:
            return _body_too_large(limits.body_bytes)
        return None

    def _target(self) -> tuple[bytes, bytes]:
        """Return the path and the query of the URL."""
        url = self._url
        if url[:1] == b"/" and b"#" not in url and url.isascii():
            path, _, query = url.partition(b"?")
            return path, query
        try:
            parsed = httptools.parse_url(url)
        except httptools.HttpParserInvalidURLError:
            self._stop(MalformedRequest("The URL is not valid."))
        if not url.isascii():
            self._stop(MalformedRequest("The URL is not ASCII: percent-encode it."))
        return parsed.path or b"/", parsed.query or b""

    def _stop(self, refusal: ServiceError) -> NoReturn:
        """Refuse the request that is being parsed; called by the parser's callbacks."""
        self._give_up(refusal)
        raise _Stopped

    def _give_up(self, refusal: ServiceError) -> None:
        if not self._is_over:
            self._refusal, self._is_over, self._body = refusal, True, bytearray()
            self._pool.release(self)

    def _start_answering(self) -> None:
        """Refuse the first request at once if the load demands it, else start to answer."""
        self.phase, self.deadline_s = "answering", NEVER_S
        if (request := self._next_admitted()) is not None:
            task = self._loop.create_task(self._answer_all(request))
            self._server_state.tasks.add(task)
            task.add_done_callback(self._stop_answering)

    def _next_admitted(self) -> Request | None:
        """Return the first request, None if it was refused because of load: then the refusal is written."""
        request = self._requests.popleft()
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
            if self._requests:
                await asyncio.sleep(0)
            elif not (self._unread and self._parse_unread()):
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
        elif self._requests or self._parse_unread():
            self._start_answering()
        else:
            self._wait_for_next()

    def _parse_unread(self) -> bool:
        """Parse what arrived meanwhile; return whether it holds a complete request."""
        unread, self._unread = self._unread, b""
        if unread:
            self._parse(unread)
        return bool(self._requests)

    def _wait_for_next(self) -> None:
        """Go on to read, unless the connection is over."""
        if self._is_lost:
            return
        if self._has_begun:
            self._begin("head", self._limits.head_s)
            self._check_unfinished(0)
        else:
            self._begin("idle", self._limits.idle_s)
        if self._refusal is not None:
            self._write_refusal(self._refusal)
        elif self._has_ended or self._pool.is_closing:
            self._transport.close()
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
        self._is_over, self._unread, self._body = True, b"", bytearray()
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


def _head_without_upgrade(parser: Any, url: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a request's head without its wish to upgrade; for CONNECT, which is one itself, what no parser accepts."""
    if parser.get_method() == b"CONNECT":
        return b"\0"
    parts = [parser.get_method(), b" ", url, b" HTTP/", parser.get_http_version().encode(), b"\r\n"]
    for name, value in headers:
        if name == b"connection":
            tokens = [token.strip() for token in value.split(b",")]
            value = b", ".join(token for token in tokens if token.lower() not in UPGRADE_HEADERS)
        if name not in UPGRADE_HEADERS:
            parts += (name, b": ", value, b"\r\n")
    return b"".join([*parts, b"\r\n"])


def _address(name: Any) -> tuple[str, int] | None:
    """Return host and port of a socket's name; None for a unix socket."""
    return (str(name[0]), int(name[1])) if isinstance(name, list | tuple) else None


def _url_too_long(limit: int) -> URLTooLong:
    return URLTooLong(f"The URL is longer than {limit} bytes.")


def _headers_too_large(limit: int) -> HeadersTooLarge:
    return HeadersTooLarge(f"The URL and the headers take more than {limit} bytes.")


def _body_too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is longer than {limit} bytes.")
