"""HotRoute: an endpoint that the framework documents, without what the framework does anew for each request."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError

from service.strict_json import StrictJSONRoute, parse, require_json

JSON = "application/json"


class HotRoute(StrictJSONRoute):
    """A StrictJSONRoute of an endpoint that takes one body, and besides it parts of the service, request and response.

    Requests are validated, refused and answered as by that route, by the same fields that the documentation is made
    of, at about a third of its cost. What else an endpoint might ask of the framework is refused at definition.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Replace the framework's handler."""
        self._require_a_simple_endpoint()
        body, answer, status_code = self.body_field, self.response_field, self.status_code or 200
        assert body is not None and answer is not None  # noqa: S101, PT018  # a simple endpoint has both
        endpoint, taken = self.endpoint, self.dependant
        parts = [(part.name or "", part.call) for part in taken.dependencies]

        async def handle(request: Request) -> Response:
            require_json(request.scope)
            value, errors = body.validate(_sent(await request.body()), {}, loc=("body",))
            if errors:
                raise RequestValidationError(errors)
            given = {name: await part(request) for name, part in parts}  # type: ignore[misc]  # each is a coroutine function
            given[body.name] = value
            also = Response()
            also.status_code = status_code
            if taken.request_param_name:
                given[taken.request_param_name] = request
            if taken.response_param_name:
                given[taken.response_param_name] = also
            content = answer.serialize_json(await endpoint(**given), exclude_none=self.response_model_exclude_none)
            response = Response(content, also.status_code, media_type=JSON)
            response.raw_headers += [header for header in also.raw_headers if header[0] != b"content-length"]
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


def _sent(content: bytes) -> Any:
    if not content:
        raise RequestValidationError([{"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}])
    try:
        return parse(content)
    except json.JSONDecodeError as error:
        fault = {"type": "json_invalid", "loc": ("body", error.pos), "msg": "JSON decode error", "input": {}}
        raise RequestValidationError([{**fault, "ctx": {"error": error.msg}}]) from error
