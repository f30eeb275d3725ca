"""Endpoints of recommendations: single, in batches, next pages and explanations."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Path, Request
from fastapi import Query as QueryParameters

from onward.service import telemetry
from onward.service.errors import (
    BundleNotFound,
    LimitReached,
    NotReady,
    RecommendationGone,
    RecommendationNotFound,
    ReleaseRefused,
    ServiceError,
    SessionBehind,
    SessionStoreUnavailable,
    UnknownScenario,
)
from onward.service.fields import Id
from onward.service.http.fast_route import FastRoute
from onward.service.http.openapi import problems
from onward.service.http.problems import Problem, problem_of
from onward.service.http.routes.dependencies import (
    BODY_PROBLEMS,
    PATH_PROBLEMS,
    ExplainerDep,
    ItemId,
    LiveDep,
    NextPagesDep,
    PipelineDep,
    RecorderDep,
    ReleasesDep,
    SessionId,
    of_the_deployment,
    seconds,
)
from onward.service.http.routes.releases import BUNDLE_PATH, Digest
from onward.service.http.schemas.entries import InvalidEntry
from onward.service.http.schemas.explanations import ExplanationQuery
from onward.service.http.schemas.recommendations import (
    NextQuery,
    RecommendationQueries,
    RecommendationQuery,
    RecommendationResults,
    Recommendations,
    SessionRecommendationQuery,
)
from onward.service.http.serialization import JSONBytes, recommendation_json, results_json
from onward.service.http.strict_json import StrictJSONRoute
from onward.service.recommend.explainer import explain as explain_answer
from onward.service.recommend.explainer import explain_item as explain_item_of
from onward.service.recommend.explanation import Explanation, ItemExplanation
from onward.service.recommend.options import RecommendationOptions
from onward.service.recommend.pipeline import DEADLINE
from onward.service.recommend.query import Query, Recommendation

BATCH_PATH = "/v1/recommendations:batch"
EXPLANATION_TIMEOUT_S = 30.0
"""An explanation of an item is of the whole answer, not of one that was cut short to be fast."""

fast = APIRouter(route_class=FastRoute, tags=["recommendations"])
router = APIRouter(route_class=StrictJSONRoute, tags=["recommendations"])

RecommendationId = Annotated[Id, Path(examples=["0b1f7c1e2d3a4b5c8d9e0f1a2b3c4d5e8d9e0f1a2b3c4d5e510800"])]


@fast.post(
    "/v1/recommendations",
    response_model=Recommendations,
    responses=problems(*BODY_PROBLEMS, UnknownScenario, SessionBehind, NotReady),
)
async def recommend(
    query: RecommendationQuery,
    pipeline: PipelineDep,
    request: Request,
) -> JSONBytes:
    """Append `items` to the session, if one is named, and recommend the items most likely to come next.

    If the session store does not answer in time, the recommendation uses `items` alone, or popularity, and `degraded`
    says so. If the encoder knows no item of the session, it recommends items similar to the session's last new item,
    or popular ones, and `source` says so; for a user whom the encoder knows, it uses the user. `user` says whether the
    encoder knows the user.
    """
    recommendation = await pipeline.recommend(_query(query, telemetry.elapsed_s(request.scope)))
    took_ms = telemetry.elapsed_ms(request.scope)
    explanation = await _explanation(recommendation) if query.dry_run else None
    return _response(recommendation, took_ms, explanation)


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
    pipeline: PipelineDep,
    request: Request,
) -> JSONBytes:
    """Answer several queries in one call, each as if sent alone; one that fails does not affect the others.

    Sessions are encoded as one batch, which is faster than one by one.
    """
    age_s = telemetry.elapsed_s(request.scope)
    queries = [_query_or_error(entry, number, age_s) for number, entry in enumerate(body.requests)]
    answers = iter(await pipeline.recommend_all([query for query in queries if isinstance(query, Query)]))
    took_ms, request_id = telemetry.elapsed_ms(request.scope), telemetry.request_id(request.scope)
    results: list[bytes | Problem] = []
    for entry, query in zip(body.requests, queries, strict=True):
        answer = next(answers) if isinstance(query, Query) else query
        if isinstance(answer, Recommendation):
            is_explained = isinstance(entry, RecommendationQuery) and entry.dry_run
            explanation = await _explanation(answer) if is_explained else None
            results.append(recommendation_json(answer, took_ms, explanation))
        else:
            results.append(problem_of(answer, request_id))
    failed = sum(isinstance(result, Problem) for result in results)
    content = results_json(results, failed, telemetry.elapsed_ms(request.scope))
    return JSONBytes(content, status_code=207 if failed else 200)


@router.get(
    "/v1/sessions/{session_id:id}/recommendations",
    response_model=Recommendations,
    responses=problems(*PATH_PROBLEMS, UnknownScenario, SessionBehind, NotReady),
)
async def recommend_for_session(
    session_id: SessionId,
    query: Annotated[SessionRecommendationQuery, QueryParameters()],
    pipeline: PipelineDep,
    request: Request,
) -> JSONBytes:
    """Recommend the items most likely to come next in a stored session; popular items if nothing is stored.

    With a `user_id` that the encoder knows, the user is taken into account too, and suffices without a session.
    """
    options = query.model_dump(include=query.model_fields_set & RecommendationOptions.model_fields.keys())
    recommendation = await pipeline.recommend(
        Query(
            session_id=session_id,
            user_id=query.user_id,
            exclude=query.exclude,
            options=RecommendationOptions(**options),
            scenario=query.scenario,
            position=query.position,
            timeout_s=seconds(query.timeout_ms),
            age_s=telemetry.elapsed_s(request.scope),
        )
    )
    return _response(recommendation, telemetry.elapsed_ms(request.scope))


@router.post(
    "/v1/recommendations/{recommendation_id:id}/next",
    response_model=Recommendations,
    responses=problems(
        *BODY_PROBLEMS, RecommendationNotFound, LimitReached, RecommendationGone, SessionStoreUnavailable, NotReady
    ),
)
async def recommend_more(
    recommendation_id: RecommendationId,
    next_pages: NextPagesDep,
    request: Request,
    query: Annotated[NextQuery, Body()] = NextQuery(),  # noqa: B008  # the framework reads the default
) -> JSONBytes:
    """Return the next page of an answer: the items that rank next for the same session and options.

    The pages of an answer never repeat an item, whichever page's id is used and even if pages are requested
    concurrently. An answer has at most 100 pages.
    """
    age_s = telemetry.elapsed_s(request.scope)
    page = await next_pages.next(recommendation_id, query.k, timeout_s=seconds(query.timeout_ms), age_s=age_s)
    return _response(page, telemetry.elapsed_ms(request.scope))


@router.get(
    "/v1/recommendations/{recommendation_id:id}/explanation",
    response_model_exclude_none=True,
    responses=problems(*PATH_PROBLEMS, RecommendationNotFound, RecommendationGone, SessionStoreUnavailable, NotReady),
)
async def explain(
    recommendation_id: RecommendationId, query: Annotated[ExplanationQuery, QueryParameters()], explainer: ExplainerDep
) -> Explanation:
    """Explain each item's rank: the contribution of each event, boosts and re-ranking; and why an item is missing.

    The answer is computed again with the bundle that gave it, and explained only if the result is the same.
    """
    return await explainer.explain(recommendation_id, query.why_not)


@router.post(
    "/v1/items/{item_id:id}/explanation",
    response_model_exclude_none=True,
    responses=problems(*BODY_PROBLEMS, UnknownScenario, SessionBehind, NotReady),
)
async def explain_item(
    item_id: ItemId, query: RecommendationQuery, pipeline: PipelineDep, recorder: RecorderDep, request: Request
) -> ItemExplanation:
    """Answer a query without storing anything, and say the item's place and score in it, or why it is not there.

    `reason` is the first that applies: the item is unknown, deleted, hidden, has no vector, fails the filter, is
    excluded, was seen, or gave way to diversity, pins or better items.
    """
    asked = _query(query, telemetry.elapsed_s(request.scope))
    timeout_s = asked.timeout_s or EXPLANATION_TIMEOUT_S
    recommendation = await pipeline.recommend(asked._replace(store=False, timeout_s=timeout_s))
    return await asyncio.to_thread(
        explain_item_of, recommendation.bundle, recommendation.answer, item_id, recorder.popularity.scores
    )


@router.post(
    f"{BUNDLE_PATH}/recommendations",
    response_model=Recommendations,
    dependencies=[Depends(of_the_deployment)],
    responses=problems(*BODY_PROBLEMS, UnknownScenario, SessionBehind, BundleNotFound, ReleaseRefused, NotReady),
)
async def recommend_from_bundle(
    digest: Digest,
    query: RecommendationQuery,
    pipeline: PipelineDep,
    releases: ReleasesDep,
    live: LiveDep,
    request: Request,
) -> JSONBytes:
    """Answer a query by a bundle that need not be live, with the explanation; nothing is stored.

    The first call for a bundle loads it.
    """
    release, _ = await releases.find(digest)
    bundle = await live.of(release.digest)
    if bundle is None:
        raise BundleNotFound("The files of this bundle were removed.")
    asked = _query(query, telemetry.elapsed_s(request.scope))
    timeout_s = asked.age_s + EXPLANATION_TIMEOUT_S  # the time to load it does not count
    recommendation = await pipeline.recommend(asked._replace(store=False, timeout_s=timeout_s), bundle)
    took_ms = telemetry.elapsed_ms(request.scope)
    return _response(recommendation, took_ms, await _explanation(recommendation))


async def _explanation(recommendation: Recommendation) -> Explanation | None:
    """Explain a recommendation, unless time was short already."""
    if DEADLINE in recommendation.degraded:
        return None
    return await asyncio.to_thread(explain_answer, recommendation.bundle, recommendation.answer)


def _query(body: RecommendationQuery, age_s: float) -> Query:
    return Query(
        session_id=body.session_id,
        items=body.items,
        user_id=body.user_id,
        exclude=body.exclude,
        options=body,
        scenario=body.scenario,
        position=body.position,
        store=body.store and not body.dry_run,
        timeout_s=seconds(body.timeout_ms),
        age_s=age_s,
    )


def _query_or_error(body: RecommendationQuery | InvalidEntry, number: int, age_s: float) -> Query | ServiceError:
    if isinstance(body, InvalidEntry):
        return body.refusal("query", "body", "requests", number)
    return _query(body, age_s)._replace(location=("body", "requests", number))


def _response(recommendation: Recommendation, took_ms: float, explanation: Explanation | None = None) -> JSONBytes:
    store_ms, retrieval_ms = recommendation.store_s * 1000, recommendation.retrieval_s * 1000
    timing = f"store;dur={store_ms:.2f}, retrieval;dur={retrieval_ms:.2f}, total;dur={took_ms}".encode()
    return JSONBytes(recommendation_json(recommendation, took_ms, explanation), (b"server-timing", timing))
