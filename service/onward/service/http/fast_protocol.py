"""FastProtocol: requests of fast routes that arrive in one read are answered without ASGI.

They pass the same checks and handlers as all others. A server without this protocol gives the same responses by ASGI.
"""

import asyncio
import math
from collections.abc import Iterable
from itertools import chain
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from onward.service import telemetry
from onward.service.errors import InternalError
from onward.service.http.admission import Admission
from onward.service.http.fast_route import FastRoutes
from onward.service.http.problems import problem_response

FAST_PATH = "fast_path"
"""Name under which the application's state holds its FastPath."""
MAX_BODY_BYTES = 16 * 2**10
"""A larger body is handled through ASGI, where every path has its own limit."""
NEVER_S = math.inf
FORWARDED = b"x-forwarded-"
"""Prefix of the headers in which a proxy names the client."""


class FastPath:
    """Answers requests of fast routes: what the middleware does for all others, in one function."""

    def __init__(self, routes: FastRoutes, admission: Admission) -> None:
        self._routes = routes
        self._admission = admission
        self._targets = {(method.encode(), path.encode()) for method, path in routes.handlers}

    def takes(self, method: bytes, target: bytes) -> bool:
        """Return whether a request is one of a fast route."""
        return (method, target) in self._targets

    async def respond(self, scope: Scope, body: bytes) -> Response:
        """Return the response to a request; an unexpected exception becomes a 500."""
        request_id = telemetry.begin_request(scope)
        try:
            if (refusal := self._admission.refusal(scope)) is not None:
                response = problem_response(refusal, request_id)
            else:
                with self._admission.in_flight:
                    response = await self._routes.respond(Request(scope), body)
        except Exception as error:  # the last resort: nothing else would answer or log it
            telemetry.failed(error)
            response = problem_response(InternalError(), request_id)
        response.raw_headers.append((b"x-request-id", request_id.encode()))
        telemetry.end_request(scope, response.status_code)
        return response


class FastProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, with the fast path for requests that arrive complete while none is pending."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        fast_path: FastPath | None = app_state.get(FAST_PATH)
        takes_all = config.limit_concurrency is None and not config.root_path
        self._fast_path = fast_path if takes_all else None
        self._proxy: Any = None
        """Sets the client's address from a proxy's headers, if proxy headers are enabled."""
        if config.proxy_headers:
            self._proxy = ProxyHeadersMiddleware(_nothing, config.forwarded_allow_ips or "")
        self._body: bytes | None = None
        """Received part of the body of a request that may take the fast path; None if there is no such request."""
        self._idle_since_s = NEVER_S
        """When the last response was written, if no request has arrived since."""
        self._idle_timer: asyncio.TimerHandle | None = None
        """One timer for many responses: a timer for each would take 6 % of the time of a request."""

    def data_received(self, data: bytes) -> None:
        """Feed the parser; a request that is incomplete afterwards is handled through ASGI."""
        self._idle_since_s = NEVER_S
        super().data_received(data)
        if self._body is not None:
            self._fall_back_to_asgi()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """Collect the body here if the request may take the fast path."""
        if self._may_take_fast_path():
            self._body = b""
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Collect a part of the body."""
        if self._body is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        """Answer the request by the fast path if it qualifies."""
        body, fast_path = self._body, self._fast_path
        if body is None or fast_path is None:
            super().on_message_complete()
        elif len(body) > MAX_BODY_BYTES:
            self._fall_back_to_asgi()
            super().on_message_complete()
        else:
            self._body = None
            self._take_fast_path(fast_path, body)

    def _may_take_fast_path(self) -> bool:
        """Decide by the headers; no earlier request of the connection may still be pending."""
        parser, fast_path = self.parser, self._fast_path
        return (
            fast_path is not None
            and fast_path.takes(parser.get_method(), self.url)
            and (self.cycle is None or self.cycle.response_complete)
            and not self.expect_100_continue
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
        )

    def _fall_back_to_asgi(self) -> None:
        """Hand the request over to ASGI, with the part of its body that was received."""
        body, self._body = self._body, None
        super().on_headers_complete()
        if body:
            super().on_body(body)

    def _take_fast_path(self, fast_path: FastPath, body: bytes) -> None:
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]  # uvicorn's own typed dictionary
        scope["method"] = self.parser.get_method().decode()
        scope["raw_path"], scope["path"], scope["query_string"] = self.url, self.url.decode(), b""
        exchange = _Exchange()
        self.cycle = exchange  # type: ignore[assignment]  # it has the attributes that the protocol reads of a cycle
        task = self.loop.create_task(self._respond(fast_path, exchange, scope, body))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _respond(self, fast_path: FastPath, exchange: "_Exchange", scope: Scope, body: bytes) -> None:
        if self._proxy is not None and any(name.startswith(FORWARDED) for name, _ in scope["headers"]):
            await self._proxy(scope, _nothing, _nothing)
        response = await fast_path.respond(scope, body)
        if self.flow.write_paused and not exchange.disconnected:
            await self.flow.drain()
        if exchange.disconnected or self.transport.is_closing():
            return
        self.transport.write(encode(response, self.server_state.default_headers, keep_alive=exchange.keep_alive))
        exchange.response_complete = True
        if not exchange.keep_alive:
            self.transport.close()
        if self.pipeline or not exchange.keep_alive:
            self.on_response_complete()
        else:
            self._begin_to_idle()

    def _begin_to_idle(self) -> None:
        """Wait for the next request for at most the keep-alive timeout."""
        self.server_state.total_requests += 1
        self._idle_since_s = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def _close_if_idle(self) -> None:
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s <= 0:
            self.transport.close()
        else:
            is_idle = self._idle_since_s != NEVER_S
            self._idle_timer = self.loop.call_later(left_s, self._close_if_idle) if is_idle else None


async def _nothing(*_: object) -> None:
    """Stand in for an application, a receive or a send that is required but not used."""


class _Exchange:
    """The attributes that uvicorn's protocol reads of a request in progress, behind which it queues pipelined ones."""

    __slots__ = ("disconnected", "keep_alive", "message_event", "response_complete")

    def __init__(self) -> None:
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NO_WAITER


class _NoWaiter:
    """The event of a body that arrived complete, for which nothing waits."""

    def set(self) -> None:
        """Do nothing."""


_NO_WAITER = _NoWaiter()


def encode(response: Response, default_headers: Iterable[tuple[bytes, bytes]], *, keep_alive: bool) -> bytes:
    """Encode a response as HTTP/1.1."""
    parts = [STATUS_LINE[response.status_code]]
    for name, value in chain(default_headers, response.raw_headers):
        parts += (name, b": ", value, b"\r\n")
    parts += (b"\r\n" if keep_alive else b"connection: close\r\n\r\n", bytes(response.body))
    return b"".join(parts)
