"""Endpoints of the live catalog: read, change, delete and add items while the service runs."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from onward.bundle import Bundle
from onward.bundle.files.attributes import Kind
from onward.service.errors import (
    AuditLogUnavailable,
    Fault,
    InvalidRequest,
    ItemNotFound,
    LimitReached,
    LiveStoreUnavailable,
    NotReady,
    ServiceError,
)
from onward.service.http.openapi import problems
from onward.service.http.routes.dependencies import (
    BODY_PROBLEMS,
    PATH_PROBLEMS,
    AuditDep,
    CatalogDep,
    ItemId,
    LiveDep,
    SearchDep,
)
from onward.service.http.schemas.catalog import (
    FoundItems,
    Item,
    ItemBody,
    ItemEntry,
    ItemResult,
    ItemResults,
    ItemsBody,
    ItemsQuery,
    VectorOrigin,
)
from onward.service.http.schemas.entries import EntryProblem, InvalidEntry
from onward.service.http.strict_json import StrictJSONRoute
from onward.service.live.catalog import ItemPatch, LiveCatalog
from onward.service.live.replica import Edited
from onward.service.records.audit_log import Change

ITEM_CHANGED = "item changed"
ITEMS_BATCH_PATH = "/v1/items:batch"
ITEM_PATH = "/v1/items/{item_id:id}"

router = APIRouter(route_class=StrictJSONRoute, tags=["catalog"])


@router.get("/v1/items", response_model_exclude_none=True, responses=problems(*PATH_PROBLEMS, NotReady))
async def list_items(query: Annotated[ItemsQuery, Query()], search: SearchDep, catalog: CatalogDep) -> FoundItems:
    """List all items, or those that a text finds, as they are now; deleted items are left out.

    The item whose id is the query comes first, then items with its words in their texts, most popular first, or if
    there are none, items whose ids begin with it. Case and diacritics of texts are ignored.
    """
    found = await search.find(query.query, changed=query.changed, cursor=query.cursor, limit=query.limit)
    return FoundItems(
        bundle=found.bundle.digest,
        items=[
            item_of(item_id, found.bundle, catalog) for item_id in found.item_ids if not catalog.is_deleted(item_id)
        ],
        next_cursor=found.next,
        degraded=[] if found.is_complete else ["index"],
    )


@router.get(ITEM_PATH, response_model_exclude_none=True, responses=problems(*PATH_PROBLEMS, ItemNotFound, NotReady))
async def show_item(item_id: ItemId, live: LiveDep, catalog: CatalogDep) -> Item:
    """Return the current state of an item: its attributes, whether it can be recommended, and if not, why.

    A deleted item is not found.
    """
    return item_of(item_id, live.bundle, catalog)


@router.patch(
    ITEM_PATH,
    response_model_exclude_none=True,
    responses=problems(*BODY_PROBLEMS, LimitReached, NotReady, LiveStoreUnavailable, AuditLogUnavailable),
)
async def change_item(item_id: ItemId, body: ItemBody, live: LiveDep, catalog: CatalogDep, audit: AuditDep) -> Item:
    """Change an item's attributes or availability, or add a new item; restores a deleted item as available.

    The change applies to this worker's answers at once, and to all other workers' within a second. It outlasts
    restarts and new bundles, until a rebuild includes it. A new item is recommended as soon as it has a vector.
    """
    if misfits := _misfits(body, live.bundle.catalog.schema, "body"):
        raise InvalidRequest.of(misfits)
    outcome = (await catalog.patch({item_id: [body.as_patch()]}))[item_id]
    await live.take_changes()
    if isinstance(outcome, ServiceError):
        raise outcome
    await audit.record(Change(ITEM_CHANGED, item_id, *outcome))
    return item_of(item_id, live.bundle, catalog)


@router.delete(
    ITEM_PATH,
    status_code=204,
    response_class=Response,
    responses=problems(*PATH_PROBLEMS, ItemNotFound, NotReady, LiveStoreUnavailable, AuditLogUnavailable),
)
async def delete_item(item_id: ItemId, live: LiveDep, catalog: CatalogDep, audit: AuditDep) -> None:
    """Exclude an item from all recommendations until a change restores it; sessions that contain it still work."""
    edited = await catalog.delete(item_id, live.bundle)
    await live.take_changes()
    await audit.record(Change("item deleted", item_id, *edited))


@router.post(
    ITEMS_BATCH_PATH,
    response_model_exclude_none=True,
    responses={
        207: {"model": ItemResults, "description": "Some entries were rejected; the others are stored."},
        **problems(*BODY_PROBLEMS, NotReady, LiveStoreUnavailable, AuditLogUnavailable),
    },
)
async def change_items(
    body: ItemsBody, live: LiveDep, catalog: CatalogDep, audit: AuditDep, response: Response
) -> ItemResults:
    """Change many items, each as PATCH does; a rejected entry does not affect the others.

    Changes of one item are applied in the order sent. After a 503 some may be stored: send them again.
    """
    schema = live.bundle.catalog.schema
    errors = [_entry_problem(entry, number, schema) for number, entry in enumerate(body.items)]
    patches: defaultdict[str, list[ItemPatch]] = defaultdict(list)
    for entry, error in zip(body.items, errors, strict=True):
        if isinstance(entry, ItemEntry) and error is None:
            patches[entry.id].append(entry.as_patch())
    outcomes = await catalog.patch(patches)
    await live.take_changes()
    edits = {item_id: outcome for item_id, outcome in outcomes.items() if isinstance(outcome, Edited)}
    await audit.record(*(Change(ITEM_CHANGED, item_id, *edited) for item_id, edited in edits.items()))
    results = [_result(entry, error, outcomes) for entry, error in zip(body.items, errors, strict=True)]
    rejected = sum(result.error is not None for result in results)
    response.status_code = 207 if rejected else 200
    return ItemResults(results=results, stored=len(results) - rejected, rejected=rejected)


def item_of(item_id: str, bundle: Bundle, live_catalog: LiveCatalog) -> Item:
    """Return the current state of an item of a bundle. Raises ItemNotFound."""
    catalog = bundle.catalog
    row = catalog.row(item_id)
    if row is None or live_catalog.is_deleted(item_id):
        raise ItemNotFound("Neither the live bundle nor the live catalog has this item.")
    recommendable = bool(catalog.eligible().rows_R1[row])
    cold = None if row <= catalog.items else catalog.new_item(row)
    available = recommendable if cold is None else cold.leaves_available(True)
    reason: Any = None if recommendable else "no_vector" if catalog.lacks_vector(item_id) else "unavailable"
    return Item(
        id=item_id,
        bundle=bundle.digest,
        attributes=dict(catalog.attributes(row)),
        available=available,
        recommendable=recommendable,
        not_recommendable=reason,
        popularity=float(catalog.popularity_N1[row]) if cold is None else 0.0,
        vector=_exported_origin(bundle, row) if cold is None else _origin(item_id, live_catalog),
    )


def _exported_origin(bundle: Bundle, row: int) -> VectorOrigin:
    return VectorOrigin(source="training" if bundle.content_of(row) is None else "content")


def _origin(item_id: str, live_catalog: LiveCatalog) -> VectorOrigin | None:
    vector = live_catalog.cold_vector(item_id)
    return None if vector is None else VectorOrigin(source=vector.source, neighbours=list(vector.neighbours) or None)


def _entry_problem(entry: ItemEntry | InvalidEntry, number: int, schema: Mapping[str, Kind]) -> EntryProblem | None:
    """Return why an entry itself is unacceptable, None if it may be stored."""
    location = ("body", "items", number)
    if isinstance(entry, InvalidEntry):
        return EntryProblem.of(entry.refusal("entry", *location))
    misfits = _misfits(entry, schema, *location)
    return EntryProblem.of(InvalidRequest.of(misfits, "entry")) if misfits else None


def _result(
    entry: ItemEntry | InvalidEntry, error: EntryProblem | None, outcomes: Mapping[str, Edited | ServiceError]
) -> ItemResult:
    item_id = entry.id if isinstance(entry, ItemEntry) else None
    if error is None and item_id is not None and isinstance(outcome := outcomes[item_id], ServiceError):
        error = EntryProblem.of(outcome)
    return ItemResult(id=item_id, status="stored" if error is None else "rejected", error=error)


def _misfits(body: ItemBody, schema: Mapping[str, Kind], *location: str | int) -> list[Fault]:
    """Return a fault for each attribute whose kind differs from the catalog's; `location` is that of the change."""
    misfits = body.as_patch().misfits(schema)
    parent = ".".join(map(str, (*location, "attributes")))
    return [
        Fault(at=f"{parent}.{name}", message=f"{name} is of the kind {kind} in this catalog")
        for name, kind in misfits.items()
    ]
