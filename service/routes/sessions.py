"""Events and the sessions that they make."""

import time
from collections import defaultdict
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Body, Response

from service import telemetry
from service.errors import SessionNotFound, SessionStoreUnavailable
from service.openapi import problems
from service.routes.dependencies import BODY_PROBLEMS, PATH_PROBLEMS, SessionId, StoreDep
from service.schemas.sessions import EventBody, EventsBody, EventsStored, OneOrManyEvents, StoredEvent, StoredSession
from service.sessions import Event
from service.strict_json import StrictJSONRoute

EVENTS_PATH = "/v1/events"

router = APIRouter(route_class=StrictJSONRoute, tags=["sessions"])


@router.post(
    EVENTS_PATH,
    responses=problems(*BODY_PROBLEMS, SessionStoreUnavailable),
)
async def record_events(body: Annotated[OneOrManyEvents, Body()], store: StoreDep) -> EventsStored:
    """Store one event, or `events`: many. A 2xx means that every one of them is stored.

    After a 503 some of them may be stored: send them again with the same `event_id`, which is applied once.
    """
    events = body.events if isinstance(body, EventsBody) else [body]
    by_session: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_session[event.session_id].append(_event(event))
    if len(by_session) == 1:
        applied = (await store.append(*by_session.popitem())).applied
    else:
        applied = await store.append_all(by_session)
    duplicates = len(events) - applied
    attributed = sum(event.recommendation_id is not None for event in events)
    telemetry.events_stored(applied=applied, duplicates=duplicates, attributed=attributed)
    return EventsStored(applied=applied, duplicates=duplicates)


@router.get(
    "/v1/sessions/{session_id:path}",
    responses=problems(*PATH_PROBLEMS, SessionNotFound, SessionStoreUnavailable),
)
async def read_session(session_id: SessionId, store: StoreDep) -> StoredSession:
    """Show what is stored of a session."""
    session = await store.append(session_id, ())
    if not session.events:
        raise SessionNotFound("Nothing is stored for this session.")
    events = [
        StoredEvent(
            item_id=event.item_id, type=event.type, timestamp=datetime.fromtimestamp(event.timestamp_ms / 1000, UTC)
        )
        for event in session.events
    ]
    return StoredSession(session_id=session_id, events=events, count=len(events))


@router.delete(
    "/v1/sessions/{session_id:path}",
    status_code=204,
    response_class=Response,
    responses=problems(*PATH_PROBLEMS, SessionStoreUnavailable),
)
async def delete_session(session_id: SessionId, store: StoreDep) -> None:
    """Forget all that is stored of a session, whether there was anything or not."""
    await store.delete(session_id)


def _event(body: EventBody) -> Event:
    timestamp_s = time.time() if body.timestamp is None else body.timestamp.timestamp()
    return Event(body.item_id, body.type, int(timestamp_s * 1000), body.event_id)
