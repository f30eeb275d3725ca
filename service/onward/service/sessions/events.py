"""Events: what visitors did with items, the weights that decide their effect, and the listeners that receive them."""

import asyncio
import re
from collections.abc import Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol, Self

from onward.service.errors import EventTooOld

VIEW, CART, PURCHASE = "view", "cart", "purchase"
WEIGHTS: Mapping[str, float] = MappingProxyType(
    {VIEW: 1, CART: 3, PURCHASE: 5, "like": 2, "impression": 0, "dislike": -1}
)
WEIGHT_OF_OTHER_TYPES = 1.0
MAX_WEIGHT = 1_000
MAX_EVENT_AGE = timedelta(days=1)

EVENT_TYPE = r"[a-z][a-z0-9_-]{0,31}"
_WEIGHTS = re.compile(rf"(?:({EVENT_TYPE})=(-?\d+(?:\.\d+)?))")
MAX_QUEUED = 8
"""Size of the queue at which it is delivered without waiting for `flush`: delivering many events at once would delay
the requests that come meanwhile."""
DELIVERY_INTERVAL = timedelta(seconds=0.25)
"""Longest time for which events are queued."""

Effect = Literal["enter", "purchase", "hide", "count"]


class Event(NamedTuple):
    """An interaction of a visitor with an item, and when it happened, in milliseconds since 1970.

    A weight above 0 adds the item to the session, where the encoder sees it; one below 0 hides the item until a later
    event of positive weight; 0 does neither.
    """

    item_id: str
    type: str
    timestamp_ms: int
    event_id: str | None = None
    weight: float = 1.0

    @property
    def effect(self) -> Effect:
        """What the event does to its session."""
        if self.weight > 0:
            return "purchase" if self.type == PURCHASE else "enter"
        return "hide" if self.weight < 0 else "count"

    def take_effect(
        self, events: MutableSequence["Event"], purchased_ms: dict[str, int], hidden_ms: dict[str, int]
    ) -> None:
        """Apply the effect to a session: its events, oldest first, and the times at which it marked items."""
        effect = self.effect
        if effect in ("enter", "purchase"):
            events.append(self._replace(event_id=None, weight=1.0))
            hidden_ms.pop(self.item_id, None)
        if effect == "purchase":
            purchased_ms[self.item_id] = self.timestamp_ms
        elif effect == "hide":
            hidden_ms[self.item_id] = self.timestamp_ms


class SentEvent(NamedTuple):
    """An event as a caller sent it, with the fields that only event listeners need."""

    session_id: str
    event: Event
    value: float | None = None
    recommendation_id: str | None = None


class AppliedEvent(NamedTuple):
    """An event that a store applied, as event listeners count it, log it or learn from it."""

    session_id: str
    item_id: str
    type: str
    weight: float
    timestamp_ms: int
    value: float | None
    event_id: str | None
    recommendation_id: str | None
    session_items: Sequence[str]
    """The items of the session that the encoder sees, oldest first, after all events sent with this one."""


class EventListener(Protocol):
    """Receives every applied event once, and no event that was a duplicate, refused or not to be stored."""

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        """Take in events, without blocking."""
        ...

    async def forget(self, session_id: str) -> None:
        """Drop what is kept of a session that was deleted. Raises SessionStoreUnavailable."""
        ...


class EventQueue:
    """Queues applied events; listeners get them in batches, in the background."""

    def __init__(self, *listeners: EventListener, max_queued: int = MAX_QUEUED) -> None:
        """Take the listeners, and the size of the queue at which it is delivered without waiting for `flush`."""
        self._listeners = listeners
        self._max_queued = max_queued
        self._queue: list[AppliedEvent] = []
        self.is_filled = asyncio.Event()
        """Set when there are events to deliver, for a task that calls `flush`."""

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        """Queue events."""
        self._queue += events
        self.is_filled.set()
        if len(self._queue) >= self._max_queued:
            self.deliver()

    async def flush(self) -> None:
        """Deliver the queued events; a coroutine, as background tasks are."""
        self.deliver()

    def deliver(self) -> None:
        """Pass the queued events on to each listener."""
        events, self._queue = self._queue, []
        for listener in self._listeners if events else ():
            listener.applied(events)

    async def forget(self, session_id: str) -> None:
        """Have each listener forget a session. Raises SessionStoreUnavailable."""
        self.deliver()
        for listener in self._listeners:
            await listener.forget(session_id)


@dataclass(frozen=True, slots=True)
class EventWeights:
    """The weight of each type of event: a deployment's own, or else the default."""

    own: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `TYPE=WEIGHT,...`. Raises ValueError, which says how to write it."""
        matches = [_WEIGHTS.fullmatch(part.strip()) for part in text.split(",") if part.strip()]
        own = {match[1]: float(match[2]) for match in matches if match is not None}
        if len(own) < len(matches) or any(abs(weight) > MAX_WEIGHT for weight in own.values()):
            raise ValueError(
                f"types and their weights, each once, -{MAX_WEIGHT} to {MAX_WEIGHT}, as in share=2,skip=-1"
            )
        if own.get(PURCHASE, 1.0) <= 0:
            raise ValueError(f"a {PURCHASE} has a weight above 0")
        return cls(own)

    def __str__(self) -> str:
        return ",".join(f"{kind}={weight:g}" for kind, weight in self.own.items())

    @property
    def largest(self) -> float:
        """The largest weight that an event can have."""
        return max(WEIGHT_OF_OTHER_TYPES, *map(self.of, {*self.own, *WEIGHTS}))

    def of(self, kind: str) -> float:
        """Return the weight of a type of event."""
        return self.own.get(kind, WEIGHTS.get(kind, WEIGHT_OF_OTHER_TYPES))


@dataclass(frozen=True, slots=True)
class EventRules:
    """The weights of events, and the age up to which they are accepted."""

    weights: EventWeights = field(default_factory=EventWeights)
    max_age: timedelta = MAX_EVENT_AGE

    def event(self, item_id: str, kind: str, happened: datetime | None, event_id: str | None, now: datetime) -> Event:
        """Return an event, which happened `now` if no time is given. Raises EventTooOld."""
        if happened is not None and now - happened > self.max_age:
            raise EventTooOld(f"An event is accepted for {self.max_age} after it happened; this one is older.")
        timestamp_ms = int((happened or now).timestamp() * 1000)
        return Event(item_id, kind, timestamp_ms, event_id, self.weights.of(kind))

    def views(self, item_ids: Sequence[str], now_ms: int) -> list[Event]:
        """Return a view of each item that happens now, for callers that send bare items."""
        weight = self.weights.of(VIEW)
        return [Event(item_id, VIEW, now_ms, None, weight) for item_id in item_ids]
