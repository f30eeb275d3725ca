"""HTTP in, HTTP out."""

import time
from collections import defaultdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, cast

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response

from service import telemetry
from service.bundle import Bundle, Retrieval
from service.errors import (
    BodyTooLarge,
    BodyTooSlow,
    InternalError,
    InvalidRequest,
    ItemNotFound,
    MalformedRequest,
    MissingKey,
    NotReady,
    Overloaded,
    SessionNotFound,
    SessionStoreUnavailable,
    TooManyRequests,
    UnsupportedMediaType,
    WrongKey,
)
from service.openapi import problems
from service.recommender import Recommendation, Recommender
from service.reload import LiveBundle
from service.schemas import (
    EventBody,
    EventsBody,
    EventsStored,
    Health,
    Id,
    ItemList,
    ListQuery,
    OneOrManyEvents,
    RecommendationQuery,
    Recommendations,
    RecommendedItem,
    RefusedBundle,
    SessionRecommendationQuery,
    StoredEvent,
    StoredSession,
    Version,
)
from service.sessions import Event, SessionStore
from service.strict_json import StrictJSONRoute

EVENTS_PATH = "/v1/events"


ADMISSION_PROBLEMS = (MissingKey, WrongKey, TooManyRequests, Overloaded, InternalError)
BODY_PROBLEMS = (MalformedRequest, BodyTooSlow, BodyTooLarge, UnsupportedMediaType, InvalidRequest, *ADMISSION_PROBLEMS)
PATH_PROBLEMS = (MalformedRequest, InvalidRequest, *ADMISSION_PROBLEMS)

router = APIRouter(route_class=StrictJSONRoute)


async def _recommender(request: Request) -> Recommender:
    return cast(Recommender, request.state.recommender)


async def _store(request: Request) -> SessionStore:
    return cast(SessionStore, request.state.store)


async def _live(request: Request) -> LiveBundle:
    return cast(LiveBundle, request.state.live)


RecommenderDep = Annotated[Recommender, Depends(_recommender)]
StoreDep = Annotated[SessionStore, Depends(_store)]
LiveDep = Annotated[LiveBundle, Depends(_live)]
SessionId = Annotated[Id, Path(examples=["visitor-1"])]
ItemId = Annotated[Id, Path(examples=["item-17"])]


@router.post(
    "/v1/recommendations",
    tags=["recommendations"],
    response_model_exclude_none=True,
    responses=problems(*BODY_PROBLEMS, NotReady),
)
async def recommend(
    query: RecommendationQuery, recommender: RecommenderDep, request: Request, response: Response
) -> Recommendations:
    """Append the newest items to the session, if one is named, and rank what is likely to come next.

    If the session store does not answer in time, the ranking is by `items` alone, or by popularity, and `degraded`
    says so. A session of which no item is known gets popular items, and `source` says so; that of a user whom the
    encoder knows gets what suits the user. `user` says whether the encoder knows the user.
    """
    answer = await recommender.recommend(
        query.session_id,
        query.items,
        user_id=query.user_id,
        k=query.k,
        exclude=query.exclude,
        exclude_seen=query.exclude_seen,
    )
    return _recommendations(answer, request, response)


@router.get(
    "/v1/sessions/{session_id:path}/recommendations",
    tags=["recommendations"],
    response_model_exclude_none=True,
    responses=problems(*PATH_PROBLEMS, NotReady),
)
async def recommend_for_session(
    session_id: SessionId,
    query: Annotated[SessionRecommendationQuery, Query()],
    recommender: RecommenderDep,
    request: Request,
    response: Response,
) -> Recommendations:
    """Rank what is likely to come next in a stored session; where nothing is stored, popular items.

    With a `user_id` that the encoder knows, what suits the user counts too, and stands in for a session.
    """
    answer = await recommender.recommend(
        session_id, (), user_id=query.user_id, k=query.k, exclude=query.exclude, exclude_seen=query.exclude_seen
    )
    return _recommendations(answer, request, response)


@router.post(
    EVENTS_PATH,
    tags=["sessions"],
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
    tags=["sessions"],
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
    tags=["sessions"],
    status_code=204,
    response_class=Response,
    responses=problems(*PATH_PROBLEMS, SessionStoreUnavailable),
)
async def delete_session(session_id: SessionId, store: StoreDep) -> None:
    """Forget all that is stored of a session, whether there was anything or not."""
    await store.delete(session_id)


