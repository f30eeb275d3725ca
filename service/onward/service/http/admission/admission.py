"""Admission control: the bound on concurrent requests, API keys and the rate limit.

Each check refuses a request before its body is parsed. Health and metrics endpoints are always admitted.
"""

import random
import time
from collections.abc import Awaitable

from starlette.responses import Response
from starlette.types import Scope

from onward.service import telemetry
from onward.service.errors import Overloaded, ServiceError
from onward.service.http.admission.concurrency_limit import ConcurrencyLimit
from onward.service.http.admission.key_check import KeyCheck
from onward.service.http.admission.rate_check import RateCheck, Refusal
from onward.service.http.path_ids import route_path
from onward.service.http.problems import OverloadResponse
from onward.service.http.routes.console import CONSOLE_PATHS
from onward.service.http.routes.documentation import DOCUMENTATION_PATHS, FILE_PATHS, ROOT_PATH
from onward.service.keys import KeyRing
from onward.service.redis_client import RedisClient
from onward.service.settings import Settings

METRICS_PATH = "/metrics"
HEALTH_PATHS = "/health/"

MAX_RETRY_S = 3


class Admission:
    """All checks of a deployment: of the load when a request arrives, and of its caller when its handling starts."""

    def __init__(self, settings: Settings, keys: KeyRing | None) -> None:
        """Take the limits of the settings; with keys, callers must send one of them."""
        self.concurrency = ConcurrencyLimit(settings.max_in_flight, time.perf_counter)
        self._key_check = None if keys is None else KeyCheck(keys)
        self._rate_check = None if settings.rate_limit is None else RateCheck(settings.rate_limit)
        documentation = frozenset() if settings.docs_access == "key" else DOCUMENTATION_PATHS
        self._without_key = CONSOLE_PATHS | FILE_PATHS | {ROOT_PATH} | documentation
        self._metrics_need_key = settings.metrics_access == "key"

    async def share_rate(self, redis: RedisClient) -> None:
        """Count requests against the rate limit, if there is one, in a store that other workers use too."""
        if self._rate_check is not None:
            await self._rate_check.share(redis)

    def overload(self, scope: Scope) -> Response | None:
        """Count a request that arrived, and return None; or return the response if it is refused because of load.

        `concurrency.leave` must be called for each request that is not refused.
        """
        if self.concurrency.try_enter():
            return None
        if _is_always_admitted(route_path(scope)):
            self.concurrency.enter()
            return None
        telemetry.overloaded(self.concurrency.in_flight)
        telemetry.refused(Overloaded.code)
        # At random: otherwise all callers would return at once.
        return OverloadResponse(scope["state"]["request_id"], 1 + random.getrandbits(16) % MAX_RETRY_S)

    def refusal(self, scope: Scope) -> Refusal | Awaitable[Refusal]:
        """Return why the caller's request is refused, or what waits for the store and returns it."""
        if self._key_check is None and self._rate_check is None:
            return None
        refusal = self._refusal(scope, route_path(scope))
        if refusal is None:
            return None
        return _counted(refusal) if isinstance(refusal, ServiceError) else _awaited(refusal)

    def _refusal(self, scope: Scope, path: str) -> Refusal | Awaitable[Refusal]:
        if path.startswith(HEALTH_PATHS):
            return None
        if path == METRICS_PATH:
            return self._key_check.refusal(scope) if self._key_check and self._metrics_need_key else None
        if self._key_check is not None and path not in self._without_key:
            refusal = self._key_check.refusal(scope)
            if refusal is not None:
                return refusal
        return None if self._rate_check is None else self._rate_check.refusal(scope)


def _is_always_admitted(path: str) -> bool:
    return path == METRICS_PATH or path.startswith(HEALTH_PATHS)


def _counted(refusal: ServiceError) -> ServiceError:
    telemetry.refused(refusal.code)
    return refusal


async def _awaited(awaited: Awaitable[Refusal]) -> Refusal:
    return None if (refusal := await awaited) is None else _counted(refusal)
