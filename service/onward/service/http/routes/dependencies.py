"""What the endpoints share: the parts of the service that they ask, and the problems that they may answer with."""

from typing import Annotated, cast

from fastapi import Depends, Path, Request
from starlette.convertors import register_url_convertor

from onward.service import telemetry
from onward.service.errors import (
    BodyTooLarge,
    BodyTooSlow,
    InternalError,
    InvalidRequest,
    MalformedRequest,
    MissingKey,
    Overloaded,
    TooManyRequests,
    UnsupportedMediaType,
    WrongKey,
)
from onward.service.http.path_ids import IdConvertor
from onward.service.http.schemas.base import Id
from onward.service.live.bundle import LiveBundle
from onward.service.recommend.explanation import Explainer
from onward.service.recommend.next_pages import Pages
from onward.service.recommend.recommender import Recommender
from onward.service.recommend.scenarios import Scenarios
from onward.service.sessions import SessionStore

register_url_convertor("id", IdConvertor())  # before any route is made, of which many have ids in their addresses

ADMISSION_PROBLEMS = (MissingKey, WrongKey, TooManyRequests, Overloaded, InternalError)
BODY_PROBLEMS = (MalformedRequest, BodyTooSlow, BodyTooLarge, UnsupportedMediaType, InvalidRequest, *ADMISSION_PROBLEMS)
PATH_PROBLEMS = (MalformedRequest, InvalidRequest, *ADMISSION_PROBLEMS)


async def _recommender(request: Request) -> Recommender:
    return cast(Recommender, request.scope["state"]["recommender"])


async def _store(request: Request) -> SessionStore:
    return cast(SessionStore, request.scope["state"]["store"])


async def _live(request: Request) -> LiveBundle:
    return cast(LiveBundle, request.scope["state"]["live"])


async def _scenarios(request: Request) -> Scenarios:
    return cast(Scenarios, request.scope["state"]["scenarios"])


async def _pages(request: Request) -> Pages:
    return cast(Pages, request.scope["state"]["pages"])


async def _explainer(request: Request) -> Explainer:
    return cast(Explainer, request.scope["state"]["explainer"])


RecommenderDep = Annotated[Recommender, Depends(_recommender)]
StoreDep = Annotated[SessionStore, Depends(_store)]
ScenariosDep = Annotated[Scenarios, Depends(_scenarios)]
PagesDep = Annotated[Pages, Depends(_pages)]
ExplainerDep = Annotated[Explainer, Depends(_explainer)]
LiveDep = Annotated[LiveBundle, Depends(_live)]
SessionId = Annotated[Id, Path(examples=["visitor-1"])]
ItemId = Annotated[Id, Path(examples=["item-17"])]


def elapsed_ms(request: Request) -> float:
    """Return the milliseconds since the request began."""
    return round(telemetry.elapsed_s(request.scope) * 1000, 2)
