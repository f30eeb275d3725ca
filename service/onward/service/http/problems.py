"""Problem documents (RFC 9457): how errors are written in HTTP, with a code and nothing of what was sent but names."""

import difflib
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from onward.bundle.validation import message_of
from onward.service import telemetry
from onward.service.errors import (
    MAX_REPORTED_FAULTS,
    Fault,
    InternalError,
    InvalidRequest,
    MalformedRequest,
    Overloaded,
    ServiceError,
)
from onward.service.fields import known_fields

NOT_FOUND, METHOD_NOT_ALLOWED = 404, 405
DETAILS = {
    NOT_FOUND: "No endpoint has this path; see /docs.",
    METHOD_NOT_ALLOWED: "This path does not support the method; see the Allow header and /docs.",
}
UNION_TAG = "\0"
"""Prefix of the tags of a tagged union. pydantic puts the tag into error locations, where it is not a field."""
PLACEHOLDER = "request-id"
MAX_NAME_LENGTH = 64
"""Characters of an unknown field's name that are repeated."""


class Problem(BaseModel):
    """An error, as an RFC 9457 problem document."""

    model_config = ConfigDict(json_schema_extra={"required": ["type", "title", "status", "detail", "code"]})

    type: str = Field(description="Identifies the kind of problem.", examples=["/problems/invalid_request"])
    title: str = Field(examples=["Invalid request"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["The request violates the schema in 1 place."])
    code: str = Field(description="The kind of problem, for programs.", examples=["invalid_request"])
    request_id: str | None = Field(default=None, description="Id of the request, as in X-Request-ID and the log.")
    errors: list[Fault] | None = Field(default=None, description=f"At most {MAX_REPORTED_FAULTS}, for invalid_request.")


def problem_of(error: ServiceError | HTTPException, request_id: str | None) -> Problem:
    """Describe an error of the service, or one of the framework's routing (404, 405)."""
    if isinstance(error, ServiceError):
        status, code, title, detail = error.status, error.code, error.title, error.detail
    else:
        status, title = error.status_code, error.detail
        code, detail = title.lower().replace(" ", "_"), DETAILS.get(status, title)
    faults = list(error.faults) if isinstance(error, InvalidRequest) else []
    return Problem(
        type=f"/problems/{code}",
        title=title,
        status=status,
        detail=detail,
        code=code,
        request_id=request_id,
        errors=faults or None,
    )


def problem_response(error: ServiceError | HTTPException, request_id: str | None) -> Response:
    """Return the response to a request that failed."""
    problem = problem_of(error, request_id)
    return Response(
        problem.model_dump_json(exclude_none=True),
        problem.status,
        headers=dict(error.headers or {}),
        media_type="application/problem+json",
    )


class OverloadResponse(Response):
    """The response to a request that is refused because of load, from parts that are the same for every one."""

    def __init__(self, request_id: str, retry_after_s: int) -> None:
        before, after = _overload_body()
        self.status_code = Overloaded.status
        self.background = None
        self.body = before + request_id.encode() + after
        self.raw_headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(self.body)),
            (b"retry-after", b"%d" % retry_after_s),
        ]


@cache
def _overload_body() -> tuple[bytes, bytes]:
    """Return the problem document before and after the request id."""
    overloaded = Overloaded("The service is handling its maximum number of requests.")
    before, after = problem_of(overloaded, PLACEHOLDER).model_dump_json(exclude_none=True).split(PLACEHOLDER)
    return before.encode(), after.encode()


def add_error_handlers(app: FastAPI) -> None:
    """Have an application answer every error with a problem document."""
    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(Exception, on_fault)


async def on_service_error(request: Request, error: Exception) -> Response:
    """Handle an error of the service."""
    assert isinstance(error, ServiceError)  # noqa: S101  # registered for this class only
    return problem_response(error, telemetry.request_id(request.scope))


async def on_http_error(request: Request, error: Exception) -> Response:
    """Handle an error of the framework's routing."""
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for this class only
    if error.status_code == METHOD_NOT_ALLOWED and (route := request.scope.get("route")) is not None:
        # The framework would list the methods of only one of the routes with this path.
        operations = request.app.openapi()["paths"][route.path_format]
        error.headers = {"Allow": ", ".join(method.upper() for method in operations)}
    return problem_response(error, telemetry.request_id(request.scope))


async def on_fault(request: Request, _error: Exception) -> Response:
    """Handle an unexpected exception; the framework raises it again, so that the dispatcher logs it."""
    return problem_response(InternalError(), telemetry.request_id(request.scope))


async def on_invalid_request(request: Request, error: Exception) -> Response:
    """Handle a request that violates its schema: say where and why, without what was sent."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  # registered for this class only
    faults = error.errors()
    if faults and faults[0]["type"] == "json_invalid":
        malformed = MalformedRequest(f"The body is not acceptable JSON: {faults[0]['ctx']['error']}.")
        return problem_response(malformed, telemetry.request_id(request.scope))
    return problem_response(InvalidRequest.of(faults_of(faults)), telemetry.request_id(request.scope))


def faults_of(errors: Sequence[Any], *location: str | int) -> list[Fault]:
    """Convert pydantic's errors to faults, without what was sent; `location` is that of the validated value."""
    return [_fault({**error, "loc": (*location, *error["loc"])}) for error in errors]


def _fault(error: Any) -> Fault:
    """An unknown field is reported at its parent, since its name is the caller's text."""
    location, message = error["loc"], message_of(error)
    if error["type"] == "extra_forbidden":
        *location, name = location
        message = _unknown_field(str(name))
    names = [str(part) for part in location if not str(part).startswith(UNION_TAG)]
    return Fault(at=".".join(names), message=message)


def _unknown_field(name: str) -> str:
    nearest = difflib.get_close_matches(name[:MAX_NAME_LENGTH], known_fields(), n=1)
    advice = f"did you mean {nearest[0]}?" if nearest else "see /docs for the known ones"
    return f"Unknown field {json.dumps(name[:MAX_NAME_LENGTH])}; {advice}"
