"""What the endpoints share: service parts that they take, ids in paths, times, and problems that they may answer."""

from pathlib import Path as FilePath
from typing import Annotated

from fastapi import Depends, Path, Request
from starlette.convertors import register_url_convertor

from onward.service.errors import (
    BodyTooLarge,
    BodyTooSlow,
    ExpiredKey,
    InternalError,
    InvalidRequest,
    MalformedRequest,
    MissingKey,
    MissingScope,
    Overloaded,
    TooManyRequests,
    TooManyWrongKeys,
    UnsupportedMediaType,
    WrongKey,
)
from onward.service.fields import Id
from onward.service.http.audit import Auditor, auditor
from onward.service.http.drain import Drain
from onward.service.http.fast_route import ServicePart
from onward.service.http.path_ids import IdConvertor, WordConvertor
from onward.service.http.scopes import KEY
from onward.service.keys import Key, KeyRing
from onward.service.live.bundle import LiveBundle
from onward.service.live.catalog import LiveCatalog
from onward.service.live.item_search import ItemSearch
from onward.service.live.jobs import Jobs
from onward.service.live.releases import Releases
from onward.service.recommend.explainer import Explainer
from onward.service.recommend.item_lists import ItemLists
from onward.service.recommend.next_pages import NextPages
from onward.service.recommend.pipeline import Pipeline
from onward.service.recommend.scenarios import Scenarios
from onward.service.recommend.session_history import SessionHistories
from onward.service.records.recorder import Recorder
from onward.service.redis_client import StoreCheck
from onward.service.sessions import EventListener, EventRules, SessionStore
from onward.service.worker_metrics import WorkerMetrics

register_url_convertor("word", WordConvertor())
register_url_convertor("id", IdConvertor())  # before the first route is defined: many have ids in their paths

ADMISSION_PROBLEMS = (
    MissingKey,
    WrongKey,
    ExpiredKey,
    MissingScope,
    TooManyRequests,
    TooManyWrongKeys,
    Overloaded,
    InternalError,
)
BODY_PROBLEMS = (MalformedRequest, BodyTooSlow, BodyTooLarge, UnsupportedMediaType, InvalidRequest, *ADMISSION_PROBLEMS)
PATH_PROBLEMS = (MalformedRequest, InvalidRequest, *ADMISSION_PROBLEMS)

PipelineDep = Annotated[Pipeline, Depends(ServicePart("pipeline"))]
ItemListsDep = Annotated[ItemLists, Depends(ServicePart("item_lists"))]
StoreDep = Annotated[SessionStore, Depends(ServicePart("store"))]
ScenariosDep = Annotated[Scenarios, Depends(ServicePart("scenarios"))]
NextPagesDep = Annotated[NextPages, Depends(ServicePart("next_pages"))]
HistoriesDep = Annotated[SessionHistories, Depends(ServicePart("session_histories"))]
ExplainerDep = Annotated[Explainer, Depends(ServicePart("explainer"))]
AuditDep = Annotated[Auditor, Depends(auditor)]
KeysDep = Annotated[KeyRing | None, Depends(ServicePart("keys"))]
DrainDep = Annotated[Drain, Depends(ServicePart("drain"))]
StoreCheckDep = Annotated[StoreCheck | None, Depends(ServicePart("store_check"))]
LiveDep = Annotated[LiveBundle, Depends(ServicePart("live"))]
CatalogDep = Annotated[LiveCatalog, Depends(ServicePart("catalog"))]
WorkerMetricsDep = Annotated[WorkerMetrics, Depends(ServicePart("worker_metrics"))]
SearchDep = Annotated[ItemSearch, Depends(ServicePart("item_search"))]
RecorderDep = Annotated[Recorder, Depends(ServicePart("recorder"))]
ListenerDep = Annotated[EventListener, Depends(ServicePart("listener"))]
RulesDep = Annotated[EventRules, Depends(ServicePart("event_rules"))]

ReleasesDep = Annotated[Releases, Depends(ServicePart("releases"))]
JobsDep = Annotated[Jobs, Depends(ServicePart("jobs"))]
AuditFileDep = Annotated[FilePath | None, Depends(ServicePart("audit_file"))]

SessionId = Annotated[Id, Path(examples=["visitor-1"])]
UserId = Annotated[Id, Path(examples=["user-7"])]
ItemId = Annotated[Id, Path(examples=["item-17"])]


async def of_the_deployment(request: Request) -> None:
    """Refuse a key of a tenant: what the endpoint shows or changes is of all tenants. Raises MissingScope."""
    key: Key | None = request.scope["state"].get(KEY)
    if key is not None and key.tenant is not None:
        raise MissingScope("This is of the whole deployment: it needs a key without a tenant.")


def caller_name(request: Request) -> str:
    """Return the name of the caller's key, for records of who did something."""
    key: Key | None = request.scope["state"].get(KEY)
    return "a caller without a key" if key is None else key.name


def seconds(milliseconds: int | None) -> float | None:
    """Convert a request's `timeout_ms`."""
    return None if milliseconds is None else milliseconds / 1000
