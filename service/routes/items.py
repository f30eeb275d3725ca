"""Items: the similar and the popular ones."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.bundle import Bundle, Options, Retrieval
from service.errors import ItemNotFound, NotReady
from service.openapi import problems
from service.routes.dependencies import PATH_PROBLEMS, ItemId, RecommenderDep, elapsed_ms
from service.schemas.items import ItemList, ListQuery, RecommendedItem
from service.strict_json import StrictJSONRoute

router = APIRouter(route_class=StrictJSONRoute, tags=["items"])


@router.get(
    "/v1/items/{item_id:id}/similar",
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
    bundle, retrieval = await recommender.similar(item_id, Options(k=query.k, exclude=query.exclude))
    return _item_list(bundle, retrieval, request, response)


@router.get(
    "/v1/items:popular",
    response_model_exclude_none=True,
    responses=problems(*PATH_PROBLEMS, NotReady),
)
async def popular_items(
    query: Annotated[ListQuery, Query()], recommender: RecommenderDep, request: Request, response: Response
) -> ItemList:
    """List the most popular items."""
    bundle, retrieval = recommender.popular(Options(k=query.k, exclude=query.exclude))
    return _item_list(bundle, retrieval, request, response)


def recommended_items(bundle: Bundle, retrieval: Retrieval) -> list[RecommendedItem]:
    """Render items, with what the catalog knows of each."""
    attributes = bundle.catalog.attributes_of([item.item_id for item in retrieval.items])
    return [
        RecommendedItem(item.item_id, item.score, rank, item.source, item.interest, known or None)
        for rank, (item, known) in enumerate(zip(retrieval.items, attributes, strict=True), start=1)
    ]


def _item_list(bundle: Bundle, retrieval: Retrieval, request: Request, response: Response) -> ItemList:
    took_ms = elapsed_ms(request)
    response.headers["Server-Timing"] = f"total;dur={took_ms}"
    items = recommended_items(bundle, retrieval)
    return ItemList(bundle=bundle.digest, items=items, count=len(items), took_ms=took_ms)
