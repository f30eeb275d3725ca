"""FastRoute: an endpoint that the framework documents and the dispatcher can call. See decision 14."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError

from onward.service.http.scopes import require_scope
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

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Replace the framework's handler."""
        self._require_a_simple_endpoint()
        parts = self.dependant.dependencies
        self._parts = [(part.name or "", part.call.name) for part in parts]  # type: ignore[union-attr]  # ServiceParts
        return self.respond

    async def respond(self, request: Request, content: bytes | None = None) -> Response:
        """Call the endpoint with the content of a request, which the framework holds if it is None.

        Raises RequestValidationError, and the ServiceErrors of the endpoint.
        """
        body, answer, dependant, status_code = self.body_field, self.response_field, self.dependant, self.status_code
        assert body is not None and answer is not None  # noqa: S101, PT018  # a simple endpoint has both
        require_scope(request.scope, self.name)
        require_json(request.scope)
        if content is None:
            content = await request.body()
        value, errors = body.validate(parse_body(content), {}, loc=("body",))
        if errors:
            raise RequestValidationError(errors)
        arguments = {body.name: value}
        state = request.scope["state"]
        for argument, part in self._parts:
            arguments[argument] = state[part]
        if dependant.request_param_name:
            arguments[dependant.request_param_name] = request
        response = None
        if dependant.response_param_name:
            arguments[dependant.response_param_name] = response = JSONBytes(status_code=status_code or 200)
        result = await self.endpoint(**arguments)
        if isinstance(result, Response):
            return result
        response = response or JSONBytes(status_code=status_code or 200)
        response.complete(answer.serialize_json(result, exclude_none=self.response_model_exclude_none))
        return response

    def _require_a_simple_endpoint(self) -> None:
        dependant = self.dependant
        others = (dependant.path_params, dependant.query_params, dependant.header_params, dependant.cookie_params)
        only_parts = all(isinstance(part.call, ServicePart) for part in dependant.dependencies)
        if any(others) or not only_parts or len(dependant.body_params) != 1 or self.response_field is None:
            raise TypeError(f"{self.path}: a fast route takes one body and service parts, and returns a model")
