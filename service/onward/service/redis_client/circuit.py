"""CircuitBreaker: when to try again to connect to a server that could not be reached."""

from collections.abc import Callable

from redis.backoff import EqualJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 1.2
"""Longest pause. Attempts of a lasting outage are half of it to all of it apart: fewer than two in a second, and the
return of the server is noticed within two seconds."""
STABLE_S = MAX_PAUSE_S
"""A connection that is lost sooner counts as a failed attempt: reopening it at once could go on for ever."""
MAX_DOUBLINGS = 16


class CircuitBreaker:
    """Limits the attempts to connect to one server; all connections of a process to the server share it.

    While it is closed, attempts are free. A failure opens it for a random pause, which doubles with each failure in a
    row. After the pause it is half-open: it admits one attempt, whose outcome closes or opens it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Take a clock, in seconds."""
        self._clock = clock
        self._backoff = EqualJitterBackoff(cap=MAX_PAUSE_S, base=FIRST_PAUSE_S)
        self._failures = 0
        self._era = 0
        self._is_open = False
        self._is_probing = False
        self._not_before_s = 0.0
        self._reason: BaseException | None = None

    def begin(self) -> int:
        """Begin an attempt; return its era, which `failed` and `lost` take.

        Attempts of one era that fail count as one failure. Raises RedisConnectionError if none is admitted now, with
        the reason of the last failure as its cause.
        """
        if self._is_open:
            if self._is_probing or self._clock() < self._not_before_s:
                raise RedisConnectionError("The server could not be reached a moment ago.") from self._reason
            self._is_probing = True
        return self._era

    def succeeded(self) -> None:
        """Close the breaker: a connection is open, or one can be opened now."""
        self._is_open = self._is_probing = False
        self._not_before_s = 0.0
        self._reason = None

    def hold(self, pause_s: float) -> None:
        """Open the breaker for a time, which no failure caused."""
        self._is_open = True
        self._not_before_s = self._clock() + pause_s

    def failed(self, era: int, reason: BaseException | None = None) -> None:
        """Open the breaker, unless another attempt of the era has done so."""
        self._reason = reason
        if era != self._era:
            return
        self._era += 1
        self._is_open, self._is_probing = True, False
        pause_s = self._backoff.compute(min(self._failures, MAX_DOUBLINGS))
        self._not_before_s = max(self._not_before_s, self._clock() + pause_s)
        self._failures += 1

    def lost(self, era: int, lived_s: float) -> None:
        """Take in the loss of a connection: a long-lived one may be reopened at once, with the shortest pauses."""
        if lived_s < STABLE_S:
            self.failed(era)
        elif not self._is_open:
            self._failures = 0
