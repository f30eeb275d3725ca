"""Failures a client is told about: RFC 9457 problems that name a code and the request, and never echo what was sent."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as StarletteHTTPException

from onward.bundle.validation import message_of
from onward.service import telemetry

MAX_REPORTED_FAULTS = 20
NOT_FOUND, METHOD_NOT_ALLOWED = 404, 405
WHAT_THERE_IS = {
    NOT_FOUND: "Nothing is at this address; /docs shows what there is.",
    METHOD_NOT_ALLOWED: "This address takes other methods; Allow and /docs say which.",
}
NO_PLACE = "\0"
"""What the name of a schema's alternative begins with: pydantic puts it among the names and places of a request."""
UNKNOWN_FIELD = "Unknown field; /docs shows which there are"


class Fault(BaseModel):
    """One thing wrong with a request."""

    at: str = Field(description="Where: body, query or path, then names and places.", examples=["body.items.3"])
    message: str = Field(examples=["an id is 1 to 128 visible characters"])


class ServiceError(HTTPException):
    """A failure with one meaning for HTTP, stated by its class."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    sends: ClassVar[Mapping[str, str]] = {}
    """Headers that come with it, and what they say."""

    def __init__(self, detail: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(self.status, detail or self.title, headers)


class MalformedRequest(ServiceError):
    """The request is no HTTP with a JSON body that can be read in one way only."""

    status, code, title = 400, "malformed_request", "Malformed request"


class MissingKey(ServiceError):
    """The caller sent no key where one is asked for."""

    status, code, title = 401, "missing_key", "Missing key"
    sends: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": "How to send a key."}


class WrongKey(ServiceError):
    """The caller's key is not one of the deployment's."""

    status, code, title = 403, "wrong_key", "Wrong key"


class BodyTooSlow(ServiceError):
    """The body did not arrive in time."""

    status, code, title = 408, "body_too_slow", "Body too slow"


class UnsupportedMediaType(ServiceError):
    """The body is not declared as JSON."""

    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class BodyTooLarge(ServiceError):
    """The body is longer than the endpoint takes."""

    status, code, title = 413, "body_too_large", "Body too large"


class InvalidRequest(ServiceError):
    """The body, path or query breaks the endpoint's schema, or asks for what cannot be."""

    status, code, title = 422, "invalid_request", "Invalid request"

    def __init__(self, detail: str = "", faults: Sequence[Fault] = ()) -> None:
        super().__init__(detail)
        self.faults = faults

    @classmethod
    def of(cls, faults: Sequence[Fault], what: str = "request") -> Self:
        """Tell of all that is wrong with a request, or with a part of it, and where; of many faults the first ones."""
        places = "place" if len(faults) == 1 else "places"
        return cls(f"The {what} breaks the schema in {len(faults)} {places}.", faults[:MAX_REPORTED_FAULTS])


class RecommendationNotFound(ServiceError):
    """No answer of this id is kept."""

    status, code, title = 404, "recommendation_not_found", "Recommendation not found"


class RecommendationGone(ServiceError):
    """The answer is kept, but what decided it is not."""

    status, code, title = 410, "recommendation_gone", "Recommendation gone"


class SessionNotFound(ServiceError):
    """Nothing is stored for the session."""

    status, code, title = 404, "session_not_found", "Session not found"


class SessionBehind(ServiceError):
    """The session has not come to the position that the caller asked for, or it ended since."""

    status, code, title = 409, "session_behind", "Session behind"


class EventTooOld(ServiceError):
    """The event happened longer ago than the deployment takes events."""

    status, code, title = 422, "event_too_old", "Event too old"


class ItemNotFound(ServiceError):
    """The bundle's catalog does not have the item."""

    status, code, title = 404, "item_not_found", "Item not found"


class ScenarioNotFound(ServiceError):
    """No scenario of this name is stored."""

    status, code, title = 404, "scenario_not_found", "Scenario not found"


class UnknownScenario(ScenarioNotFound):
    """A request goes by a scenario that is not stored."""

    status = 422


class LimitReached(ServiceError):
    """As many things of a kind are stored as there may be."""

    status, code, title = 409, "limit_reached", "Limit reached"


class PreconditionFailed(ServiceError):
    """What is stored is another version than the one that the caller knows."""

    status, code, title = 412, "precondition_failed", "Precondition failed"


class TooManyRequests(ServiceError):
    """The caller comes more often than the rate limit says."""

    status, code, title = 429, "too_many_requests", "Too many requests"
    sends: ClassVar[Mapping[str, str]] = {"Retry-After": "Seconds until the caller's next request is let in."}


