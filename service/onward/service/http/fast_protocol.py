"""The shortcut: hot requests that came whole are answered without ASGI, by the routes and checks of all others.

A server that knows of no shortcut serves the same application by ASGI alone.
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
from onward.service.errors import InternalError, problem_response
from onward.service.http.admission import Admission
from onward.service.http.fast_route import HotPaths
from onward.service.http.middleware import begin_request, end_request

SHORTCUT = "shortcut"
"""Where the state of the application has it."""
LARGEST_BODY = 16 * 2**10
"""In bytes; a larger body goes by ASGI, where every path has a limit of its own."""
NEVER_S = math.inf
FORWARDED = b"x-forwarded-"
"""What the headers begin with in which a proxy says who the caller is."""


class Shortcut:
    """Answers requests of hot routes."""

    def __init__(self, hot_paths: HotPaths, admission: Admission) -> None:
        self._hot_paths = hot_paths
        self._admission = admission
        self._targets = {(method.encode(), path.encode()) for method, path in hot_paths.routes}

    def takes(self, method: bytes, target: bytes) -> bool:
        """Whether this is the way of a request."""
        return (method, target) in self._targets

    async def answer(self, scope: Scope, body: bytes) -> Response:
        """Do all that is done for a request, whatever it meets."""
        request_id = begin_request(scope)
        try:
            if (refusal := self._admission.refusal(scope)) is not None:
                response = problem_response(refusal, request_id)
            else:
                with self._admission.in_flight:
                    response = await self._hot_paths.answer(Request(scope), body)
        except Exception as error:  # the last resort: nothing else would answer or log it
            telemetry.failed(error)
            response = problem_response(InternalError(), request_id)
        response.raw_headers.append((b"x-request-id", request_id.encode()))
        end_request(scope, response.status_code)
        return response


class ShortcutProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, with the shortcut for what comes whole in one read while nothing else of its connection waits."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        shortcut: Shortcut | None = app_state.get(SHORTCUT)
        takes_all = config.limit_concurrency is None and not config.root_path
        self._shortcut = shortcut if takes_all else None
        self._proxy: Any = None
        """Tells who the caller is behind a proxy, where that counts."""
        if config.proxy_headers:
            self._proxy = ProxyHeadersMiddleware(_nothing, config.forwarded_allow_ips or "")
        self._body: bytes | None = None
        """Of a request that may take the shortcut, as far as it came; None while there is no such request."""
        self._idle_since_s = NEVER_S
        """When the last answer was written, while nothing else has come."""
        self._watch: asyncio.TimerHandle | None = None
        """Of an idle connection; one for many answers, since a timer for each would take 6 % of a request."""

    def data_received(self, data: bytes) -> None:
        """By asyncio."""
        self._idle_since_s = NEVER_S
        super().data_received(data)
        if self._body is not None:
            self._go_by_asgi()

    def connection_lost(self, exc: Exception | None) -> None:
        """By asyncio."""
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """By the parser."""
        if self._may_take_shortcut():
            self._body = b""
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """By the parser."""
        if self._body is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        """By the parser."""
        body, shortcut = self._body, self._shortcut
        if body is None or shortcut is None:
            super().on_message_complete()
        elif len(body) > LARGEST_BODY:
            self._go_by_asgi()
            super().on_message_complete()
        else:
            self._body = None
            self._take_shortcut(shortcut, body)

    def _may_take_shortcut(self) -> bool:
        """Tell by the head of a request; nothing of the connection that came before may still be in work."""
        parser, shortcut = self.parser, self._shortcut
        return (
            shortcut is not None
            and shortcut.takes(parser.get_method(), self.url)
            and (self.cycle is None or self.cycle.response_complete)
            and not self.expect_100_continue
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
        )

    def _go_by_asgi(self) -> None:
        """Begin a request by ASGI with what came of its body."""
        body, self._body = self._body, None
        super().on_headers_complete()
        if body:
            super().on_body(body)

    def _take_shortcut(self, shortcut: Shortcut, body: bytes) -> None:
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]  # a dictionary of uvicorn's own kind
        scope["method"] = self.parser.get_method().decode()
        scope["raw_path"], scope["path"], scope["query_string"] = self.url, self.url.decode(), b""
        exchange = _Exchange()
        self.cycle = exchange  # type: ignore[assignment]  # it is one, as far as a protocol asks
        task = self.loop.create_task(self._answer(shortcut, exchange, scope, body))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _answer(self, shortcut: Shortcut, exchange: "_Exchange", scope: Scope, body: bytes) -> None:
        if self._proxy is not None and any(name.startswith(FORWARDED) for name, _ in scope["headers"]):
            await self._proxy(scope, _nothing, _nothing)
        response = await shortcut.answer(scope, body)
        if self.flow.write_paused and not exchange.disconnected:
            await self.flow.drain()
        if exchange.disconnected or self.transport.is_closing():
            return
        self.transport.write(written(response, self.server_state.default_headers, keep_alive=exchange.keep_alive))
        exchange.response_complete = True
        if not exchange.keep_alive:
            self.transport.close()
        if self.pipeline or not exchange.keep_alive:
            self.on_response_complete()
        else:
            self._be_idle()

    def _be_idle(self) -> None:
        """Wait for another request, as long as the server lets a connection wait."""
        self.server_state.total_requests += 1
        self._idle_since_s = self.loop.time()
        if self._watch is None:
            self._watch = self.loop.call_later(self.timeout_keep_alive, self._look_whether_idle)

    def _look_whether_idle(self) -> None:
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s <= 0:
            self.transport.close()
        else:
            waits = self._idle_since_s != NEVER_S
            self._watch = self.loop.call_later(left_s, self._look_whether_idle) if waits else None


async def _nothing(*_: object) -> None:
    """For what asks for an application, a receive or a send, of which it makes no use."""


class _Exchange:
    """What uvicorn's protocol asks of the request that is in work; it queues what is pipelined behind it."""

    __slots__ = ("disconnected", "keep_alive", "message_event", "response_complete")

    def __init__(self) -> None:
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NOBODY_WAITS


class _NobodyWaits:
    """For a body that came whole."""

    def set(self) -> None:
        """Do nothing."""


_NOBODY_WAITS = _NobodyWaits()


def written(response: Response, default_headers: Iterable[tuple[bytes, bytes]], *, keep_alive: bool) -> bytes:
    """Write a response by HTTP/1.1."""
    parts = [STATUS_LINE[response.status_code]]
    for name, value in chain(default_headers, response.raw_headers):
        parts += (name, b": ", value, b"\r\n")
    parts += (b"\r\n" if keep_alive else b"connection: close\r\n\r\n", bytes(response.body))
    return b"".join(parts)
