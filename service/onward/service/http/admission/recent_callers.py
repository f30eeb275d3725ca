"""RecentCallers: what is known of callers, for a while after they were seen last."""

from collections import OrderedDict
from typing import Generic, TypeVar

MAX_CALLERS = 100_000

Known = TypeVar("Known")


class RecentCallers(Generic[Known]):
    """A value for each caller that was seen within a period, for `max_callers` of them at most.

    The cost of a call does not depend on the number of callers. Times are in seconds, of any clock.
    """

    def __init__(self, period_s: float, max_callers: int = MAX_CALLERS) -> None:
        self._period_s = period_s
        self._max_callers = max_callers
        self._known: OrderedDict[str, tuple[float, Known]] = OrderedDict()  # when seen; the latest seen last

    def __len__(self) -> int:
        return len(self._known)

    def pop(self, caller: str) -> tuple[float, Known] | None:
        """Remove what is known of a caller and return it, after the time at which it was seen last."""
        return self._known.pop(caller, None)

    def put(self, caller: str, now_s: float, known: Known) -> None:
        """Set what is known of a caller, who is seen now; forget callers unseen for too long, or beyond the limit."""
        while self._known:
            seen_s, _ = next(iter(self._known.values()))
            if now_s - seen_s < self._period_s and len(self._known) < self._max_callers:
                break
            self._known.popitem(last=False)
        self._known[caller] = now_s, known
