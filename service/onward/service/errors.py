"""Failures that a client is told about, each a class with an HTTP status and a code; `http.problems` writes them."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from pydantic import BaseModel, Field

MAX_REPORTED_FAULTS = 20


class Fault(BaseModel):
    """One thing wrong with a request."""

    at: str = Field(description="Where: body, query or path, then names and places.", examples=["body.items.3"])
    message: str = Field(examples=["an id is 1 to 128 visible characters"])


class ServiceError(Exception):
    """A failure that a client is told about; its class states the HTTP status, the code and the title."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    sends: ClassVar[Mapping[str, str]] = {}
    """Response headers that come with it, each with its description."""

    def __init__(self, detail: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.headers = dict(headers or {})


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
