"""FastProtocol: requests of fast routes that arrive complete, in one read, are answered without ASGI.

All others go through ASGI and the framework's routing to the same FastRoute. Both ways have the same checks and give
the same bytes; a server without this protocol serves all requests by ASGI.
"""

import asyncio
import math
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from onward.service import telemetry
from onward.service.errors import InternalError, ServiceError
from onward.service.http.admission import Admission
from onward.service.http.fast_route import FastRoute
from onward.service.http.problems import on_invalid_request, problem_response

FAST_ROUTES = "fast_routes"
ADMISSION = "admission"
"""Names under which the application's state holds its fast routes and its Admission."""
MAX_BODY_BYTES = 16 * 2**10
"""A larger body is handled through ASGI, where every path has its own limit."""
NEVER_S = math.inf

FastRoutes = Mapping[tuple[bytes, bytes], FastRoute]
"""Fast routes by method and target, as a request line has them."""


def fast_routes(routers: Iterable[APIRouter]) -> FastRoutes:
    """Return the fast routes among those of the routers."""
    return {
        (method.encode(), route.path.encode()): route
        for router in routers
        for route in router.routes
        if isinstance(route, FastRoute)
        for method in route.methods or ()
    }


async def respond(route: FastRoute, admission: Admission, scope: Scope, body: bytes) -> Response:
    """Do what the middleware and the framework do for a request by ASGI; an unexpected exception becomes a 500."""
    request_id, request = telemetry.begin_request(scope), Request(scope)
    try:
        if (refusal := admission.refusal(scope)) is not None:
            response = problem_response(refusal, request_id)
        else:
            with admission.in_flight:
                scope["route"] = route
                response = await route.respond(request, body)
    except ServiceError as error:
        response = problem_response(error, request_id)
    except RequestValidationError as error:
        response = await on_invalid_request(request, error)
    except Exception as error:  # the last resort: nothing else would answer or log it
        telemetry.failed(error)
        response = problem_response(InternalError(), request_id)
    response.raw_headers.append((b"x-request-id", request_id.encode()))
    telemetry.end_request(scope, response.status_code)
    return response


class FastProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, which answers some requests itself.

    A connection is in one of these states:

    - receiving: a head or body is incomplete. A request that this protocol may answer has a `_route` as soon as its
      head is complete, and its body is collected here; if it is still incomplete at the end of a read, or too long, it
      is handed over to ASGI, as all others are at the end of their head.
    - answering: `cycle` is the request that is answered, here or by ASGI. Requests that arrive meanwhile go to ASGI,
      where uvicorn queues them.
    - idle: `_idle_since_s` is when the last response was written. The connection is closed after the keep-alive
      timeout.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        takes_any = config.limit_concurrency is None and not config.root_path
        self._routes: FastRoutes = app_state.get(FAST_ROUTES, {}) if takes_any else {}
        self._proxy: Any = None
        """Sets the client's address from a proxy's headers, if proxy headers are enabled."""
        if config.proxy_headers:
            self._proxy = ProxyHeadersMiddleware(_nothing, config.forwarded_allow_ips or "")
        self._route: FastRoute | None = None
        """The route of the request that is received and may be answered here."""
        self._body = b""
        """The part of its body that was received."""
        self._idle_since_s = NEVER_S
        """When the last response was written, if no request has arrived since."""
        self._idle_timer: asyncio.TimerHandle | None = None
        """One timer for many responses: a timer for each would take 6 % of the time of a request."""

    def data_received(self, data: bytes) -> None:
        """Feed the parser; a request that is incomplete afterwards is handed over to ASGI."""
        self._idle_since_s = NEVER_S
        super().data_received(data)
        if self._route is not None:
            self._hand_over()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """Decide by the head who answers the request."""
        self._route = self._fast_route()
        if self._route is None:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Collect a part of the body."""
        if self._route is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        """Answer the request, unless its body is too long."""
        if len(self._body) > MAX_BODY_BYTES:
            self._hand_over()
        if self._route is None:
            super().on_message_complete()
        else:
            self._answer(self._route)

    def _fast_route(self) -> FastRoute | None:
        """Return the route of a request that may be answered here: nothing else is pending on the connection."""
        parser = self.parser
        route = self._routes.get((parser.get_method(), self.url))
        is_answering = self.cycle is not None and not self.cycle.response_complete
        return None if is_answering or self.expect_100_continue or parser.should_upgrade() else route

    def _hand_over(self) -> None:
        """Let ASGI answer the request that is received, with the part of its body that was collected."""
        body = self._body
        self._route, self._body = None, b""
        super().on_headers_complete()
        if body:
            super().on_body(body)

    def _answer(self, route: FastRoute) -> None:
        """Answer the request that was received."""
        parser, body = self.parser, self._body
        self._route, self._body = None, b""
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]  # uvicorn's own typed dictionary
        scope["method"], scope["http_version"] = parser.get_method().decode(), parser.get_http_version()
        scope["raw_path"], scope["path"], scope["query_string"] = self.url, self.url.decode(), b""
        exchange = _Exchange(keep_alive=scope["http_version"] != "1.0" and parser.should_keep_alive())
        self.cycle = exchange  # type: ignore[assignment]  # it has the attributes that the protocol reads of a cycle
        task = self.loop.create_task(self._respond(route, exchange, scope, body))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _respond(self, route: FastRoute, exchange: "_Exchange", scope: Scope, body: bytes) -> None:
        if self._proxy is not None:
            await self._proxy(scope, _nothing, _nothing)
        response = await respond(route, self.app_state[ADMISSION], scope, body)
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

    def __init__(self, *, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
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
