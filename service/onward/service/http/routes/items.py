"""Endpoints of item lists: items similar to an item, and popular items."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from onward.bundle import Bundle, Options
from onward.service import telemetry
from onward.service.errors import ItemNotFound, NotReady
from onward.service.http.openapi import problems
from onward.service.http.routes.dependencies import PATH_PROBLEMS, ItemId, ItemListsDep, seconds
from onward.service.http.schemas.items import ItemList, ListQuery
from onward.service.http.serialization import JSONBytes, item_list_json
from onward.service.http.strict_json import StrictJSONRoute
from onward.service.recommend.retrieval import Retrieved

router = APIRouter(route_class=StrictJSONRoute, tags=["items"])


@router.get(
    "/v1/items/{item_id:id}/similar",
    response_model=ItemList,
    responses=problems(*PATH_PROBLEMS, ItemNotFound, NotReady),
)
async def similar_items(
    item_id: ItemId,
    query: Annotated[ListQuery, Query()],
    item_lists: ItemListsDep,
    request: Request,
) -> JSONBytes:
    """List the items whose vectors are nearest to an item's; popular ones if there is no time to search."""
    bundle, retrieved = await item_lists.similar(
        item_id,
        Options(k=query.k, exclude=query.exclude),
        timeout_s=seconds(query.timeout_ms),
        age_s=telemetry.elapsed_s(request.scope),
    )
    return _item_list(bundle, retrieved, request)


@router.get(
    "/v1/items:popular",
    response_model=ItemList,
    responses=problems(*PATH_PROBLEMS, NotReady),
)
async def popular_items(query: Annotated[ListQuery, Query()], item_lists: ItemListsDep, request: Request) -> JSONBytes:
    """List the most popular items."""
    bundle, retrieved = item_lists.popular(Options(k=query.k, exclude=query.exclude))
    return _item_list(bundle, retrieved, request)


def _item_list(bundle: Bundle, retrieved: Retrieved, request: Request) -> JSONBytes:
    took_ms = telemetry.elapsed_ms(request.scope)
    timing = f"total;dur={took_ms}".encode()
    return JSONBytes(item_list_json(bundle, retrieved, took_ms), (b"server-timing", timing))
