"""Endpoints of events and sessions."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Body, Query, Response

from onward.bundle import RetrievedItems
from onward.service import telemetry
from onward.service.errors import (
    AuditLogUnavailable,
    EventTooOld,
    InvalidRequest,
    NotReady,
    ServiceError,
    SessionNotFound,
    SessionStoreUnavailable,
)
from onward.service.http.fast_route import FastRoute
from onward.service.http.openapi import problems
from onward.service.http.routes.dependencies import (
    BODY_PROBLEMS,
    PATH_PROBLEMS,
    AuditDep,
    HistoriesDep,
    ListenerDep,
    RecorderDep,
    RulesDep,
    SessionId,
    StoreDep,
)
from onward.service.http.schemas.entries import EntryProblem, InvalidEntry
from onward.service.http.schemas.items import RecommendedItem
from onward.service.http.schemas.sessions import (
    EventBody,
    EventResult,
    EventsBody,
    EventsStored,
    EventStored,
    ListedSession,
    ListedSessions,
    MergeBody,
    MergedSession,
    OneOrManyEvents,
    PastAnswer,
    ReplayedAnswer,
    SessionHistory,
    SessionHistoryQuery,
    SessionNaming,
    SessionsQuery,
    StoredEvent,
    StoredSession,
)
from onward.service.http.strict_json import StrictJSONRoute
from onward.service.recommend import session_history
from onward.service.records.audit_log import Change
from onward.service.sessions import (
    Event,
    EventListener,
    EventOutcome,
    EventRules,
    SentEvent,
    SessionStore,
    record,
    session_digest,
)

EVENTS_PATH = "/v1/events"

fast = APIRouter(route_class=FastRoute, tags=["sessions"])
router = APIRouter(route_class=StrictJSONRoute, tags=["sessions"])


@fast.post(
    EVENTS_PATH,
    response_model_exclude_none=True,
    responses={
        **problems(*BODY_PROBLEMS, EventTooOld, SessionStoreUnavailable),
        207: {
            "model": EventsStored,
            "description": "Some of the events were rejected or failed; the others were applied.",
        },
    },
)
async def record_events(
    body: Annotated[OneOrManyEvents, Body()],
    store: StoreDep,
    listener: ListenerDep,
    rules: RulesDep,
    response: Response,
) -> EventsStored | EventStored:  # in this order: whoever takes the first that fits finds the answer to a list
    """Store one event, or a list `events`, each accepted or rejected alone; `results` are in the order sent.

    An event reported as applied is stored, and the next recommendation sees it. If any event of a list was rejected or
    failed, the status is 207. After a 503 some events may be stored: send them again with the same `event_id`, which
    is applied once.
    """
    if isinstance(body, EventBody):
        return await _record_one(body, store, listener, rules)
    answer = await _record_many(body, store, listener, rules)
    if answer.rejected or answer.failed:
        response.status_code = 207
    return answer


# Defined before the endpoints of a session, whose paths also match: `Allow` lists the methods of the first match.
@router.post(
    "/v1/sessions/{session_id:id}:merge",
    responses=problems(*BODY_PROBLEMS, SessionStoreUnavailable),
)
async def merge_session(session_id: SessionId, body: MergeBody, store: StoreDep) -> MergedSession:
    """Merge a session into another one, for example when a visitor logs in, and empty the first one.

    Events are ordered by their times; purchases and dislikes move too. The call is idempotent: each event is moved
    once. An event that arrives during the call is either moved or stays in the first session.
    """
    if body.into == session_id:
        raise InvalidRequest("A session cannot be merged into itself.")
    merged = await store.merge(session_id, body.into)
    return MergedSession(session_id=body.into, applied=merged.applied, position=merged.position)


@router.get(
    "/v1/sessions", response_model_exclude_none=True, responses=problems(*PATH_PROBLEMS, SessionStoreUnavailable)
)
async def list_sessions(query: Annotated[SessionsQuery, Query()], store: StoreDep) -> ListedSessions:
    """List the sessions that are stored, in no order; a page may have some more than `limit`, fewer or none.

    A session that is stored all the while is on at least one page.
    """
    page = await store.page(query.cursor, query.limit)
    return ListedSessions(
        sessions=[
            ListedSession(
                key=session.digest,
                applied=session.applied,
                last_event=None if session.last_event is None else _stored(session.last_event),
                expires_in_s=session.expires_in_ms / 1000,
            )
            for session in page.sessions
        ],
        next_cursor=page.cursor,
    )


@router.get(
    "/v1/sessions/{session_id:id}/history",
    response_model_exclude_none=True,
    responses=problems(*PATH_PROBLEMS, SessionNotFound, SessionStoreUnavailable, NotReady),
)
async def show_session_history(
    session_id: SessionId, query: Annotated[SessionHistoryQuery, Query()], histories: HistoriesDep
) -> SessionHistory:
    """Return what is stored of a session and the answers that it got, computed again if asked to."""
    key = session_id if query.by == "key" else session_digest(session_id)
    history = await histories.of(key, answers=query.limit, replays=query.replay)
    session = history.session
    return SessionHistory(
        key=key,
        events=[_stored(event) for event in session.events],
        purchased=sorted(session.purchased),
        disliked=sorted(session.hidden),
        position=session.position,
        answers=[_past_answer(answer) for answer in history.answers],
    )


@router.get(
    "/v1/sessions/{session_id:id}",
    responses=problems(*PATH_PROBLEMS, SessionNotFound, SessionStoreUnavailable),
)
async def read_session(session_id: SessionId, store: StoreDep) -> StoredSession:
    """Return everything that is stored of a session."""
    session = await store.append(session_id, ())
    if session.is_new:
        raise SessionNotFound("Nothing is stored for this session.")
    return StoredSession(
        session_id=session_id,
        events=[_stored(event) for event in session.events],
        count=len(session.events),
        purchased=sorted(session.purchased),
        disliked=sorted(session.hidden),
        position=session.position,
    )


@router.delete(
    "/v1/sessions/{session_id:id}",
    status_code=204,
    response_class=Response,
    responses=problems(*PATH_PROBLEMS, SessionStoreUnavailable, AuditLogUnavailable),
)
async def delete_session(
    session_id: SessionId,
    naming: Annotated[SessionNaming, Query()],
    store: StoreDep,
    listener: ListenerDep,
    recorder: RecorderDep,
    audit: AuditDep,
) -> None:
    """Erase everything that is stored of a session; succeeds even if nothing is stored."""
    if naming.by == "key":
        await store.erase(session_id)
        await recorder.forget_digest(session_id)
        await audit.record(Change("session erased", session_id))
        return
    await store.delete(session_id)
    await listener.forget(session_id)
    await audit.record(Change("session erased", session_digest(session_id)))


async def _record_one(body: EventBody, store: SessionStore, listener: EventListener, rules: EventRules) -> EventStored:
    sent = _sent(body, rules, datetime.now(UTC))
    if not body.store:
        return EventStored(applied=0, duplicates=0, not_stored=1)
    (outcome,) = await record(store, listener, [sent])
    _count([sent], [outcome], rejected=0)
    is_new = outcome.status == "applied"
    return EventStored(applied=int(is_new), duplicates=int(not is_new), not_stored=0, position=outcome.position)


async def _record_many(
    body: EventsBody, store: SessionStore, listener: EventListener, rules: EventRules
) -> EventsStored:
    now = datetime.now(UTC)
    checked = [_checked(number, entry, rules, now) for number, entry in enumerate(body.events)]
    sent = [entry for entry in checked if isinstance(entry, SentEvent)]
    outcomes = await record(store, listener, sent)
    remaining = iter(outcomes)
    results = [_result(next(remaining)) if isinstance(entry, SentEvent) else entry for entry in checked]
    counts = Counter(result.status for result in results)
    _count(sent, outcomes, rejected=counts["rejected"])
    return EventsStored(
        applied=counts["applied"],
        duplicates=counts["duplicate"],
        not_stored=counts["not_stored"],
        rejected=counts["rejected"],
        failed=counts["failed"],
        results=results,
    )


def _checked(number: int, entry: EventBody | InvalidEntry, rules: EventRules, now: datetime) -> SentEvent | EventResult:
    """Return an event to store, or the result of one that is not to be stored."""
    if isinstance(entry, InvalidEntry):
        return _rejected(entry.refusal("event", "body", "events", number))
    try:
        sent = _sent(entry, rules, now)
    except EventTooOld as error:
        return _rejected(error)
    return sent if entry.store else EventResult(status="not_stored")


def _sent(body: EventBody, rules: EventRules, now: datetime) -> SentEvent:
    event = rules.event(body.item_id, body.type, body.timestamp, body.event_id, now)
    return SentEvent(body.session_id, event, body.value, body.recommendation_id)


def _rejected(error: ServiceError) -> EventResult:
    return EventResult(status="rejected", error=EntryProblem.of(error))


def _result(outcome: EventOutcome) -> EventResult:
    if outcome.status != "failed":
        return EventResult(status=outcome.status, position=outcome.position)
    error = EntryProblem(
        code="session_store_unavailable", detail="The session store did not confirm this event; send it again."
    )
    return EventResult(status="failed", error=error)


def _count(sent: Sequence[SentEvent], outcomes: Sequence[EventOutcome], *, rejected: int) -> None:
    attributed = sum(
        event.recommendation_id is not None and outcome.status == "applied"
        for event, outcome in zip(sent, outcomes, strict=True)
    )
    telemetry.events_sent([*(outcome.status for outcome in outcomes), *["rejected"] * rejected], attributed)


def _stored(event: Event) -> StoredEvent:
    happened = datetime.fromtimestamp(event.timestamp_ms / 1000, UTC)
    return StoredEvent(item_id=event.item_id, type=event.type, timestamp=happened)


def _past_answer(past: session_history.PastAnswer) -> PastAnswer:
    first = past.pages[0]
    return PastAnswer(
        recommendation_id=first.id,
        made=datetime.fromtimestamp(first.made_ms / 1000, UTC),
        bundle=first.bundle,
        user_id=first.user_id,
        scenario=first.scenario,
        scenario_version=first.scenario_version,
        variant=first.variant,
        options=dict(first.options),
        session=list(first.session_items),
        items=_items(*(page.items for page in past.pages)),
        pages=len(past.pages),
        replay=None if past.replay is None else _replayed(past.replay),
    )


def _replayed(replay: session_history.Replay) -> ReplayedAnswer:
    return ReplayedAnswer(status=replay.status, items=None if replay.items is None else _items(replay.items))


def _items(*pages: RetrievedItems) -> list[RecommendedItem]:
    items = (item for page in pages for item in page)
    return [
        RecommendedItem(item.item_id, item.score, rank, item.source, item.interest)
        for rank, item in enumerate(items, start=1)
    ]
