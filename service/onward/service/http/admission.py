"""Admission control: API keys, the rate limit and the bound on concurrent requests.

Each check refuses a request before its body is parsed. Health and metrics endpoints are always admitted.
"""

import hmac
import math
import secrets
import time
from collections.abc import Collection
from hashlib import sha256

from starlette.types import Scope

from onward.service import telemetry
from onward.service.errors import MissingKey, Overloaded, ServiceError, TooManyRequests, WrongKey
from onward.service.http.path_ids import route_path
from onward.service.http.token_bucket import TokenBuckets
from onward.service.rate_limit import RateLimit
from onward.service.settings import Settings

METRICS_PATH = "/metrics"
HEALTH_PATHS = "/health/"
DOCUMENTATION_PATHS = frozenset({"/docs", "/docs/oauth2-redirect", "/openapi.json"})

MAX_RETRY_S = 3
LOG_INTERVAL_S = 1.0


class KeyCheck:
    """Require a key whose SHA-256 digest is known; the documentation needs none."""

    def __init__(self, digests: Collection[str]) -> None:
        self._digests = [bytes.fromhex(digest) for digest in digests]

    def refusal(self, scope: Scope) -> ServiceError | None:
        """Return why the request is refused, None if it is admitted; then `scope` identifies the caller."""
        if route_path(scope) in DOCUMENTATION_PATHS:
            return None
        if not (key := _key(scope)):
            challenge = {"WWW-Authenticate": 'Bearer realm="onward"'}
            return MissingKey("Send a key as `Authorization: Bearer KEY`.", challenge)
        if not self._is_known(digest := sha256(key).digest()):
            return WrongKey("This key is not one of the deployment's.")
        scope["state"]["caller"] = digest.hex()
        return None

    def _is_known(self, digest: bytes) -> bool:
        """Compare with every digest in constant time, so that the duration reveals nothing."""
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


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

    def __init__(self, settings: Settings) -> None:
        self.in_flight = InFlight(settings.max_in_flight)
        self._checks: list[KeyCheck | RateCheck | InFlight] = []
        if settings.api_keys:
            self._checks.append(KeyCheck(settings.api_keys))
        if settings.rate_limit is not None:
            self._checks.append(RateCheck(settings.rate_limit))
        self._checks.append(self.in_flight)

    def refusal(self, scope: Scope) -> ServiceError | None:
        """Return why the request is refused, None if it is admitted."""
        if _is_always_admitted(route_path(scope)):
            return None
        for check in self._checks:
            if (refusal := check.refusal(scope)) is not None:
                telemetry.refused(refusal.code)
                return refusal
        return None


def _is_always_admitted(path: str) -> bool:
    return path == METRICS_PATH or path.startswith(HEALTH_PATHS)


def _key(scope: Scope) -> bytes:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    if key := headers.get(b"x-api-key"):
        return key
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


def _caller(scope: Scope) -> str:
    if caller := scope["state"].get("caller"):
        return str(caller)
    return str(scope["client"][0]) if scope.get("client") else ""
