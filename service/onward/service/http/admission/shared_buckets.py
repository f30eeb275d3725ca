"""Shared buckets: enforce a rate limit for each caller, counted in Redis for all workers and replicas.

A worker takes tokens of a caller as a lease: some at once, to spend within a short time. So a request waits for the
store only if it finds no lease.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple, Protocol

from redis.exceptions import RedisError

from onward.service import telemetry
from onward.service.errors import SessionStoreUnavailable
from onward.service.http.admission.recent_callers import MAX_CALLERS, RecentCallers
from onward.service.http.admission.token_bucket import TokenBuckets
from onward.service.rate_limit import RateLimit
from onward.service.redis_client import RedisClient, Script, store_call
from onward.service.tenants import PREFIX

LEASE_S = 1.0
"""Longest time in which the tokens of a lease are spent; with a limit by the second it is a tenth of a second."""
LEASES_OF_PERIOD = 10
MAX_LEASES_OF_LIMIT = 20
"""A lease has at most a 20th of the limit, unless more requests wait for it."""
RETRY_S = 1.0
"""After a call that failed, a caller is counted in this process for so long."""


class Taken(NamedTuple):
    """Tokens that were taken, and the seconds until the next one if there was none."""

    tokens: int
    wait_s: float


class Buckets(Protocol):
    """A token bucket for each caller, for all workers."""

    async def take(self, caller: str, tokens: int) -> Taken:
        """Take up to so many tokens. Raises SessionStoreUnavailable."""
        ...


class RedisBuckets:
    """A key for each caller whose bucket is not full, named by a digest; `take` runs one script in one round trip.

    Times are those of the server. Deployments with another limit, as during a rolling update, use other keys.
    """

    def __init__(self, redis: RedisClient, limit: RateLimit, *, prefix: str = PREFIX) -> None:
        self._redis = redis
        self._limit = limit
        self._prefix = prefix
        text = files("onward.service.http.admission").joinpath("take_tokens.lua").read_text(encoding="utf-8")
        self._take = Script(redis, text)

    async def connect(self) -> None:
        """Open the connection, so that the first request need not; if it cannot be opened, that one will notice."""
        with suppress(RedisError, OSError):
            await self._redis.execute([("EXISTS", self.key(""))])

    async def take(self, caller: str, tokens: int) -> Taken:
        """Run the script; see `Buckets`."""
        async with store_call(self._redis):
            reply = await self._take(
                [self.key(caller)], [self._limit.requests, round(self._limit.period_s * 1e6), tokens]
            )
            taken, wait_us = map(int, reply)
            return Taken(taken, wait_us / 1e6)

    def key(self, caller: str) -> str:
        """Return the name of a caller's key."""
        return f"{self._prefix}{{rate:{self._limit}:{sha256(caller.encode()).hexdigest()[:32]}}}"


@dataclass(slots=True)
class _Lease:
    """What a worker knows of a caller. Times are those of its clock, in seconds."""

    size: int = 1
    """How many tokens to take next."""
    taken: int = 0
    tokens: int = 0
    """Those of `taken` that are not spent."""
    ends_s: float = 0.0
    refused_until_s: float = 0.0
    """The store has no token until then."""
    counted_here_until_s: float = 0.0
    """A call failed, and until then the store is not asked."""
    is_failing: bool = False
    waiting: int = 0
    taking: asyncio.Task[None] | None = None


class SharedBuckets:
    """Spends the tokens of buckets that all workers share.

    Over all workers a caller gets no more in a time t than the limit allows in t + `lease_s` + the duration of a call.
    When the store does not answer, each worker enforces the limit by itself, with what it has admitted before.
    """

    def __init__(
        self,
        limit: RateLimit,
        buckets: Buckets,
        *,
        max_callers: int = MAX_CALLERS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lease_s = min(LEASE_S, limit.period_s / LEASES_OF_PERIOD)
        self._max_size = max(1, limit.requests // MAX_LEASES_OF_LIMIT)
        self._pause_s = self.lease_s / 10
        self._buckets = buckets
        self._clock = clock
        self._here = TokenBuckets(limit, max_callers=max_callers, clock=clock)
        self._leases = RecentCallers[_Lease](limit.period_s, max_callers)

    def spend(self, caller: str) -> float | Awaitable[float]:
        """Spend a token. Returns 0, or the seconds until the next token; or what waits for the store and returns it."""
        lease = self._lease(caller)
        wait_s = self._spend(caller, lease)
        return self._spend_next(caller, lease) if wait_s is None else wait_s

    def _lease(self, caller: str) -> _Lease:
        _, lease = self._leases.pop(caller) or (0.0, _Lease())
        self._leases.put(caller, self._clock(), lease)
        return lease

    def _spend(self, caller: str, lease: _Lease) -> float | None:
        """Spend a token without asking the store; None if it is to be asked."""
        now_s = self._clock()
        if lease.tokens and now_s < lease.ends_s:
            lease.tokens -= 1
            self._here.spend(caller)  # so that an outage does not begin with a full bucket
            return 0.0
        if now_s < lease.refused_until_s:
            return lease.refused_until_s - now_s
        if now_s < lease.counted_here_until_s:
            return self._here.spend(caller)
        return None

    async def _spend_next(self, caller: str, lease: _Lease) -> float:
        while (wait_s := self._spend(caller, lease)) is None:
            if lease.taking is None:
                if lease.is_failing:  # the others go on while this request tries the store
                    lease.counted_here_until_s = self._clock() + RETRY_S
                lease.taking = asyncio.create_task(self._take(caller, lease))
            lease.waiting += 1
            try:
                await asyncio.shield(lease.taking)
            finally:
                lease.waiting -= 1
        return wait_s

    async def _take(self, caller: str, lease: _Lease) -> None:
        """Take the next lease for all who wait. Each run gives a token, or a time in which none is asked for."""
        self._resize(lease)
        try:
            lease.taken, wait_s = await self._buckets.take(caller, max(lease.size, lease.waiting))
        except SessionStoreUnavailable as error:
            telemetry.rate_limit_store_failed(error.__cause__ or error)
            lease.is_failing, lease.taken, lease.tokens = True, 0, 0
            lease.counted_here_until_s = self._clock() + RETRY_S
        else:
            now_s = self._clock()
            lease.is_failing, lease.counted_here_until_s = False, 0.0
            lease.tokens, lease.ends_s = lease.taken, now_s + self.lease_s
            lease.refused_until_s = 0.0 if lease.taken else now_s + max(wait_s, self._pause_s)
        finally:
            lease.taking = None

    def _resize(self, lease: _Lease) -> None:
        """Take twice as much if the last lease was spent before its end, else as much as was spent of it."""
        now_s = self._clock()
        if now_s < lease.ends_s:
            lease.size = min(2 * lease.size, self._max_size)
        elif now_s < lease.ends_s + self.lease_s:
            lease.size = min(max(1, lease.taken - lease.tokens), self._max_size)
        else:
            lease.size = 1
