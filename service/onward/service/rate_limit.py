"""How many requests a caller may make, counted in this process."""

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Self

MAX_CALLERS = 100_000

_PERIODS_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_WRITTEN = re.compile(rf"([1-9][0-9]{{0,8}})/({'|'.join(_PERIODS_S)})")


class RateLimit(NamedTuple):
    """So many requests in so much time."""

    requests: int
    per: str

    @classmethod
    def parse(cls, written: str) -> Self:
        """Read `100/second`. Raises ValueError that says how a limit is written."""
        found = _WRITTEN.fullmatch(written)
        if found is None:
            raise ValueError(f"a limit is written as in 100/second, or per {', '.join([*_PERIODS_S][1:])}")
        return cls(int(found[1]), found[2])

    def __str__(self) -> str:
        return f"{self.requests}/{self.per}"

    @property
    def period_s(self) -> float:
        """The time in which the requests may be made."""
        return _PERIODS_S[self.per]


class TokenBuckets:
    """What each caller may still spend: all of the limit at once, and then as it comes back, evenly over its period.

    A caller unseen for a period has all of it again and is forgotten; of more than `max_callers` the ones unseen for
    longest are. So a request costs the same however many callers there are.
    """

    def __init__(
        self, limit: RateLimit, *, max_callers: int = MAX_CALLERS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._requests = limit.requests
        self._period_s = limit.period_s
        self._max_callers = max_callers
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests left, and when; latest seen last

    def spend(self, caller: str) -> float:
        """Spend one request: 0, or where none is left the seconds until there is one."""
        now_s = self._clock()
        self._forget_unseen(now_s)
        left, seen_s = self._left.pop(caller, (float(self._requests), now_s))
        left = min(self._requests, left + (now_s - seen_s) * self._requests / self._period_s)
        wait_s = max(0.0, (1 - left) * self._period_s / self._requests)
        self._left[caller] = (left if wait_s else left - 1), now_s
        return wait_s

    def _forget_unseen(self, now_s: float) -> None:
        while self._left:
            _, seen_s = next(iter(self._left.values()))
            if now_s - seen_s < self._period_s and len(self._left) < self._max_callers:
                break
            self._left.popitem(last=False)
