"""A hot route answers, refuses and is documented as the framework's own route of the same endpoint."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from onward.service.errors import ItemNotFound, on_http_error, on_invalid_request
from onward.service.http.fast_route import HotPaths, HotRoute
from onward.service.http.middleware import RequestTelemetry
from onward.service.http.schemas.recommendations import RecommendationQuery
from onward.service.http.schemas.sessions import OneOrManyEvents
from onward.service.http.strict_json import StrictJSONRoute

JSON = {"Content-Type": "application/json"}


class Echo(BaseModel):
    """What was understood of a body."""

    understood: str
    caller: str
    missing: str | None = None
    items: list[float] = Field(examples=[[1.5]])


async def caller(request: Request) -> str:
    return request.headers.get("x-caller", "nobody")


CallerDep = Annotated[str, Depends(caller)]


async def ask(query: RecommendationQuery, caller: CallerDep, request: Request, response: Response) -> Echo:
    """Echo."""
    if query.user_id == "nobody":
        raise ItemNotFound("There is nobody.")
    response.headers["X-Path"] = str(len(request.url.path) > 0)
    response.status_code = 207 if query.k == 7 else 200
    return Echo(understood=query.model_dump_json(), caller=caller, items=[0.1, 1e300])


async def tell(body: Annotated[OneOrManyEvents, Body()], caller: CallerDep) -> Echo:
    """Echo."""
    return Echo(understood=repr(body), caller=caller, items=[])


def application(route_class: type[StrictJSONRoute], *, led_past_the_framework: bool = False) -> FastAPI:
    app = FastAPI()
    router = APIRouter(route_class=route_class)
    router.post("/ask", response_model_exclude_none=True)(ask)
    router.post("/tell", status_code=202)(tell)
    app.include_router(router)
    if led_past_the_framework:
        app.add_middleware(HotPaths, routers=[router])
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_middleware(RequestTelemetry)
    return app


@pytest.fixture(scope="module", params=[False, True], ids=["routed", "led past the framework"])
def both(request: pytest.FixtureRequest) -> Iterator[tuple[TestClient, TestClient]]:
    hot_app = application(HotRoute, led_past_the_framework=request.param)
    with TestClient(hot_app) as hot, TestClient(application(StrictJSONRoute)) as plain:
        yield hot, plain


def answered(client: TestClient, path: str, content: bytes, headers: dict[str, str]) -> Any:
    answer = client.post(path, content=content, headers={"X-Request-ID": "the-same", **headers})
    return answer.status_code, sorted(answer.headers.items()), answer.content


@pytest.mark.parametrize("path", ["/ask", "/tell"])
@pytest.mark.parametrize("headers", [JSON, JSON | {"X-Caller": "me"}, {}, {"Content-Type": "text/plain"}])
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
        b'{"items": ["a b", "", 5]}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_it_answers_as_the_plain_route(
    both: tuple[TestClient, TestClient], path: str, content: bytes, headers: dict[str, str]
) -> None:
    hot, plain = (answered(client, path, content, headers) for client in both)
    assert hot == plain


@pytest.mark.parametrize(("method", "path"), [("GET", "/ask"), ("PUT", "/tell"), ("POST", "/ask/"), ("POST", "/none")])
def test_what_is_not_for_it_is_answered_as_ever(both: tuple[TestClient, TestClient], method: str, path: str) -> None:
    hot, plain = (client.request(method, path, headers={"X-Request-ID": "the-same"}) for client in both)
    assert (hot.status_code, hot.headers, hot.content) == (plain.status_code, plain.headers, plain.content)


async def test_a_caller_who_leaves_before_the_end_of_the_body_is_no_fault_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = application(HotRoute, led_past_the_framework=True)
    sent: list[Any] = []
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/ask", "raw_path": b"/ask", "query_string": b""}
    await app({**scope, "headers": [(b"content-type", b"application/json")]}, receive, send)
    assert sent[0]["status"] == 400
    assert "request failed" not in caplog.text


def test_it_is_documented_as_the_plain_route() -> None:
    assert application(HotRoute).openapi() == application(StrictJSONRoute).openapi()


async def searching(query: RecommendationQuery, page: Annotated[int, Query()]) -> Echo:
    return Echo(understood=query.model_dump_json(), caller="", items=[page])


async def silent(query: RecommendationQuery) -> None:
    assert query.k


async def without_a_body() -> Echo:
    return Echo(understood="", caller="", items=[])


@pytest.mark.parametrize("endpoint", [searching, silent, without_a_body])
def test_an_endpoint_that_asks_for_more_is_refused(endpoint: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="/some: a hot route takes one body"):
        APIRouter(route_class=HotRoute).post("/some")(endpoint)
