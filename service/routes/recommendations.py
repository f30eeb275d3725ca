"""Recommendations."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.errors import NotReady
from service.openapi import problems
from service.recommender import Recommendation
from service.routes.dependencies import BODY_PROBLEMS, PATH_PROBLEMS, RecommenderDep, SessionId, elapsed_ms
from service.routes.items import recommended_items
from service.schemas.recommendations import RecommendationQuery, Recommendations, SessionRecommendationQuery
from service.strict_json import StrictJSONRoute

router = APIRouter(route_class=StrictJSONRoute, tags=["recommendations"])


@router.post(
    "/v1/recommendations",
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


def _recommendations(answer: Recommendation, request: Request, response: Response) -> Recommendations:
    took_ms = elapsed_ms(request)
    response.headers["Server-Timing"] = (
        f"store;dur={answer.store_s * 1000:.2f}, retrieval;dur={answer.retrieval_s * 1000:.2f}, total;dur={took_ms}"
    )
    items = recommended_items(answer.bundle, answer.retrieval)
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
