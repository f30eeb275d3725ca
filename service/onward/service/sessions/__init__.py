"""Sessions: the latest events of each visitor, kept in Redis or in memory."""

from onward.service.sessions.events import (
    CART,
    DELIVERY_INTERVAL,
    EVENT_TYPE,
    MAX_EVENT_AGE,
    PURCHASE,
    VIEW,
    AppliedEvent,
    Event,
    EventListener,
    EventQueue,
    EventRules,
    EventWeights,
    SentEvent,
)
from onward.service.sessions.memory import InMemorySessionStore
from onward.service.sessions.recording import EventOutcome, record
from onward.service.sessions.redis import RedisSessionStore
from onward.service.sessions.session import GENERATION_BYTES, Position, Session
from onward.service.sessions.shares import SessionShares
from onward.service.sessions.store import (
    REMEMBERED_EVENT_IDS,
    REMEMBERED_MARKS,
    ListedSession,
    MergeResult,
    SessionAppend,
    SessionPage,
    SessionStore,
    session_digest,
)

__all__ = [
    "CART",
    "DELIVERY_INTERVAL",
    "EVENT_TYPE",
    "GENERATION_BYTES",
    "MAX_EVENT_AGE",
    "PURCHASE",
    "REMEMBERED_EVENT_IDS",
    "REMEMBERED_MARKS",
    "VIEW",
    "AppliedEvent",
    "Event",
    "EventListener",
    "EventOutcome",
    "EventQueue",
    "EventRules",
    "EventWeights",
    "InMemorySessionStore",
    "ListedSession",
    "MergeResult",
    "Position",
    "RedisSessionStore",
    "SentEvent",
    "Session",
    "SessionAppend",
    "SessionPage",
    "SessionShares",
    "SessionStore",
    "record",
    "session_digest",
]
