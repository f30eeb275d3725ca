"""Errors that are reported to the client, each a class with an HTTP status and a code; `http.problems` writes them."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from pydantic import BaseModel, Field

MAX_REPORTED_FAULTS = 20


class Fault(BaseModel):
    """One violation of a request's schema."""

    at: str = Field(
        description="Location: body, query or path, then field names and list indices.", examples=["body.items.3"]
    )
    message: str = Field(examples=["an id has 1 to 128 characters"])


class ServiceError(Exception):
    """An error that is reported to the client; its class defines the HTTP status, the code and the title."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    response_headers: ClassVar[Mapping[str, str]] = {}
    """Headers of the response, each with its description for the API documentation."""

    def __init__(self, detail: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.headers = dict(headers or {})


class MalformedRequest(ServiceError):
    """The request is not valid HTTP, or its body is not unambiguous JSON."""

    status, code, title = 400, "malformed_request", "Malformed request"


class MissingKey(ServiceError):
    """The caller sent no key although the deployment requires one."""

    status, code, title = 401, "missing_key", "Missing key"
    response_headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": "How to send a key."}


class WrongKey(ServiceError):
    """The caller's API key is not one of the deployment's."""

    status, code, title = 403, "wrong_key", "Wrong key"


class ExpiredKey(ServiceError):
    """The caller's API key was one of the deployment's, and has expired."""

    status, code, title = 403, "expired_key", "Expired key"


class MissingScope(ServiceError):
    """The caller's API key may not be used for this endpoint."""

    status, code, title = 403, "missing_scope", "Missing scope"


class HeadTooSlow(ServiceError):
    """The request line and the headers did not arrive in time."""

    status, code, title = 408, "head_too_slow", "Head too slow"


class URLTooLong(ServiceError):
    """The URL is longer than the service accepts."""

    status, code, title = 414, "url_too_long", "URL too long"


class HeadersTooLarge(ServiceError):
    """The URL and the headers together are longer than the service accepts."""

    status, code, title = 431, "headers_too_large", "Headers too large"


class BodyTooSlow(ServiceError):
    """The body did not arrive in time."""

    status, code, title = 408, "body_too_slow", "Body too slow"


class UnsupportedMediaType(ServiceError):
    """The body is not declared as JSON, or has a content coding that the service does not know."""

    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class BodyTooLarge(ServiceError):
    """The body is longer than the endpoint accepts."""

    status, code, title = 413, "body_too_large", "Body too large"


class InvalidRequest(ServiceError):
    """The body, path or query violates the endpoint's schema, or its values contradict each other."""

    status, code, title = 422, "invalid_request", "Invalid request"

    def __init__(self, detail: str = "", faults: Sequence[Fault] = ()) -> None:
        super().__init__(detail)
        self.faults = faults

    @classmethod
    def of(cls, faults: Sequence[Fault], subject: str = "request") -> Self:
        """Report the faults of a request, or of a part of it named by `subject`; of many faults only the first ones."""
        places = "place" if len(faults) == 1 else "places"
        return cls(f"The {subject} violates the schema in {len(faults)} {places}.", faults[:MAX_REPORTED_FAULTS])


class RecommendationNotFound(ServiceError):
    """No answer with this id is stored."""

    status, code, title = 404, "recommendation_not_found", "Recommendation not found"


class RecommendationGone(ServiceError):
    """The answer is stored, but what it was computed from is gone."""

    status, code, title = 410, "recommendation_gone", "Recommendation gone"


class SessionNotFound(ServiceError):
    """Nothing is stored for the session."""

    status, code, title = 404, "session_not_found", "Session not found"


class SessionBehind(ServiceError):
    """The session has not reached the position that the caller requires, or has ended since."""

    status, code, title = 409, "session_behind", "Session behind"

    def __init__(self, *, may_catch_up: bool) -> None:
        """Tell whether the session may still reach the position, by events that have not arrived yet."""
        super().__init__("The session has not reached the requested position, or has ended.")
        self.may_catch_up = may_catch_up


class EventTooOld(ServiceError):
    """The event is older than the deployment's maximum age."""

    status, code, title = 422, "event_too_old", "Event too old"


class ItemNotFound(ServiceError):
    """The bundle's catalog does not have the item."""

    status, code, title = 404, "item_not_found", "Item not found"


class ScenarioNotFound(ServiceError):
    """No scenario of this name is stored."""

    status, code, title = 404, "scenario_not_found", "Scenario not found"


class UnknownScenario(ScenarioNotFound):
    """A recommendation request names a scenario that is not stored."""

    status = 422


class LimitReached(ServiceError):
    """The maximum number of stored objects of a kind is reached."""

    status, code, title = 409, "limit_reached", "Limit reached"


class PreconditionFailed(ServiceError):
    """The stored version is not the one that the caller named (optimistic concurrency)."""

    status, code, title = 412, "precondition_failed", "Precondition failed"


class BundleNotFound(ServiceError):
    """No bundle has this digest."""

    status, code, title = 404, "bundle_not_found", "Bundle not found"


class GateNotPassed(ServiceError):
    """The bundle has not passed the gate beside the live one, and force was not asked for."""

    status, code, title = 409, "gate_not_passed", "Gate not passed"


class ReleaseRefused(ServiceError):
    """The bundle's state, its files or the folder of bundles do not allow the change."""

    status, code, title = 409, "release_refused", "Release refused"


class JobNotFound(ServiceError):
    """No job has this id."""

    status, code, title = 404, "job_not_found", "Job not found"


class JobsOff(ServiceError):
    """There is no store in which workers find jobs."""

    status, code, title = 404, "jobs_off", "Jobs off"


class JobFinished(ServiceError):
    """The job has ended."""

    status, code, title = 409, "job_finished", "Job finished"


class AuditLogOff(ServiceError):
    """The deployment writes no audit log."""

    status, code, title = 404, "audit_log_off", "Audit log off"


class TooManyRequests(ServiceError):
    """The caller exceeds the rate limit."""

    status, code, title = 429, "too_many_requests", "Too many requests"
    response_headers: ClassVar[Mapping[str, str]] = {
        "Retry-After": "Seconds until the caller's next request is admitted."
    }


class TooManyWrongKeys(TooManyRequests):
    """Too many requests without a valid key came from one client address."""

    code, title = "too_many_wrong_keys", "Too many wrong keys"


class Overloaded(ServiceError):
    """The maximum number of requests is in flight; nothing was done for this one."""

    status, code, title = 503, "overloaded", "Overloaded"
    response_headers: ClassVar[Mapping[str, str]] = {
        "Retry-After": "Seconds to wait; only if the service is overloaded."
    }


class NotReady(ServiceError):
    """No bundle is live yet."""

    status, code, title = 503, "not_ready", "Not ready"


class Draining(ServiceError):
    """The service is about to stop: it still answers, but load balancers are to send it nothing more."""

    status, code, title = 503, "draining", "Draining"


class SessionStoreUnavailable(ServiceError):
    """The session store did not confirm the operation in time; it may still execute it."""

    status, code, title = 503, "session_store_unavailable", "Session store unavailable"


class LiveStoreUnavailable(ServiceError):
    """The store of live items and scenarios did not confirm the operation in time; it may still execute it."""

    status, code, title = 503, "live_store_unavailable", "Live store unavailable"


class AuditLogUnavailable(ServiceError):
    """A change was made, but could not be written to the audit log."""

    status, code, title = 503, "audit_log_unavailable", "Audit log unavailable"


class InternalError(ServiceError):
    """An unexpected error of the service itself; the log has the details."""
