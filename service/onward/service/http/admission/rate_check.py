"""RateCheck: limit the request rate of each caller."""

import math
from collections.abc import Awaitable

from starlette.types import Scope

from onward.service.errors import ServiceError, TooManyRequests
from onward.service.http.admission.caller import caller
from onward.service.http.admission.shared_buckets import RedisBuckets, SharedBuckets
from onward.service.http.admission.token_bucket import TokenBuckets
from onward.service.rate_limit import RateLimit
from onward.service.redis_client import RedisClient

Refusal = ServiceError | None
"""Why a request is refused; None if it is admitted."""


class RateCheck:
    """Limit the request rate of each caller, identified by key or else by client address."""

    def __init__(self, limit: RateLimit) -> None:
        """Count the requests in this process."""
        self._limit = limit
        self._buckets: TokenBuckets | SharedBuckets = TokenBuckets(limit)

    async def share(self, redis: RedisClient) -> None:
        """Count the requests in a store, from now on."""
        buckets = RedisBuckets(redis, self._limit)
        await buckets.connect()
        self._buckets = SharedBuckets(self._limit, buckets)

    def refusal(self, scope: Scope) -> Refusal | Awaitable[Refusal]:
        """Return why the request is refused, or what waits for the store and returns it.

        A request that is admitted counts against the limit.
        """
        wait_s = self._buckets.spend(caller(scope))
        if not wait_s:
            return None
        return self._refusal(wait_s) if isinstance(wait_s, float) else self._awaited(wait_s)

    async def _awaited(self, wait_s: Awaitable[float]) -> Refusal:
        return self._refusal(seconds) if (seconds := await wait_s) else None

    def _refusal(self, wait_s: float) -> ServiceError:
        return TooManyRequests(f"The limit is {self._limit}.", {"Retry-After": str(math.ceil(wait_s))})