@router.get(
    "/v1/items/{item_id:path}/similar",
    tags=["items"],
    response_model_exclude_none=True,
    responses=problems(*PATH_PROBLEMS, ItemNotFound, NotReady),
)
async def similar_items(
    item_id: ItemId,
    query: Annotated[ListQuery, Query()],
    recommender: RecommenderDep,
    request: Request,
    response: Response,
) -> ItemList:
    """List the items nearest to an item."""
    bundle, retrieval = await recommender.similar(item_id, query.k, query.exclude)
    return _item_list(bundle, retrieval, request, response)


@router.get(
    "/v1/items:popular",
    tags=["items"],
    response_model_exclude_none=True,
    responses=problems(*PATH_PROBLEMS, NotReady),
)
async def popular_items(
    query: Annotated[ListQuery, Query()], recommender: RecommenderDep, request: Request, response: Response
) -> ItemList:
    """List the most popular items."""
    bundle, retrieval = recommender.popular(query.k, query.exclude)
    return _item_list(bundle, retrieval, request, response)


@router.get(
    "/v1/version", tags=["operations"], response_model_exclude_none=True, responses=problems(*ADMISSION_PROBLEMS)
)
async def show_version(live: LiveDep) -> Version:
    """Tell which service and which bundle run."""
    try:
        bundle = live.bundle
    except NotReady:
        return Version(service=version("onward"))
    manifest = bundle.manifest
    return Version(
        service=version("onward"),
        bundle=bundle.digest,
        model=manifest.model,
        created=manifest.created,
        items=manifest.items,
        metrics=manifest.metrics,
    )


@router.get("/health/live", tags=["operations"], response_model_exclude_none=True)
async def check_liveness() -> Health:
    """Tell that the process answers."""
    return Health(status="live")


@router.get(
    "/health/ready", tags=["operations"], response_model_exclude_none=True, responses=problems(NotReady, InternalError)
)
async def check_readiness(live: LiveDep) -> Health:
    """Tell whether a bundle is live, and whether a newer one was refused. The session store being down is no matter."""
    digest, refusal = live.bundle.digest, live.refusal
    refused = None if refusal is None else RefusedBundle(bundle=refusal.digest, reason=refusal.reason)
    return Health(status="ready", bundle=digest, refused=refused)


@router.get(
    "/metrics",
    tags=["operations"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"example": "onward_requests_total 1.0\n"}}}},
)
def show_metrics() -> Response:
    """Show the metrics of all workers, for Prometheus."""
    return Response(telemetry.render_metrics(), media_type=telemetry.METRICS_CONTENT_TYPE)


def _event(body: EventBody) -> Event:
    timestamp_s = time.time() if body.timestamp is None else body.timestamp.timestamp()
    return Event(body.item_id, body.type, int(timestamp_s * 1000), body.event_id)


def _recommendations(answer: Recommendation, request: Request, response: Response) -> Recommendations:
    took_ms = _took_ms(request)
    response.headers["Server-Timing"] = (
        f"store;dur={answer.store_s * 1000:.2f}, retrieval;dur={answer.retrieval_s * 1000:.2f}, total;dur={took_ms}"
    )
    items = _items(answer.bundle, answer.retrieval)
    return Recommendations(
        recommendation_id=answer.id,
        session_id=answer.session_id,
        bundle=answer.bundle.digest,
        items=items,
        count=len(items),
        user=answer.retrieval.user,
        degraded=list(answer.degraded),
        unknown_item_ids=list(answer.retrieval.unknown_item_ids),
        took_ms=took_ms,
    )


def _item_list(bundle: Bundle, retrieval: Retrieval, request: Request, response: Response) -> ItemList:
    took_ms = _took_ms(request)
    response.headers["Server-Timing"] = f"total;dur={took_ms}"
    items = _items(bundle, retrieval)
    return ItemList(bundle=bundle.digest, items=items, count=len(items), took_ms=took_ms)


def _items(bundle: Bundle, retrieval: Retrieval) -> list[RecommendedItem]:
    return [
        RecommendedItem(
            id=item.item_id,
            score=item.score,
            rank=rank,
            source=item.source,
            interest=item.interest,
            attributes=bundle.attributes(item.item_id) or None,
        )
        for rank, item in enumerate(retrieval.items, start=1)
    ]


def _took_ms(request: Request) -> float:
    return round(telemetry.elapsed_s(request.scope) * 1000, 2)
