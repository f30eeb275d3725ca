"""Admission control: API keys, the rate limit and the bound on concurrent requests.

Each check refuses a request before its body is parsed. Health and metrics endpoints are always admitted.
"""

import math
import secrets
import time

from starlette.types import Scope

from onward.service import telemetry
from onward.service.errors import Overloaded, ServiceError, TooManyRequests
from onward.service.http.keys import KeyCheck, client_address
from onward.service.http.path_ids import route_path
from onward.service.http.token_bucket import TokenBuckets
from onward.service.keys import KeyRing
from onward.service.rate_limit import RateLimit
from onward.service.settings import Settings

METRICS_PATH = "/metrics"
HEALTH_PATHS = "/health/"
DOCUMENTATION_PATHS = frozenset({"/docs", "/docs/oauth2-redirect", "/openapi.json"})

MAX_RETRY_S = 3
LOG_INTERVAL_S = 1.0


class RateCheck:
    """Limit the request rate of each caller, identified by key or else by client address."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._buckets = TokenBuckets(limit)

    def refusal(self, scope: Scope) -> ServiceError | None:
        """Return why the request is refused, None if it is admitted; then it counts against the limit."""
        if wait_s := self._buckets.spend(_caller(scope)):
            return TooManyRequests(f"The limit is {self._limit}.", {"Retry-After": str(math.ceil(wait_s))})
        return None


class InFlight:
    """Bound the number of concurrent requests, each of which runs in a `with` block; there is no queue."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._logged_s = -LOG_INTERVAL_S

    def __enter__(self) -> None:
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1

    def refusal(self, _scope: Scope) -> ServiceError | None:
        """Return why the request is refused, None if it is admitted."""
        if self._count < self._limit:
            return None
        self._log()
        retry = {
            "Retry-After": str(1 + secrets.randbelow(MAX_RETRY_S))
        }  # random: otherwise all callers would return at once
        return Overloaded("The service is handling its maximum number of requests.", retry)

    def _log(self) -> None:
        """Log at most once per interval: a line per refusal would add to the overload."""
        now_s = time.monotonic()
        if now_s - self._logged_s >= LOG_INTERVAL_S:
            self._logged_s = now_s
            telemetry.overloaded(self._count)


class Admission:
    """All checks of a deployment, in order; an admitted request runs in a `with admission.in_flight` block."""

    def __init__(self, settings: Settings, keys: KeyRing | None) -> None:
        """Take the limits of the settings; with keys, callers must send one of them."""
        self.in_flight = InFlight(settings.max_in_flight)
        self._key_check = None if keys is None else KeyCheck(keys)
        self._checks: list[RateCheck | InFlight] = [self.in_flight]
        if settings.rate_limit is not None:
            self._checks.insert(0, RateCheck(settings.rate_limit))
        self._without_key = frozenset() if settings.docs_access == "key" else DOCUMENTATION_PATHS
        self._metrics_need_key = settings.metrics_access == "key"

    def refusal(self, scope: Scope) -> ServiceError | None:
        """Return why the request is refused, None if it is admitted."""
        refusal = self._refusal(scope, route_path(scope))
        if refusal is not None:
            telemetry.refused(refusal.code)
        return refusal

    def _refusal(self, scope: Scope, path: str) -> ServiceError | None:
        """Health and metrics are never refused for load."""
        if path.startswith(HEALTH_PATHS):
            return None
        if path == METRICS_PATH:
            return self._key_check.refusal(scope) if self._key_check and self._metrics_need_key else None
        if self._key_check is not None and path not in self._without_key:
            refusal = self._key_check.refusal(scope)
            if refusal is not None:
                return refusal
        for check in self._checks:
            if (refusal := check.refusal(scope)) is not None:
                return refusal
        return None


def _caller(scope: Scope) -> str:
    return str(scope["state"].get("caller") or client_address(scope))
