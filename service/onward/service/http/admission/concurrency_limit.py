"""ConcurrencyLimit: how many requests a worker handles at once, lowered while they queue for the processor.

The measure is the queueing delay: the time from the arrival of a request to the moment when its handling starts, which
is the time that the event loop was busy with others. Unlike the duration of requests it does not grow when a store is
slow, where refusing requests would help nobody (DAGOR, Zhou et al. 2018, section 4.1). The limit follows it by additive
increase and multiplicative decrease. See decision 7.
"""

from collections.abc import Callable

LEAST_LIMIT = 32
"""Two micro-batches. Requests that arrive at once after the process has stood still, as on a busy machine, take little
time together; refusing most of them would help nobody."""
TARGET_DELAY_S = 0.01
WINDOW_S = 0.1
DECREASE = 0.9
INCREASE = 4


class ConcurrencyLimit:
    """Counts requests in flight against a limit that adapts; there is no queue.

    Every request that enters leaves.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        """Begin with the largest limit; `clock` is in seconds."""
        self._most = most
        self._least = min(most, LEAST_LIMIT)
        self._clock = clock
        self._window_end_s = clock() + WINDOW_S
        self._delays_s = 0.0
        self._started = 0
        self.limit = most
        self.in_flight = 0

    def try_enter(self) -> bool:
        """Count a request that arrived, unless the limit is reached; return whether it may be handled."""
        if self.in_flight >= self.limit:
            return False
        self.in_flight += 1
        return True

    def enter(self) -> None:
        """Count a request that is always admitted."""
        self.in_flight += 1

    def start(self, delay_s: float) -> None:
        """Report that the handling of a request starts, and how long after its arrival."""
        self._delays_s += delay_s
        self._started += 1
        if (now_s := self._clock()) >= self._window_end_s:
            self._adapt()
            self._window_end_s = now_s + WINDOW_S

    def leave(self) -> None:
        """Forget a request that is answered."""
        self.in_flight -= 1

    def _adapt(self) -> None:
        """Change the limit by the mean delay of the requests that started in the window."""
        if self._delays_s > TARGET_DELAY_S * self._started:
            self.limit = max(self._least, int(self.limit * DECREASE))
        else:
            self.limit = min(self._most, self.limit + INCREASE)
        self._delays_s, self._started = 0.0, 0
