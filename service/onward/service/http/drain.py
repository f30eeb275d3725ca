"""Drain: the time before the service stops, in which it answers on and tells load balancers to send it nothing more."""

import math
import time
from collections.abc import Callable
from datetime import timedelta

CLOSING_SHARE = 0.5
"""Part of the delay after which answers end their connections, so that few are open when the service stops."""


class Drain:
    """Whether the service is about to stop. `begin` may be called by a signal handler."""

    def __init__(self, delay: timedelta, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`delay`: the time from the beginning until the service stops."""
        self._closing_after_s = CLOSING_SHARE * delay.total_seconds()
        self._clock = clock
        self._began_s = math.inf

    def begin(self) -> None:
        """Begin, unless that was done before."""
        if not self.has_begun:
            self._began_s = self._clock()

    @property
    def has_begun(self) -> bool:
        """Whether load balancers are to send nothing more."""
        return self._began_s < math.inf

    @property
    def ends_connections(self) -> bool:
        """Whether a connection is to end with its next answer."""
        return self._clock() >= self._began_s + self._closing_after_s
