"""Who is let in: callers with a key, not too often, and no more at once than can be worked on.

Each refuses before the body is read. Health and metrics are always let in.
"""

import hmac
import math
import secrets
import time
from collections.abc import Collection
from hashlib import sha256

from starlette.types import ASGIApp, Receive, Scope, Send

from onward.service import telemetry
from onward.service.errors import MissingKey, Overloaded, ServiceError, TooManyRequests, WrongKey, problem_response
from onward.service.rate_limit import RateLimit, TokenBuckets
from onward.service.settings import Settings

METRICS_PATH = "/metrics"
HEALTH_PATHS = "/health/"
DOCUMENTATION_PATHS = frozenset({"/docs", "/docs/oauth2-redirect", "/openapi.json"})

MAX_RETRY_S = 3
TOLD_EVERY_S = 1.0


class KeyCheck:
    """Ask callers for a key whose SHA-256 is known; the documentation is open to all."""

    def __init__(self, digests: Collection[str]) -> None:
        self._digests = [bytes.fromhex(digest) for digest in digests]

    def refusal(self, scope: Scope) -> ServiceError | None:
        """Say why a request is not let in; one that is carries its caller from then on."""
        if scope["path"] in DOCUMENTATION_PATHS:
            return None
        if not (key := _key(scope)):
            challenge = {"WWW-Authenticate": 'Bearer realm="onward"'}
            return MissingKey("Send a key as `Authorization: Bearer KEY`.", challenge)
        if not self._is_known(digest := sha256(key).digest()):
            return WrongKey("This key opens nothing here.")
        scope["state"]["caller"] = digest.hex()
        return None

    def _is_known(self, digest: bytes) -> bool:
        """Compare with every digest, to the end, so that the time tells nothing."""
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


class RateCheck:
    """Refuse a caller, by key or else by address, who comes more often than the limit says."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._allowances = TokenBuckets(limit)

    def refusal(self, scope: Scope) -> ServiceError | None:
        """Say why a request is not let in; one that is counts."""
        if wait_s := self._allowances.spend(_caller(scope)):
            return TooManyRequests(f"The limit is {self._limit}.", {"Retry-After": str(math.ceil(wait_s))})
        return None


class InFlight:
    """Work on so many requests at once, each in a `with` block; refuse one more at once: to wait would help nobody."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._told_s = -TOLD_EVERY_S

    def __enter__(self) -> None:
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1

    def refusal(self, _scope: Scope) -> ServiceError | None:
        """Say why a request is not let in."""
        if self._count < self._most:
            return None
        self._tell()
        spread = {"Retry-After": str(1 + secrets.randbelow(MAX_RETRY_S))}  # so that not all come back at once
        return Overloaded("More requests are in flight than can be worked on.", spread)

    def _tell(self) -> None:
        """Log it once in a while: a line for each would be a load of its own."""
        now_s = time.monotonic()
        if now_s - self._told_s >= TOLD_EVERY_S:
            self._told_s = now_s
            telemetry.overloaded(self._count)


class Admission:
    """All checks of a deployment, one after another; a request that passes them is worked on inside `in_flight`."""

    def __init__(self, settings: Settings) -> None:
        self.in_flight = InFlight(settings.max_in_flight)
        self._checks: list[KeyCheck | RateCheck | InFlight] = []
        if settings.api_keys:
            self._checks.append(KeyCheck(settings.api_keys))
        if settings.rate_limit is not None:
            self._checks.append(RateCheck(settings.rate_limit))
        self._checks.append(self.in_flight)

    def refusal(self, scope: Scope) -> ServiceError | None:
        """Say why a request is not let in, None where it is."""
        for check in self._checks:
            if (refusal := check.refusal(scope)) is not None:
                telemetry.refused(refusal.code)
                return refusal
        return None


class Admitted:
    """Lead on, by ASGI, to an application what an admission lets in."""

    def __init__(self, app: ASGIApp, *, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, by ASGI."""
        if _is_always_let_in(scope):
            await self._app(scope, receive, send)
        elif (refusal := self._admission.refusal(scope)) is not None:
            await problem_response(refusal, telemetry.request_id(scope))(scope, receive, send)
        else:
            with self._admission.in_flight:
                await self._app(scope, receive, send)


def _is_always_let_in(scope: Scope) -> bool:
    if scope["type"] != "http":
        return True
    path: str = scope["path"]
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
