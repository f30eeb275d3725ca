"""Event: what a visitor did with an item, and the effect of its weight on the session."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

PURCHASE = "purchase"

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
        """Take note of events, without waiting for anything."""
        ...

    async def forget(self, session_id: str) -> None:
        """Drop what is kept of a session that was deleted. Raises SessionStoreUnavailable."""
        ...


class Listeners:
    """Passes events on to several listeners, in order."""

    def __init__(self, *listeners: EventListener) -> None:
        self._listeners = listeners

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        """Pass events on to each listener."""
        for listener in self._listeners:
            listener.applied(events)

    async def forget(self, session_id: str) -> None:
        """Have each listener forget a session. Raises SessionStoreUnavailable."""
        for listener in self._listeners:
            await listener.forget(session_id)
