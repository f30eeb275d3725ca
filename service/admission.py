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

from service import telemetry
from service.errors import MissingKey, Overloaded, ServiceError, TooManyRequests, WrongKey, problem_response
from service.rate_limit import Allowances, RateLimit

METRICS_PATH = "/metrics"
HEALTH_PATHS = "/health/"
DOCUMENTATION_PATHS = frozenset({"/docs", "/docs/oauth2-redirect", "/openapi.json"})

MAX_RETRY_S = 3
TOLD_EVERY_S = 1.0


class KeyCheck:
    """Ask callers for a key whose SHA-256 is known; the documentation is open to all."""

    def __init__(self, app: ASGIApp, *, digests: Collection[str]) -> None:
        self._app = app
        self._digests = [bytes.fromhex(digest) for digest in digests]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, by ASGI."""
        if _is_always_let_in(scope) or scope["path"] in DOCUMENTATION_PATHS:
            await self._app(scope, receive, send)
        elif not (key := _key(scope)):
            challenge = {"WWW-Authenticate": 'Bearer realm="onward"'}
            await _refuse(MissingKey("Send a key as `Authorization: Bearer KEY`.", challenge), scope, receive, send)
        elif not self._is_known(digest := sha256(key).digest()):
            await _refuse(WrongKey("This key opens nothing here."), scope, receive, send)
        else:
            scope["state"]["caller"] = digest.hex()
            await self._app(scope, receive, send)

    def _is_known(self, digest: bytes) -> bool:
        """Compare with every digest, to the end, so that the time tells nothing."""
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


class RateCheck:
    """Refuse a caller, by key or else by address, who comes more often than the limit says."""

    def __init__(self, app: ASGIApp, *, limit: RateLimit) -> None:
        self._app = app
        self._limit = limit
        self._allowances = Allowances(limit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, by ASGI."""
        if not _is_always_let_in(scope) and (wait_s := self._allowances.spend(_caller(scope))):
            refusal = TooManyRequests(f"The limit is {self._limit}.", {"Retry-After": str(math.ceil(wait_s))})
            await _refuse(refusal, scope, receive, send)
        else:
            await self._app(scope, receive, send)


class InFlightLimit:
    """Work on so many requests at once; refuse one more at once, since to let it wait would help nobody."""

    def __init__(self, app: ASGIApp, *, max_in_flight: int) -> None:
        self._app = app
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._told_s = -TOLD_EVERY_S

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, by ASGI."""
        if _is_always_let_in(scope):
            await self._app(scope, receive, send)
        elif self._in_flight >= self._max_in_flight:
            self._tell()
            spread = {"Retry-After": str(1 + secrets.randbelow(MAX_RETRY_S))}  # so that not all come back at once
            await _refuse(
                Overloaded("More requests are in flight than can be worked on.", spread), scope, receive, send
            )
        else:
            self._in_flight += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._in_flight -= 1

    def _tell(self) -> None:
        """Log it once in a while: a line for each would be a load of its own."""
        now_s = time.monotonic()
        if now_s - self._told_s >= TOLD_EVERY_S:
            self._told_s = now_s
            telemetry.overloaded(self._in_flight)


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


async def _refuse(refusal: ServiceError, scope: Scope, receive: Receive, send: Send) -> None:
    telemetry.refused(refusal.code)
    await problem_response(refusal, telemetry.request_id(scope))(scope, receive, send)
