"""Helpers to test session stores: how to open them, events, reading a session."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from onward.service.errors import ServiceError
from onward.service.redis_client import FIRST_SCAN
from onward.service.sessions import (
    Event,
    EventWeights,
    InMemorySessionStore,
    ListedSession,
    RedisSessionStore,
    Session,
    SessionAppend,
    SessionStore,
)

LENGTH = 5
NOON_MS = 1_700_000_000_000


def open_store(
    kind: str,
    url: str,
    *,
    length: int = LENGTH,
    ttl: timedelta = timedelta(minutes=1),
    timeout: timedelta = timedelta(seconds=5),
) -> SessionStore:
    if kind == "memory":
        return InMemorySessionStore(length=length, ttl=ttl)
    return RedisSessionStore.connect(url, length=length, ttl=ttl, timeout=timeout)


def event(kind: str, item_id: str, event_id: str | None = None, at_ms: int = NOON_MS) -> Event:
    return Event(item_id, kind, at_ms, event_id, EventWeights().of(kind))


def view(item_id: str, event_id: str | None = None, at_ms: int = NOON_MS) -> Event:
    return event("view", item_id, event_id, at_ms)


async def read(store: SessionStore, session_id: str) -> Session:
    return await store.append(session_id, ())


async def stored_items(store: SessionStore, session_id: str) -> list[str]:
    return [event.item_id for event in (await read(store, session_id)).events]


def known(session: Session | ServiceError) -> Session:
    assert isinstance(session, Session)
    return session


async def append_to_all(
    store: SessionStore, events: Mapping[str, Sequence[Event]]
) -> dict[str, Session | ServiceError]:
    """Append events to several sessions in one call."""
    sessions = await store.append_all(
        [SessionAppend(session_id, session_events) for session_id, session_events in events.items()]
    )
    return dict(zip(events, sessions, strict=True))


async def listed(store: SessionStore, limit: int) -> list[ListedSession]:
    """Return the sessions of all pages."""
    page = await store.page(FIRST_SCAN, limit)
    sessions = page.sessions
    while page.cursor is not None:
        page = await store.page(page.cursor, limit)
        sessions += page.sessions
    return sessions
