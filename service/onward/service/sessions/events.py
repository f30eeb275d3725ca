"""Event: what a visitor did with an item, and what its weight makes of it."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

PURCHASE = "purchase"

Effect = Literal["enter", "purchase", "hide", "count"]


class Event(NamedTuple):
    """An item that a visitor met, what they did with it, and when, in milliseconds since 1970.

    A weight above 0 lets the item enter the session, so that the encoder sees it; one below 0 hides it, until a later
    event lets it enter again; 0 does neither.
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
    """An event as a caller sent it, with what only those who listen to events need."""

    session_id: str
    event: Event
    value: float | None = None
    recommendation_id: str | None = None


class AppliedEvent(NamedTuple):
    """An event that a store applied, for those who count, log or learn from events."""

    session_id: str
    item_id: str
    type: str
    weight: float
    timestamp_ms: int
    value: float | None
    event_id: str | None
    recommendation_id: str | None
    session_items: Sequence[str]
    """What the encoder sees of the session, oldest first, once all that was sent with the event is applied."""


class EventListener(Protocol):
    """Is told of every event that was applied, once; of none that was a duplicate, refused or not to be stored."""

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        """Take note of events without waiting for anything."""
        ...

    async def forget(self, session_id: str) -> None:
        """Drop what was noted of a session that was deleted. Raises SessionStoreUnavailable."""
        ...


class Listeners:
    """Several, told one after another."""

    def __init__(self, *listeners: EventListener) -> None:
        self._listeners = listeners

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        """Tell all."""
        for listener in self._listeners:
            listener.applied(events)

    async def forget(self, session_id: str) -> None:
        """Tell all. Raises SessionStoreUnavailable."""
        for listener in self._listeners:
            await listener.forget(session_id)
