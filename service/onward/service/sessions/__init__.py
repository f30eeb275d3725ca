"""Sessions: what each visitor did last, kept in Redis or in memory."""

from onward.service.sessions.events import AppliedEvent, Event, EventListener, Listeners, SentEvent
from onward.service.sessions.memory import InMemorySessionStore
from onward.service.sessions.recording import Outcome, record
from onward.service.sessions.redis import RedisSessionStore
from onward.service.sessions.rules import EVENT_TYPE, MAX_EVENT_AGE, EventRules, EventWeights
from onward.service.sessions.session import Position, Session
from onward.service.sessions.store import (
    REMEMBERED_ANSWERS,
    REMEMBERED_EVENT_IDS,
    REMEMBERED_MARKS,
    Append,
    Merged,
    SessionStore,
    session_digest,
)

__all__ = [
    "EVENT_TYPE",
    "MAX_EVENT_AGE",
    "REMEMBERED_ANSWERS",
    "REMEMBERED_EVENT_IDS",
    "REMEMBERED_MARKS",
    "Append",
    "AppliedEvent",
    "Event",
    "EventListener",
    "EventRules",
    "EventWeights",
    "InMemorySessionStore",
    "Listeners",
    "Merged",
    "Outcome",
    "Position",
    "RedisSessionStore",
    "SentEvent",
    "Session",
    "SessionStore",
    "record",
    "session_digest",
]
