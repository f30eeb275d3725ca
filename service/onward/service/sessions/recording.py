"""Recording: events that were sent -> what became of each, and who hears of it."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

from onward.service.errors import ServiceError
from onward.service.sessions.events import AppliedEvent, Event, EventListener, SentEvent
from onward.service.sessions.session import Session
from onward.service.sessions.store import Append, SessionStore


class Outcome(NamedTuple):
    """What became of an event, and where it left its session."""

    status: Literal["applied", "duplicate", "failed"]
    position: str | None = None


async def record(store: SessionStore, listener: EventListener, sent: Sequence[SentEvent]) -> list[Outcome]:
    """Store events, of one session or of many, tell the listener of those that were applied, and say so of each.

    Raises SessionStoreUnavailable where none could be stored.
    """
    if not sent:
        return []
    by_session: defaultdict[str, list[SentEvent]] = defaultdict(list)
    for one in sent:
        by_session[one.session_id].append(one)
    sessions = await _append(store, {name: [one.event for one in events] for name, events in by_session.items()})
    listener.applied(
        [
            _applied(one, session)
            for name, events in by_session.items()
            if (session := sessions[name]) is not None
            for one, applied in zip(events, session.outcomes, strict=True)
            if applied
        ]
    )
    outcomes = {name: iter(_outcomes(sessions[name], len(events))) for name, events in by_session.items()}
    return [next(outcomes[one.session_id]) for one in sent]


async def _append(store: SessionStore, events: dict[str, list[Event]]) -> dict[str, Session | None]:
    sessions = await store.append_all([Append(name, own) for name, own in events.items()])
    failures = [session for session in sessions if isinstance(session, ServiceError)]
    if len(failures) == len(sessions):
        raise failures[0]
    return {
        name: None if isinstance(session, ServiceError) else session
        for name, session in zip(events, sessions, strict=True)
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


def _outcomes(session: Session | None, count: int) -> list[Outcome]:
    if session is None:
        return [Outcome("failed")] * count
    return [
        Outcome("applied" if applied else "duplicate", position)
        for applied, position in zip(session.outcomes, session.positions(), strict=True)
    ]
