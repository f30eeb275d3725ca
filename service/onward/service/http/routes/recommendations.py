"""Recommendations: one, several at once, further pages, and why."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Body, Path, Request
from fastapi import Query as QueryString

from onward.service import telemetry
from onward.service.errors import (
    LimitReached,
    NotReady,
    Problem,
    RecommendationGone,
    RecommendationNotFound,
    ServiceError,
    SessionBehind,
    SessionStoreUnavailable,
    UnknownScenario,
    problem_of,
)
from onward.service.http.fast_route import HotRoute
from onward.service.http.json_response import JSONBytes
from onward.service.http.openapi import problems
from onward.service.http.routes.dependencies import (
    BODY_PROBLEMS,
    PATH_PROBLEMS,
    ExplainerDep,
    PagesDep,
    RecommenderDep,
    SessionId,
    elapsed_ms,
)
from onward.service.http.schemas.base import Id, UnusableEntry
from onward.service.http.schemas.explanations import Explanation, ExplanationQuery
from onward.service.http.schemas.recommendations import (
    NextQuery,
    RecommendationQueries,
    RecommendationQuery,
    RecommendationResults,
    Recommendations,
    SessionRecommendationQuery,
)
from onward.service.http.serialization import rendered, rendered_results
from onward.service.http.strict_json import StrictJSONRoute
from onward.service.recommend.explanation import explained
from onward.service.recommend.options import RecommendationOptions
from onward.service.recommend.query import Query, Recommendation

BATCH_PATH = "/v1/recommendations:batch"

hot = APIRouter(route_class=HotRoute, tags=["recommendations"])
router = APIRouter(route_class=StrictJSONRoute, tags=["recommendations"])

RecommendationId = Annotated[Id, Path(examples=["0b1f7c1e2d3a4b5c8d9e0f1a2b3c4d5e8d9e0f1a2b3c4d5e"])]


@hot.post(
    "/v1/recommendations",
    response_model=Recommendations,
    responses=problems(*BODY_PROBLEMS, UnknownScenario, SessionBehind, NotReady),
)
async def recommend(
    query: RecommendationQuery,
    recommender: RecommenderDep,
    request: Request,
) -> JSONBytes:
    """Append the newest items to the session, if one is named, and rank what is likely to come next.

    If the session store does not answer in time, the ranking is by `items` alone, or by popularity, and `degraded`
    says so. A session of which no item is known gets items similar to its last new one, or popular ones, and `source`
    says so; that of a user whom the encoder knows gets what suits the user. `user` says whether the encoder knows the
    user.
    """
    answer = await recommender.recommend(_asked(query))
    took_ms = elapsed_ms(request)
    explanation = await asyncio.to_thread(explained, answer.bundle, answer.answer) if query.dry_run else None
    return _response(answer, took_ms, explanation)


@router.post(
    BATCH_PATH,
    response_model=RecommendationResults,
    responses={
        207: {"model": RecommendationResults, "description": "Some queries failed; the others are answered."},
        **problems(*BODY_PROBLEMS, NotReady),
    },
)
async def recommend_for_many(
    body: RecommendationQueries,
    recommender: RecommenderDep,
    request: Request,
) -> JSONBytes:
    """Answer several queries at once, each as it would be by itself; one that fails does not stop the others.

    Sessions are encoded together, which is faster than one by one.
    """
    asked = [_asked_or_refused(query, number) for number, query in enumerate(body.requests)]
    answers = iter(await recommender.recommend_all([one for one in asked if isinstance(one, Query)]))
    took_ms, request_id = elapsed_ms(request), telemetry.request_id(request.scope)
    results: list[bytes | Problem] = []
    for query, one in zip(body.requests, asked, strict=True):
        answer = next(answers) if isinstance(one, Query) else one
        if isinstance(answer, Recommendation):
            explains = isinstance(query, RecommendationQuery) and query.dry_run
            explanation = await asyncio.to_thread(explained, answer.bundle, answer.answer) if explains else None
            results.append(rendered(answer, took_ms, explanation))
        else:
            results.append(problem_of(answer, request_id))
    failed = sum(isinstance(result, Problem) for result in results)
    return JSONBytes(rendered_results(results, failed, elapsed_ms(request)), status_code=207 if failed else 200)


@router.get(
    "/v1/sessions/{session_id:id}/recommendations",
    response_model=Recommendations,
    responses=problems(*PATH_PROBLEMS, UnknownScenario, SessionBehind, NotReady),
)
async def recommend_for_session(
    session_id: SessionId,
    query: Annotated[SessionRecommendationQuery, QueryString()],
    recommender: RecommenderDep,
    request: Request,
) -> JSONBytes:
    """Rank what is likely to come next in a stored session; where nothing is stored, popular items.

    With a `user_id` that the encoder knows, what suits the user counts too, and stands in for a session.
    """
    given = query.model_dump(include=query.model_fields_set & RecommendationOptions.model_fields.keys())
    answer = await recommender.recommend(
        Query(
            session_id=session_id,
            user_id=query.user_id,
            exclude=query.exclude,
            options=RecommendationOptions(**given),
            scenario=query.scenario,
            position=query.position,
        )
    )
    return _response(answer, elapsed_ms(request))


@router.post(
    "/v1/recommendations/{recommendation_id:id}/next",
    response_model=Recommendations,
    responses=problems(
        *BODY_PROBLEMS, RecommendationNotFound, LimitReached, RecommendationGone, SessionStoreUnavailable, NotReady
    ),
)
async def recommend_more(
    recommendation_id: RecommendationId,
    pages: PagesDep,
    request: Request,
    query: Annotated[NextQuery, Body()] = NextQuery(),  # noqa: B008  # the framework reads the default
) -> JSONBytes:
    """Go on with an answer: the items that come next by the same session and options.

    No page of an answer repeats what another one has shown, whichever page's id is given and however many are asked
    for at once. An answer has at most 100 pages.
    """
    answer = await pages.next(recommendation_id, query.k)
    return _response(answer, elapsed_ms(request))


@router.get(
    "/v1/recommendations/{recommendation_id:id}/explanation",
    response_model_exclude_none=True,
    responses=problems(*PATH_PROBLEMS, RecommendationNotFound, RecommendationGone, SessionStoreUnavailable, NotReady),
)
async def explain(
    recommendation_id: RecommendationId, query: Annotated[ExplanationQuery, QueryString()], explainer: ExplainerDep
) -> Explanation:
    """Tell what each event of the session did for each item, what else moved it, and why an item is not shown.

    The answer is given again with the bundle that gave it, and explained only where it comes out the same.
    """
    return await explainer.explain(recommendation_id, query.why_not)


def _asked(query: RecommendationQuery) -> Query:
    return Query(
        session_id=query.session_id,
        items=query.items,
        user_id=query.user_id,
        exclude=query.exclude,
        options=query,
        scenario=query.scenario,
        position=query.position,
        kept=query.store and not query.dry_run,
    )


def _asked_or_refused(query: RecommendationQuery | UnusableEntry, number: int) -> Query | ServiceError:
    if isinstance(query, UnusableEntry):
        return query.refusal("query", "body", "requests", number)
    return _asked(query)._replace(place=("body", "requests", number))


def _response(answer: Recommendation, took_ms: float, explanation: Explanation | None = None) -> JSONBytes:
    stages = f"store;dur={answer.store_s * 1000:.2f}, retrieval;dur={answer.retrieval_s * 1000:.2f}"
    timing = f"{stages}, total;dur={took_ms}".encode()
    return JSONBytes(rendered(answer, took_ms, explanation), (b"server-timing", timing))
