"""Store events that callers sent, and tell event listeners which of them were applied."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

from onward.service.errors import ServiceError
from onward.service.sessions.events import AppliedEvent, Event, EventListener, SentEvent
from onward.service.sessions.session import Session
from onward.service.sessions.store import SessionAppend, SessionStore


class EventOutcome(NamedTuple):
    """Whether an event was applied, and the position of its session after it."""

    status: Literal["applied", "duplicate", "failed"]
    position: str | None = None


async def record(store: SessionStore, listener: EventListener, sent: Sequence[SentEvent]) -> list[EventOutcome]:
    """Store events of any number of sessions, pass the applied ones to the listener, and return each event's outcome.

    Raises SessionStoreUnavailable if no event could be stored.
    """
    if not sent:
        return []
    by_session: defaultdict[str, list[SentEvent]] = defaultdict(list)
    for sent_event in sent:
        by_session[sent_event.session_id].append(sent_event)
    sessions = await _append(
        store, {session_id: [sent_event.event for sent_event in events] for session_id, events in by_session.items()}
    )
    listener.applied(
        [
            _applied(sent_event, session)
            for session_id, events in by_session.items()
            if (session := sessions[session_id]) is not None
            for sent_event, applied in zip(events, session.outcomes, strict=True)
            if applied
        ]
    )
    outcomes = {
        session_id: iter(_outcomes(sessions[session_id], len(events))) for session_id, events in by_session.items()
    }
    return [next(outcomes[sent_event.session_id]) for sent_event in sent]


async def _append(store: SessionStore, events: dict[str, list[Event]]) -> dict[str, Session | None]:
    sessions = await store.append_all(
        [SessionAppend(session_id, session_events) for session_id, session_events in events.items()]
    )
    failures = [session for session in sessions if isinstance(session, ServiceError)]
    if len(failures) == len(sessions):
        raise failures[0]
    return {
        session_id: None if isinstance(session, ServiceError) else session
        for session_id, session in zip(events, sessions, strict=True)
    }


def _applied(sent: SentEvent, session: Session) -> AppliedEvent:
    event = sent.event
    return AppliedEvent(
        sent.session_id,
        event.item_id,
        event.type,
        event.weight,
        event.timestamp_ms,
        sent.value,
        event.event_id,
        sent.recommendation_id,
        session.item_ids,
    )


def _outcomes(session: Session | None, count: int) -> list[EventOutcome]:
    if session is None:
        return [EventOutcome("failed")] * count
    return [
        EventOutcome("applied" if applied else "duplicate", position)
        for applied, position in zip(session.outcomes, session.positions(), strict=True)
    ]
