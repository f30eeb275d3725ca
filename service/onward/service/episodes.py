"""Episodes of faults: what may fail with every request is logged when it begins and has ended, not each time."""

import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

QUIET_S = 10.0
"""An episode has ended after so long without its fault."""
MAX_RUNNING = 256


@dataclass(slots=True)
class Episode:
    """A fault since it began."""

    fault: Hashable
    began_s: float
    last_s: float
    times: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """Further counts, by name."""

    @property
    def seconds(self) -> float:
        """The time from its first occurrence to its last."""
        return self.last_s - self.began_s


class Episodes:
    """The episodes that run now, by fault."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running: dict[Hashable, Episode] = {}

    def occurred(self, fault: Hashable, count: str | None = None) -> bool:
        """Count an occurrence, and under a name if one is given; return whether it begins an episode, to be logged."""
        now_s = self._clock()
        episode = self._running.get(fault)
        begins = episode is None
        if episode is None:
            if len(self._running) >= MAX_RUNNING:
                return False
            self._running[fault] = episode = Episode(fault, now_s, now_s)
        episode.times += 1
        episode.last_s = now_s
        if count is not None:
            episode.counts[count] += 1
        return begins

    def count(self, fault: Hashable, name: str) -> None:
        """Count a consequence of a fault, if its episode runs."""
        if (episode := self._running.get(fault)) is not None:
            episode.counts[name] += 1

    def end(self, *, quiet_s: float = QUIET_S) -> list[Episode]:
        """End and return the episodes whose fault has not occurred for a time."""
        now_s = self._clock()
        ended = [episode for episode in list(self._running.values()) if now_s - episode.last_s >= quiet_s]
        for episode in ended:
            del self._running[episode.fault]
        return ended
