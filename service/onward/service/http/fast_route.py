"""HotRoute: an endpoint that the framework documents, without what the framework does anew for each request."""

import json
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from onward.service.errors import MalformedRequest, on_http_error, on_invalid_request
from onward.service.http.json_response import JSONBytes
from onward.service.http.strict_json import StrictJSONRoute, parse, require_json


class HotRoute(StrictJSONRoute):
    """A StrictJSONRoute of an endpoint that takes one body, and besides it parts of the service, request and response.

    Requests are validated, refused and answered as by that route, by the same fields that the documentation is made
    of, at about a third of its cost. What else an endpoint might ask of the framework is refused at definition.
    """

    def get_route_handler(self) -> Callable[..., Coroutine[Any, Any, Response]]:
        """Replace the framework's handler, by one that may be given the content of the request too."""
        self._require_a_simple_endpoint()
        body, answer, status_code = self.body_field, self.response_field, self.status_code or 200
        assert body is not None and answer is not None  # noqa: S101, PT018  # a simple endpoint has both
        endpoint, taken = self.endpoint, self.dependant
        parts = [(part.name or "", part.call) for part in taken.dependencies]

        async def handle(request: Request, content: bytes | None = None) -> Response:
            require_json(request.scope)
            if content is None:
                content = await _body(request.receive)
            value, errors = body.validate(_sent(content), {}, loc=("body",))
            if errors:
                raise RequestValidationError(errors)
            given = {body.name: value}
            for name, part in parts:
                given[name] = await part(request)  # type: ignore[misc]  # each is a coroutine function
            if taken.request_param_name:
                given[taken.request_param_name] = request
            response = None
            if taken.response_param_name:
                given[taken.response_param_name] = response = JSONBytes(status_code=status_code)
            found = await endpoint(**given)
            if isinstance(found, Response):
                return found
            response = response or JSONBytes(status_code=status_code)
            response.complete(answer.serialize_json(found, exclude_none=self.response_model_exclude_none))
            return response

        return handle

    def _require_a_simple_endpoint(self) -> None:
        taken = self.dependant
        others = (taken.path_params, taken.query_params, taken.header_params, taken.cookie_params)
        nested = any(
            part.dependencies or part.query_params or not part.request_param_name for part in taken.dependencies
        )
        if any(others) or nested or len(taken.body_params) != 1 or self.response_field is None:
            raise TypeError(f"{self.path}: a hot route takes one body and parts of the service, and gives a model")


class HotPaths:
    """Lead the requests of hot routes straight to them, past the framework; all others go on to it."""

    def __init__(self, app: ASGIApp, *, routers: Iterable[APIRouter]) -> None:
        self._app = app
        self.routes = {
            (method, route.path): (route, route.get_route_handler())
            for router in routers
            for route in router.routes
            if isinstance(route, HotRoute)
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, by ASGI."""
        is_plain = (scope.get("method"), scope.get("path")) in self.routes and not scope.get("root_path")
        if not is_plain or b"%" in scope["raw_path"]:
            await self._app(scope, receive, send)
            return
        response = await self.answer(Request(scope, receive))
        await response(scope, receive, send)

    async def answer(self, request: Request, content: bytes | None = None) -> Response:
        """Answer a request of a hot route, of which the whole content is here, or is yet to be received."""
        scope = request.scope
        scope["route"], handle = self.routes[scope["method"], scope["path"]]
        try:
            return await handle(request, content)
        except HTTPException as error:
            return await on_http_error(request, error)
        except RequestValidationError as error:
            return await on_invalid_request(request, error)


async def _body(receive: Receive) -> bytes:
    """Read the whole body. Raises MalformedRequest where the caller leaves before its end."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise MalformedRequest("The body did not come whole.")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _sent(content: bytes) -> Any:
    if not content:
        raise RequestValidationError([{"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}])
    try:
        return parse(content)
    except json.JSONDecodeError as error:
        fault = {"type": "json_invalid", "loc": ("body", error.pos), "msg": "JSON decode error", "input": {}}
        raise RequestValidationError([{**fault, "ctx": {"error": error.msg}}]) from error
