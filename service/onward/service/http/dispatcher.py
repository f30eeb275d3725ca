"""Dispatcher: from a request whose body has arrived to its response, the same way for every endpoint and server."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from onward.service import telemetry
from onward.service.errors import BodyTooLarge, InternalError, MalformedRequest, ServiceError
from onward.service.http.admission.admission import Admission
from onward.service.http.content_coding import MIN_COMPRESSED_BYTES, compress, decoded
from onward.service.http.cors import CORS
from onward.service.http.fast_route import FastRoute
from onward.service.http.path_ids import decoded_path, route_path
from onward.service.http.problems import on_invalid_request, problem_response

FORWARDED = b"x-forwarded-"
"""Prefix of the headers in which a proxy names the client."""


class Dispatcher:
    """Admits requests, hands them to their endpoints, and answers whatever these raise.

    Requests of fast routes go to their handlers directly, all others through the framework.
    """

    def __init__(
        self,
        framework: ASGIApp,
        *,
        routers: Iterable[APIRouter],
        admission: Admission,
        cors: CORS,
        max_body_bytes: int,
        trusted_proxies: str | None = None,
    ) -> None:
        """Wrap the framework's application.

        Args:
            framework: the application of FastAPI.
            routers: the routers of the application, whose fast routes bypass it.
            admission: the checks before a request is handled.
            cors: what scripts of other origins may do.
            max_body_bytes: limit of a body, before and after decompression.
            trusted_proxies: addresses of the proxies whose headers name the client, separated by commas; None if the
                client's address is not needed.
        """
        self._framework = framework
        self._admission = admission
        self._cors = cors
        self._max_body_bytes = max_body_bytes
        self._proxy = None if trusted_proxies is None else ProxyHeadersMiddleware(_nothing, trusted_proxies)
        self._fast_routes = {
            (method, route.path): route
            for router in routers
            for route in router.routes
            if isinstance(route, FastRoute)
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run as an ASGI application, in another server than this service's own."""
        if scope["type"] != "http":
            await self._framework(scope, receive, send)
            return
        body = await _received(receive, self._max_body_bytes)
        response = self.admit(scope) or await self.respond(scope, body)
        await response(scope, receive, send)

    def admit(self, scope: Scope) -> Response | None:
        """Begin a request whose body has arrived; return the response if the load forbids it.

        `respond` must be called for every admitted request.
        """
        telemetry.begin_request(scope)
        refusal = self._admission.overload(scope)
        return None if refusal is None else self._completed(scope, refusal)

    async def respond(self, scope: Scope, body: bytes | ServiceError) -> Response:
        """Return the response to an admitted request, given its body or why there is none.

        An exception becomes a 500.
        """
        concurrency = self._admission.concurrency
        concurrency.start(telemetry.elapsed_s(scope))
        is_head = scope["method"] == "HEAD"
        if is_head:
            scope["method"] = "GET"
        try:
            response = await self._answer(scope, body)
        except ServiceError as error:
            response = problem_response(error, telemetry.request_id(scope))
        except Exception as error:  # the last resort: nothing else would answer or log it
            telemetry.failed(error)
            response = problem_response(InternalError(), telemetry.request_id(scope))
        finally:
            concurrency.leave()
            if is_head:
                scope["method"] = "HEAD"  # else an ASGI server would miss the body
        return self._completed(scope, response)

    def _completed(self, scope: Scope, response: Response) -> Response:
        """Add the headers that every response has, and report it."""
        if self._cors.is_on:
            self._cors.complete(scope, response)
        if len(response.body) >= MIN_COMPRESSED_BYTES:
            compress(scope, response)
        request_id: str = scope["state"]["request_id"]
        response.raw_headers.append((b"x-request-id", request_id.encode()))
        telemetry.end_request(scope, response.status_code)
        if scope["method"] == "HEAD":
            response.body = b""  # the headers still give its length
        return response

    async def _answer(self, scope: Scope, body: bytes | ServiceError) -> Response:
        if self._cors.is_on and (preflight := self._cors.preflight(scope)) is not None:
            return preflight
        if self._proxy is not None and any(name.startswith(FORWARDED) for name, _ in scope["headers"]):
            await self._proxy(scope, _nothing, _nothing)  # type: ignore[arg-type]  # it only changes the scope
        if b"%" in scope["raw_path"] or b"%" in scope["query_string"]:
            _decode_path(scope)
        if (refusal := self._admission.refusal(scope)) is not None:
            if not isinstance(refusal, ServiceError):
                refusal = await refusal
            if refusal is not None:
                raise refusal
        if isinstance(body, ServiceError):
            raise body
        content = decoded(scope, body, self._max_body_bytes)
        if (route := self._fast_routes.get((scope["method"], route_path(scope)))) is None:
            return await _captured(self._framework, scope, content)
        scope["route"] = route
        request = Request(scope)
        try:
            return await route.respond(request, content)
        except RequestValidationError as error:
            return await on_invalid_request(request, error)


async def _received(receive: Receive, max_bytes: int) -> bytes | ServiceError:
    """Receive a body; return an error if it is too long, or if the caller disconnects before its end."""
    parts, length = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return MalformedRequest("The connection was closed before the end of the body.")
        part = message.get("body", b"")
        parts.append(part)
        length += len(part)
        if length > max_bytes:
            return BodyTooLarge(f"The body is longer than {max_bytes} bytes.")
        if not message.get("more_body", False):
            return b"".join(parts)


async def _captured(app: ASGIApp, scope: Scope, body: bytes) -> Response:
    """Run an ASGI application on a complete body, and return its response."""
    response, parts, is_received = Response(), [], False

    async def receive() -> Message:
        nonlocal is_received
        if is_received:
            return {"type": "http.disconnect"}
        is_received = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            response.status_code, response.raw_headers = message["status"], list(message["headers"])
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, send)
    response.body = b"".join(parts)
    return response


def _decode_path(scope: Scope) -> None:
    """Decode the percent-encoded path; raise MalformedRequest if the path or the query cannot hold what they mean."""
    raw_path: bytes = scope["raw_path"]
    if not (_is_utf8(raw_path) and _is_utf8(scope["query_string"])):
        raise MalformedRequest("The path or query is not UTF-8.")
    scope["path"] = decoded_path(raw_path)
    if "\n" in scope["path"]:  # the patterns of routes do not match beyond it
        raise MalformedRequest("The path holds a line break.")


def _is_utf8(encoded: bytes) -> bool:
    try:
        unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        return False
    return True


async def _nothing(*_: Any) -> None:
    """Stand in for an application, a receive or a send that is required but not used."""
