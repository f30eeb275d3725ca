"""FastRoute: an endpoint that the framework documents but does not dispatch. See decision 14."""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from onward.service.errors import MalformedRequest, ServiceError
from onward.service.http.problems import on_invalid_request, on_service_error
from onward.service.http.serialization import JSONBytes
from onward.service.http.strict_json import StrictJSONRoute, parse_body, require_json


class ServicePart:
    """A dependency of endpoints: the part of the service that the lifespan stored in the state under `name`."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, request: Request) -> Any:
        """Return the part."""
        return request.scope["state"][self.name]


class FastRoute(StrictJSONRoute):
    """A StrictJSONRoute whose endpoint takes one body and besides it only service parts, the request and the response.

    Requests are validated and answered as by StrictJSONRoute, with the fields from which the documentation is made, at
    about a third of its cost. An endpoint that needs more of the framework is rejected at definition.
    """

    def get_route_handler(self) -> Callable[..., Coroutine[Any, Any, Response]]:
        """Replace the framework's handler by one that also accepts the content of the request."""
        self._require_a_simple_endpoint()
        body, answer, status_code = self.body_field, self.response_field, self.status_code or 200
        assert body is not None and answer is not None  # noqa: S101, PT018  # a simple endpoint has both
        endpoint, dependant = self.endpoint, self.dependant
        parts = [(part.name or "", part.call.name) for part in dependant.dependencies]  # type: ignore[union-attr]  # ServiceParts

        async def handle(request: Request, content: bytes | None = None) -> Response:
            require_json(request.scope)
            if content is None:
                content = await _body(request.receive)
            value, errors = body.validate(parse_body(content), {}, loc=("body",))
            if errors:
                raise RequestValidationError(errors)
            arguments = {body.name: value}
            state = request.scope["state"]
            for name, part in parts:
                arguments[name] = state[part]
            if dependant.request_param_name:
                arguments[dependant.request_param_name] = request
            response = None
            if dependant.response_param_name:
                arguments[dependant.response_param_name] = response = JSONBytes(status_code=status_code)
            result = await endpoint(**arguments)
            if isinstance(result, Response):
                return result
            response = response or JSONBytes(status_code=status_code)
            response.complete(answer.serialize_json(result, exclude_none=self.response_model_exclude_none))
            return response

        return handle

    def _require_a_simple_endpoint(self) -> None:
        dependant = self.dependant
        others = (dependant.path_params, dependant.query_params, dependant.header_params, dependant.cookie_params)
        only_parts = all(isinstance(part.call, ServicePart) for part in dependant.dependencies)
        if any(others) or not only_parts or len(dependant.body_params) != 1 or self.response_field is None:
            raise TypeError(f"{self.path}: a fast route takes one body and service parts, and returns a model")


class FastRoutes:
    """Dispatch requests of fast routes directly to their handlers; pass all others on to the framework."""

    def __init__(self, app: ASGIApp, *, routers: Iterable[APIRouter]) -> None:
        self._app = app
        self.handlers = {
            (method, route.path): (route, route.get_route_handler())
            for router in routers
            for route in router.routes
            if isinstance(route, FastRoute)
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the ASGI application."""
        is_fast = (scope.get("method"), scope.get("path")) in self.handlers and not scope.get("root_path")
        if not is_fast or b"%" in scope["raw_path"]:
            await self._app(scope, receive, send)
            return
        response = await self.respond(Request(scope, receive))
        await response(scope, receive, send)

    async def respond(self, request: Request, content: bytes | None = None) -> Response:
        """Handle a request of a fast route, whose content has been received, or is received here if None."""
        scope = request.scope
        scope["route"], handle = self.handlers[scope["method"], scope["path"]]
        try:
            return await handle(request, content)
        except ServiceError as error:
            return await on_service_error(request, error)
        except RequestValidationError as error:
            return await on_invalid_request(request, error)


async def _body(receive: Receive) -> bytes:
    """Receive the whole body. Raises MalformedRequest if the caller disconnects before its end."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise MalformedRequest("The connection was closed before the end of the body.")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)
