"""Token buckets: enforce a rate limit for each caller, counted in this process."""

import time
from collections.abc import Callable

from onward.service.http.admission.recent_callers import MAX_CALLERS, RecentCallers
from onward.service.rate_limit import RateLimit


class TokenBuckets:
    """A token bucket for each caller: full at first, refilled evenly over the limit's period.

    The bucket of a caller unseen for a whole period is full again, so it is dropped; with more than `max_callers`
    buckets, those unseen for longest are dropped.
    """

    def __init__(
        self, limit: RateLimit, *, max_callers: int = MAX_CALLERS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._capacity = limit.requests
        self._period_s = limit.period_s
        self._clock = clock
        self._tokens = RecentCallers[float](limit.period_s, max_callers)

    def spend(self, caller: str) -> float:
        """Take a token. Returns 0, or the seconds until the next token if the bucket is empty."""
        now_s = self._clock()
        seen_s, tokens = self._tokens.pop(caller) or (now_s, float(self._capacity))
        tokens = min(self._capacity, tokens + (now_s - seen_s) * self._capacity / self._period_s)
        wait_s = max(0.0, (1 - tokens) * self._period_s / self._capacity)
        self._tokens.put(caller, now_s, tokens if wait_s else tokens - 1)
        return wait_s
