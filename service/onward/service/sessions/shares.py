"""SessionShares: bounds what one session adds to what is learnt from the events of all."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Protocol

from onward.service.sessions.events import AppliedEvent

MAX_EVENTS_PER_MINUTE = 60
MAX_PAIRS = 50_000
"""Pairs of session and item whose weights are remembered, the latest ones, in about 15 MB."""
MINUTE_S = 60


class Learner(Protocol):
    """Learns from the weights of applied events."""

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        """Take in events, without blocking."""
        ...


class SessionShares:
    """Passes applied events on to learners, but of one session at most so many that it counts as one visitor.

    For each item a session adds at most `max_weight` in a period, and its events beyond 60 a minute are left out. Each
    process counts by itself, and remembers the latest 50,000 pairs of session and item: what a session adds beyond its
    share, once its pairs are forgotten, is little beside what these added.
    """

    def __init__(
        self, *learners: Learner, max_weight: float, period: timedelta, clock: Callable[[], float] = time.time
    ) -> None:
        self._learners = learners
        self._max_weight = max_weight
        self._period_s = period.total_seconds()
        self._clock = clock
        self._minute = 0
        self._events: dict[int, int] = {}
        """Events of each session in this minute. Here and below a hash stands for ids, which may be long."""
        self._added: OrderedDict[int, tuple[float, float]] = OrderedDict()
        """The weight that each session has added to an item, and when it began to, in the order of the last event."""

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        """Pass events on, with the part of their weights that is within the share of their session."""
        now_s = self._clock()
        if now_s // MINUTE_S != self._minute:
            self._minute, self._events = int(now_s // MINUTE_S), {}
        bounded = [
            event if weight == event.weight else event._replace(weight=weight)
            for event in events
            if event.weight > 0 and (weight := self._weight_of(event, now_s)) > 0
        ]
        for learner in self._learners if bounded else ():
            learner.applied(bounded)

    async def forget(self, session_id: str) -> None:
        """Do nothing: a session that is deleted again and again has its share only once."""

    def _weight_of(self, event: AppliedEvent, now_s: float) -> float:
        """Return the part of an event's weight that is within the share of its session, and count it."""
        session, pair = hash(event.session_id), hash((event.session_id, event.item_id))
        number = self._events.get(session, 0)
        if number >= MAX_EVENTS_PER_MINUTE:
            return 0.0
        self._events[session] = number + 1
        added, since_s = self._added.pop(pair, (0.0, now_s))
        if now_s - since_s >= self._period_s:
            added, since_s = 0.0, now_s
        weight = min(event.weight, self._max_weight - added)
        self._added[pair] = added + weight, since_s
        if len(self._added) > MAX_PAIRS:
            self._added.popitem(last=False)
        return weight
