"""Token buckets: enforce a rate limit for each caller, counted in this process."""

import time
from collections import OrderedDict
from collections.abc import Callable

from onward.service.rate_limit import RateLimit

MAX_CALLERS = 100_000


class TokenBuckets:
    """A token bucket for each caller: full at first, refilled evenly over the limit's period.

    The bucket of a caller unseen for a whole period is full again, so it is dropped; with more than `max_callers`
    buckets, those unseen for longest are dropped. So the cost of a request does not depend on the number of callers.
    """

    def __init__(
        self, limit: RateLimit, *, max_callers: int = MAX_CALLERS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._capacity = limit.requests
        self._period_s = limit.period_s
        self._max_callers = max_callers
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, seen_s; the latest seen last

    def spend(self, caller: str) -> float:
        """Take a token. Returns 0, or the seconds until the next token if the bucket is empty."""
        now_s = self._clock()
        self._drop_unseen(now_s)
        tokens, seen_s = self._buckets.pop(caller, (float(self._capacity), now_s))
        tokens = min(self._capacity, tokens + (now_s - seen_s) * self._capacity / self._period_s)
        wait_s = max(0.0, (1 - tokens) * self._period_s / self._capacity)
        self._buckets[caller] = (tokens if wait_s else tokens - 1), now_s
        return wait_s

    def _drop_unseen(self, now_s: float) -> None:
        while self._buckets:
            _, seen_s = next(iter(self._buckets.values()))
            if now_s - seen_s < self._period_s and len(self._buckets) < self._max_callers:
                break
            self._buckets.popitem(last=False)