class Overloaded(ServiceError):
    """As many requests as can be worked on are in flight; nothing was done for this one."""

    status, code, title = 503, "overloaded", "Overloaded"
    sends: ClassVar[Mapping[str, str]] = {"Retry-After": "Seconds to wait; only where the service is overloaded."}


class NotReady(ServiceError):
    """No bundle is live yet."""

    status, code, title = 503, "not_ready", "Not ready"


class SessionStoreUnavailable(ServiceError):
    """The session store did not do what was asked in time; it may still do it."""

    status, code, title = 503, "session_store_unavailable", "Session store unavailable"


class LiveStoreUnavailable(ServiceError):
    """The store of live items and scenarios did not do what was asked in time; it may still do it."""

    status, code, title = 503, "live_store_unavailable", "Live store unavailable"


class InternalError(ServiceError):
    """A fault of the service itself; its log knows more."""


class Problem(BaseModel):
    """What went wrong, by RFC 9457."""

    model_config = ConfigDict(json_schema_extra={"required": ["type", "title", "status", "detail", "code"]})

    type: str = Field(description="Identifies the kind of problem.", examples=["/problems/invalid_request"])
    title: str = Field(examples=["Invalid request"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["The request breaks the schema in 1 place."])
    code: str = Field(description="The kind of problem, for programs.", examples=["invalid_request"])
    request_id: str | None = Field(default=None, description="As in X-Request-ID and the log.")
    errors: list[Fault] | None = Field(default=None, description=f"At most {MAX_REPORTED_FAULTS}, for invalid_request.")


def problem_of(error: ServiceError | StarletteHTTPException, request_id: str | None) -> Problem:
    """Describe an error; one of the framework's own (404, 405) by its HTTP meaning."""
    detail = error.detail
    if isinstance(error, ServiceError):
        code, title = error.code, error.title
    else:
        code, title = error.detail.lower().replace(" ", "_"), error.detail
        detail = WHAT_THERE_IS.get(error.status_code, detail)
    return Problem(
        type=f"/problems/{code}",
        title=title,
        status=error.status_code,
        detail=detail,
        code=code,
        request_id=request_id,
        errors=list(error.faults) or None if isinstance(error, InvalidRequest) else None,
    )


def problem_response(error: ServiceError | StarletteHTTPException, request_id: str | None) -> Response:
    """Answer with an error."""
    return Response(
        problem_of(error, request_id).model_dump_json(exclude_none=True),
        error.status_code,
        headers=dict(error.headers or {}),
        media_type="application/problem+json",
    )


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer an error of ours or of the framework's routing."""
    assert isinstance(error, StarletteHTTPException)  # noqa: S101  # it is registered for these alone
    if error.status_code == METHOD_NOT_ALLOWED and (route := request.scope.get("route")) is not None:
        # The framework would tell the methods of one of the address's routes alone.
        operations = request.app.openapi()["paths"][route.path_format]
        error.headers = {"Allow": ", ".join(method.upper() for method in operations)}
    return problem_response(error, telemetry.request_id(request.scope))


async def on_fault(request: Request, _error: Exception) -> Response:
    """Answer a fault of ours, which the framework raises again for `RequestTelemetry` to log."""
    return problem_response(InternalError(), telemetry.request_id(request.scope))


async def on_invalid_request(request: Request, error: Exception) -> Response:
    """Answer a request that breaks its schema, saying where and why but not what was sent."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  # it is registered for these alone
    faults = error.errors()
    if faults and faults[0]["type"] == "json_invalid":
        malformed = MalformedRequest(f"The body is not acceptable JSON: {faults[0]['ctx']['error']}.")
        return problem_response(malformed, telemetry.request_id(request.scope))
    return problem_response(InvalidRequest.of(faults_of(error.errors())), telemetry.request_id(request.scope))


def faults_of(found: Sequence[Any], *owner: str | int) -> list[Fault]:
    """Tell what a schema found, without what was sent; `owner` leads to what it looked at."""
    return [_fault({**fault, "loc": (*owner, *fault["loc"])}) for fault in found]


def _fault(fault: Any) -> Fault:
    """An unknown field is named by its owner, since its name is the caller's text."""
    unknown_field = fault["type"] == "extra_forbidden"
    place = fault["loc"][:-1] if unknown_field else fault["loc"]
    named = [str(part) for part in place if not str(part).startswith(NO_PLACE)]
    return Fault(at=".".join(named), message=UNKNOWN_FIELD if unknown_field else message_of(fault))
