"""A fast route answers, rejects and is documented exactly as the framework's own route of the same endpoint."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.testclient import TestClient

from onward.service.errors import ItemNotFound
from onward.service.http.fast_route import FastRoute, ServicePart
from onward.service.http.problems import add_error_handlers
from onward.service.http.schemas.recommendations import RecommendationQuery
from onward.service.http.schemas.sessions import OneOrManyEvents
from onward.service.http.strict_json import StrictJSONRoute
from tests.service.http.dispatching import dispatching

JSON = {"Content-Type": "application/json"}


class Echo(BaseModel):
    """What an endpoint received."""

    received: str
    caller: str
    missing: str | None = None
    items: list[float] = Field(examples=[[1.5]])


CallerDep = Annotated[str, Depends(ServicePart("caller"))]


async def echo_query(query: RecommendationQuery, caller: CallerDep, request: Request, response: Response) -> Echo:
    """Return what was received."""
    if query.user_id == "nobody":
        raise ItemNotFound("This user does not exist.")
    response.headers["X-Path"] = str(len(request.url.path) > 0)
    response.status_code = 207 if query.k == 7 else 200
    return Echo(received=query.model_dump_json(warnings=False), caller=caller, items=[0.1, 1e300])


async def echo_events(body: Annotated[OneOrManyEvents, Body()], caller: CallerDep) -> Echo:
    """Return what was received."""
    return Echo(received=repr(body), caller=caller, items=[])


def application(route_class: type[StrictJSONRoute]) -> tuple[FastAPI, APIRouter]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, str]]:
        yield {"caller": "me"}

    app = FastAPI(lifespan=lifespan)
    router = APIRouter(route_class=route_class)
    router.post("/query", response_model_exclude_none=True)(echo_query)
    router.post("/events", status_code=202)(echo_events)
    app.include_router(router)
    add_error_handlers(app)
    return app, router


@pytest.fixture(scope="module", params=[False, True], ids=["routed", "bypassing the framework"])
def clients(request: pytest.FixtureRequest) -> Iterator[tuple[TestClient, TestClient]]:
    app, router = application(FastRoute)
    fast_app = dispatching(app, router) if request.param else dispatching(app)
    with TestClient(fast_app) as fast, TestClient(dispatching(application(StrictJSONRoute)[0])) as plain:
        yield fast, plain


def response_of(client: TestClient, path: str, content: bytes, headers: dict[str, str]) -> Any:
    answer = client.post(path, content=content, headers={"X-Request-ID": "the-same", **headers})
    return answer.status_code, sorted(answer.headers.items()), answer.content


@pytest.mark.parametrize("path", ["/query", "/events"])
@pytest.mark.parametrize("headers", [JSON, {}, {"Content-Type": "text/plain"}])
@pytest.mark.parametrize(
    "content",
    [
        b'{"items": ["a", "b"], "k": 3}',
        b'{"items": ["a"], "k": 7, "filter": {"attribute": "price", "range": {"max": 3}}}',
        b'{"user_id": "nobody"}',
        b'{"session_id": "s", "item_id": "i"}',
        b'{"events": [{"session_id": "s", "item_id": "i"}, {"session_id": 1}]}',
        b'{"events": []}',
        b"",
        b"{}",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b'{"items": ["a"], "items": ["b"]}',
        b'{"items": ["a"], "k": NaN}',
        b'{"items": ["a"], "k": 1e999}',
        b'{"items": ["a"], "k": "3"}',
        b'{"items": ["a"], "k": 0, "unknown": 1}',
        b'{"items": ["\\ud800"]}',
        b'{"items": ["a\\tb", "", 5]}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_responses_equal_those_of_the_plain_route(
    clients: tuple[TestClient, TestClient], path: str, content: bytes, headers: dict[str, str]
) -> None:
    fast, plain = (response_of(client, path, content, headers) for client in clients)
    assert fast == plain


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/query"), ("PUT", "/events"), ("POST", "/query/"), ("POST", "/none")]
)
def test_requests_of_other_routes_are_left_to_the_framework(
    clients: tuple[TestClient, TestClient], method: str, path: str
) -> None:
    fast, plain = (client.request(method, path, headers={"X-Request-ID": "the-same"}) for client in clients)
    assert (fast.status_code, fast.headers, fast.content) == (plain.status_code, plain.headers, plain.content)


async def test_a_disconnect_before_the_end_of_the_body_is_not_logged_as_a_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = dispatching(*application(FastRoute))
    sent: list[Any] = []
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/query", "raw_path": b"/query", "query_string": b""}
    await app({**scope, "headers": [(b"content-type", b"application/json")]}, receive, send)
    assert sent[0]["status"] == 400
    assert "request failed" not in caplog.text


def test_the_documentation_equals_that_of_the_plain_route() -> None:
    assert application(FastRoute)[0].openapi() == application(StrictJSONRoute)[0].openapi()


async def with_a_query_parameter(query: RecommendationQuery, page: Annotated[int, Query()]) -> Echo:
    return Echo(received=query.model_dump_json(warnings=False), caller="", items=[page])


async def caller_header(request: Request) -> str:
    return request.headers.get("x-caller", "")


async def without_a_response(query: RecommendationQuery) -> None:
    assert query.k


async def without_a_body() -> Echo:
    return Echo(received="", caller="", items=[])


async def with_a_dependency(query: RecommendationQuery, header: Annotated[str, Depends(caller_header)]) -> Echo:
    return Echo(received=query.model_dump_json(warnings=False), caller=header, items=[])


@pytest.mark.parametrize("endpoint", [with_a_query_parameter, without_a_response, without_a_body, with_a_dependency])
def test_an_endpoint_that_needs_more_of_the_framework_is_rejected(endpoint: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="/path: a fast route takes one body"):
        APIRouter(route_class=FastRoute).post("/path")(endpoint)
