"""ASGI middleware around the framework: request ids, metrics, limits and the last resort for unexpected exceptions."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onward.service import telemetry
from onward.service.errors import BodyTooLarge, BodyTooSlow, InternalError, MalformedRequest, ServiceError
from onward.service.http.problems import problem_response


class RequestTelemetry:
    """Give each request an id, measure it, and answer with a problem document if nothing else did."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = telemetry.begin_request(scope)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:  # the last resort: nothing else would answer or log it
            telemetry.failed(error)
            if status == 0:
                await problem_response(InternalError(), request_id)(scope, receive, send_with_id)
        finally:
            telemetry.end_request(scope, status)


class RequestLimits:
    """Refuse a path that cannot contain an id, and a body that is too slow or longer than the limit of its path."""

    def __init__(
        self, app: ASGIApp, *, max_body_bytes: int, max_body_bytes_of: Mapping[str, int], body_timeout: timedelta
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._max_body_bytes_of = max_body_bytes_of
        self._body_timeout_s = body_timeout.total_seconds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._max_body_bytes_of.get(scope["path"], self._max_body_bytes)
        received, is_complete = 0, False
        deadline_s = asyncio.get_running_loop().time() + self._body_timeout_s

        async def receive_within_limit() -> Message:
            nonlocal received, is_complete
            if is_complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline_s):
                    message = await receive()
            except TimeoutError as error:
                raise BodyTooSlow(
                    "The rest of the body did not arrive in time.", headers={"Connection": "close"}
                ) from error
            received += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if received > limit:
                raise _body_too_large(limit)
            return message

        if (refusal := _refusal(scope, limit)) is not None:
            await problem_response(refusal, telemetry.request_id(scope))(scope, receive, send)
        else:
            await self._app(scope, receive_within_limit, send)


def _refusal(scope: Scope, limit: int) -> ServiceError | None:
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if not declared.isdigit() or int(declared) > limit:
        return _body_too_large(limit)
    if not (_is_utf8(scope["raw_path"]) and _is_utf8(scope["query_string"])):
        return MalformedRequest("The path or query is not UTF-8.", headers={"Connection": "close"})
    if "\n" in scope["path"]:  # the patterns of routes do not match beyond it
        return MalformedRequest("The path holds a line break.", headers={"Connection": "close"})
    return None


def _body_too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is longer than {limit} bytes.", headers={"Connection": "close"})


def _is_utf8(encoded: bytes) -> bool:
    if b"%" not in encoded:
        return True
    try:
        unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        return False
    return True
