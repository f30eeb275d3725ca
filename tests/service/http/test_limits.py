"""The tables of docs/api.md are correct: a value at a limit is accepted, one beyond it is refused as documented."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from starlette.testclient import TestClient

from onward.bundle import MAX_ID_LENGTH
from onward.bundle.catalog import filters
from onward.bundle.search.retrieval import LARGEST_FACTOR, MAX_BOOSTS
from onward.service import fields
from onward.service.errors import ServiceError
from onward.service.http.schemas import base, catalog, recommendations, sessions
from onward.service.live import catalog as live_catalog
from onward.service.recommend import options, scenarios
from onward.service.records.answers import MAX_ANSWERS, MAX_CLAIMS, MAX_PAGES
from onward.service.records.online_metrics import LONGEST_WINDOW
from onward.service.sessions import REMEMBERED_EVENT_IDS, REMEMBERED_MARKS
from onward.service.sessions.events import WEIGHT_OF_OTHER_TYPES, WEIGHTS
from onward.service.settings import Settings
from tests.bundles import item_ids, publish_bundle
from tests.service.http.admission.test_admission import SentRequest, hanging_store
from tests.service.process import ServiceProcess, wait_until
from tests.service.shop import opened

PAGE = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
FORGOTTEN = "the oldest is forgotten"
LONG_NAME = "x" * 64
MINUTE = timedelta(minutes=1)

names = itertools.count()


class DocumentedLimit(NamedTuple):
    """A row of the table of limits."""

    what: str
    most: int
    beyond: str

    @property
    def refusal(self) -> tuple[int, str]:
        status, code = self.beyond.split(" ")
        return int(status), code.strip("`")


def rows(heading: str) -> Iterator[list[str]]:
    """Yield the rows of the first table below a heading of the page."""
    table = PAGE.split(f"\n{heading}\n")[1].split("\n|---")[1]
    for line in table.split("\n\n")[0].splitlines()[1:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


LIMITS = [DocumentedLimit(what, int(most.replace(",", "")), beyond) for what, most, beyond in rows("## Limits")]

Probe = Callable[[TestClient, int], Any]


def with_query(query: Callable[[int], Mapping[str, Any]]) -> Probe:
    return lambda client, size: client.post("/v1/recommendations", json={"items": ["item-1"], **query(size)})


def with_filter(condition: Callable[[int], Mapping[str, Any]]) -> Probe:
    return with_query(lambda size: {"filter": condition(size)})


def with_event(event: Callable[[int], Mapping[str, Any]]) -> Probe:
    event_fields = {"session_id": "visitor", "item_id": "item-1"}
    return lambda client, size: client.post("/v1/events", json={**event_fields, **event(size)})


def with_change(change: Callable[[int], Mapping[str, Any]]) -> Probe:
    return lambda client, size: client.patch(f"/v1/items/new-{next(names)}", json=change(size))


def with_padding(path: str, body: bytes) -> Probe:
    headers = {"Content-Type": "application/json"}
    return lambda client, size: client.post(path, content=body.ljust(size), headers=headers)


def leaf(value: Any = "a") -> dict[str, Any]:
    return {"attribute": "title", "equals": value}


def filter_of_size(nodes: int) -> dict[str, Any]:
    groups = 5
    leaves = nodes - 1 - groups
    return {"and": [{"or": [leaf()] * ((leaves + place) // groups)} for place in range(groups)]}


def filter_of_depth(depth: int) -> dict[str, Any]:
    return leaf() if depth == 1 else {"not": filter_of_depth(depth - 1)}


def in_minutes(minutes: float) -> str:
    return (datetime.now(UTC) + minutes * MINUTE).isoformat()


def with_attributes(client: TestClient, count: int) -> Any:
    """Change a new item in two calls, each with few attributes."""
    path, few = f"/v1/items/new-{next(names)}", 40
    client.patch(path, json={"attributes": {f"a{number}": 1 for number in range(few)}}).raise_for_status()
    return client.patch(path, json={"attributes": {f"a{number}": 1 for number in range(few, count)}})


def page_number(client: TestClient, pages: int) -> Any:
    """Return the response with the last of the given number of pages."""
    page = client.post("/v1/recommendations", json={"items": ["item-1"], "k": 1})
    for _ in range(pages - 1):
        page = client.post(f"/v1/recommendations/{page.json()['recommendation_id']}/next", json={})
    return page


PROBES: Mapping[str, tuple[float, Probe]] = {
    "body, in bytes (`SERVICE_MAX_BODY`)": (
        Settings.model_fields["max_body"].default,
        with_padding("/v1/recommendations", b'{"items": ["item-1"]}'),
    ),
    "characters of an id": (MAX_ID_LENGTH, with_query(lambda size: {"items": ["x" * size]})),
    "`k`": (fields.MAX_K, with_query(lambda size: {"k": size})),
    "`items`": (recommendations.MAX_ITEMS, with_query(lambda size: {"items": ["item-1"] * size})),
    "`exclude`": (base.MAX_EXCLUDED, with_query(lambda size: {"exclude": item_ids("item-", size)})),
    "`requests` of a batch": (
        recommendations.MAX_REQUESTS,
        lambda client, size: client.post("/v1/recommendations:batch", json={"requests": [{"items": ["x"]}] * size}),
    ),
    "`diversity`": (1, with_query(lambda size: {"diversity": size})),
    "characters of `diversity_by`": (
        len(LONG_NAME),
        with_query(lambda size: {"diversity": 0.5, "diversity_by": "x" * size}),
    ),
    "`boost`": (MAX_BOOSTS, with_query(lambda size: {"boost": [{"filter": leaf(), "factor": 2}] * size})),
    "`factor` of a boost, from 0.01": (
        LARGEST_FACTOR,
        with_query(lambda size: {"boost": [{"filter": leaf(), "factor": size}]}),
    ),
    "pages of an answer": (MAX_PAGES, page_number),
    "`pin`": (
        options.MAX_PINS,
        with_query(lambda size: {"pin": [{"id": f"item-{place}", "position": place} for place in range(1, size + 1)]}),
    ),
    "`position` of a pin": (
        fields.MAX_K,
        with_query(lambda size: {"k": 100, "pin": [{"id": "item-1", "position": size}]}),
    ),
    "characters of `variant`": (64, with_query(lambda size: {"variant": "b" * size})),
    "conditions of a filter": (filters.MAX_NODES, with_filter(filter_of_size)),
    "conditions of a filter within each other": (filters.MAX_DEPTH, with_filter(filter_of_depth)),
    "conditions in one `and` or `or`": (filters.MAX_BRANCHES, with_filter(lambda size: {"or": [leaf()] * size})),
    "values of `in`": (filters.MAX_VALUES, with_filter(lambda size: {"attribute": "title", "in": ["a"] * size})),
    "characters of a text in a filter": (filters.MAX_TEXT, with_filter(lambda size: leaf("a" * size))),
    "`events`": (
        sessions.MAX_EVENTS,
        lambda client, size: client.post(
            "/v1/events", json={"events": [{"session_id": "many", "item_id": "item-1"}] * size}
        ),
    ),
    "characters of an event's type": (32, with_event(lambda size: {"type": "t" * size})),
    "minutes that an event lies ahead": (
        base.MAX_CLOCK_DIFFERENCE / MINUTE,
        with_event(lambda size: {"timestamp": in_minutes(size)}),
    ),
    "hours that an event lies back (`SERVICE_MAX_EVENT_AGE`)": (
        Settings.model_fields["max_event_age"].default / (60 * MINUTE),
        with_event(lambda size: {"timestamp": in_minutes(1 - 60 * size)}),  # a minute less, since the call takes time
    ),
    "`items` of a batch of changes": (
        catalog.MAX_BATCH,
        lambda client, size: client.post("/v1/items:batch", json={"items": [{"id": "item-1"}] * size}),
    ),
    "attributes of a change": (
        live_catalog.MAX_ATTRIBUTES,
        with_change(lambda size: {"attributes": {f"a{number}": 1 for number in range(size)}}),
    ),
    "attributes that differ from the bundle's, of one item": (live_catalog.MAX_ATTRIBUTES, with_attributes),
    "characters of an attribute's name": (64, with_change(lambda size: {"attributes": {"y" * size: 1}})),
    "characters of an attribute's text": (
        catalog.MAX_TEXT,
        with_change(lambda size: {"attributes": {"title": "t" * size}}),
    ),
    "texts of an attribute's list": (
        catalog.MAX_TEXTS,
        with_change(lambda size: {"attributes": {"tags": ["t"] * size}}),
    ),
    "`similar_to`": (catalog.MAX_SIMILAR_TO, with_change(lambda size: {"similar_to": ["item-1"] * size})),
    "`limit` of a list": (base.MAX_LISTED, lambda client, size: client.get("/v1/items", params={"limit": size})),
    "characters of `query`": (
        catalog.MAX_QUERY,
        lambda client, size: client.get("/v1/items", params={"query": "q" * size}),
    ),
    "characters of a scenario's name": (64, lambda client, size: client.put(f"/v1/scenarios/{'n' * size}", json={})),
    "days of `window`": (
        LONGEST_WINDOW / timedelta(days=1),
        lambda client, size: client.get("/v1/metrics/online", params={"window": f"P{size}D"}),
    ),
}
STORED: Mapping[str, float] = {
    "items changed since the live bundle was built": live_catalog.MAX_CHANGED_ITEMS,
    "scenarios": scenarios.MAX_SCENARIOS,
    "requests at once, in each worker (`SERVICE_MAX_IN_FLIGHT`)": Settings.model_fields["max_in_flight"].default,
    "events of a session (`SERVICE_SESSION_LENGTH`)": Settings.model_fields["session_length"].default,
    "event ids of a session that are remembered": REMEMBERED_EVENT_IDS,
    "items of a session that are remembered as purchased or disliked": REMEMBERED_MARKS,
    "answers of a session that are kept, for `SERVICE_ANSWER_TTL`": MAX_ANSWERS,
    "events that are attributed to an answer": MAX_CLAIMS,
}
"""Limits that take several calls to reach; each has a test of its own."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("limits")
    attributes = [{"title": f"Item {number}", LONG_NAME: "a"} for number in range(60)]
    publish_bundle(folder, item_ids("item-", 60), attributes=attributes)
    return folder


@pytest.fixture(scope="module")
def limited(folder: Path) -> Iterator[TestClient]:
    with opened(folder) as client:
        yield client


def most(what: str) -> int:
    return next(limit.most for limit in LIMITS if limit.what == what)


def refusal(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def recommended(client: TestClient, session_id: str) -> str:
    """Return the id of a new answer for a session."""
    answer = client.post("/v1/recommendations", json={"session_id": session_id, "k": 1})
    return str(answer.raise_for_status().json()["recommendation_id"])


def test_the_table_has_every_limit_of_the_code() -> None:
    documented = {limit.what: limit.most for limit in LIMITS}
    assert documented == {what: number for what, (number, _) in PROBES.items()} | dict(STORED)
    assert [limit.beyond for limit in LIMITS if limit.what in STORED].count(FORGOTTEN) == 4


@pytest.mark.parametrize("limit", [limit for limit in LIMITS if limit.what in PROBES], ids=lambda limit: limit.what)
def test_a_value_at_the_limit_is_accepted_and_one_beyond_refused(limited: TestClient, limit: DocumentedLimit) -> None:
    _, probe = PROBES[limit.what]
    at_most = probe(limited, limit.most)
    assert at_most.status_code == 200, at_most.text
    assert refusal(probe(limited, limit.most + 1)) == limit.refusal


@pytest.mark.parametrize("path", ["/v1/events", "/v1/items:batch", "/v1/recommendations:batch"])
def test_all_bodies_have_the_documented_length_limit(limited: TestClient, path: str) -> None:
    limit = next(limit for limit in LIMITS if limit.what.startswith("body"))
    post = with_padding(path, b"{}")
    assert refusal(post(limited, limit.most)) == (422, "invalid_request")
    assert refusal(post(limited, limit.most + 1)) == limit.refusal


@pytest.mark.parametrize(
    ("what", "constant", "path"),
    [
        ("scenarios", "onward.service.recommend.scenarios.MAX_SCENARIOS", "/v1/scenarios/name-"),
        (
            "items changed since the live bundle was built",
            "onward.service.live.catalog.MAX_CHANGED_ITEMS",
            "/v1/items/name-",
        ),
    ],
)
def test_the_number_of_stored_names_is_limited(
    monkeypatch: pytest.MonkeyPatch, folder: Path, what: str, constant: str, path: str
) -> None:
    monkeypatch.setattr(constant, 3)  # reaching the documented limit takes too long
    method = "PUT" if "scenarios" in path else "PATCH"
    with opened(folder) as client:
        for number in range(3):
            assert client.request(method, f"{path}{number}", json={}).status_code == 200
        refused = client.request(method, f"{path}3", json={})
        assert refusal(refused) == next(limit.refusal for limit in LIMITS if limit.what == what)
        assert client.request(method, f"{path}1", json={}).status_code == 200
        assert client.delete(f"{path}0").status_code == 204
        stored_again = client.request(method, f"{path}3", json={})
        assert stored_again.status_code == (200 if method == "PUT" else 409)  # the tombstone of a deleted item counts


def test_the_documented_number_of_requests_runs_concurrently(folder: Path, tmp_path: Path) -> None:
    limit = most("requests at once, in each worker (`SERVICE_MAX_IN_FLIGHT`)")
    with (
        hanging_store(tmp_path) as (url, hang),
        ServiceProcess(
            folder, environment={"REDIS_URL": url, "SERVICE_STORE_TIMEOUT": "5", "SERVICE_TIMEOUT": "30"}
        ).wait_until_ready() as process,
    ):
        SentRequest(process.url, session_id="s").status()
        hang()
        waiting = [SentRequest(process.url, session_id="s") for _ in range(limit - 1)]
        assert httpx.get(f"{process.url}/v1/version").status_code == 200
        waiting.append(SentRequest(process.url, session_id="s"))
        wait_until(lambda: httpx.get(f"{process.url}/v1/version").status_code == 503)
        assert {request.status() for request in waiting} == {200}


def test_a_session_keeps_the_documented_number_of_events(limited: TestClient) -> None:
    length = most("events of a session (`SERVICE_SESSION_LENGTH`)")
    limited.post("/v1/recommendations", json={"session_id": "long", "items": item_ids("a-", length)})
    assert limited.get("/v1/sessions/long").json()["events"][0]["item_id"] == "a-1"
    limited.post("/v1/recommendations", json={"session_id": "long", "items": ["b"]})
    session = limited.get("/v1/sessions/long").json()
    assert (session["count"], session["events"][0]["item_id"]) == (length, "a-2")


def test_a_session_remembers_the_documented_number_of_event_ids(limited: TestClient) -> None:
    def send(*event_ids: str) -> Any:
        events = [{"session_id": "ids", "item_id": "item-1", "event_id": event_id} for event_id in event_ids]
        return limited.post("/v1/events", json={"events": events}).json()

    remembered = most("event ids of a session that are remembered")
    assert send(*item_ids("e-", remembered))["applied"] == remembered
    assert send("e-1")["duplicates"] == 1
    assert send("one-more")["applied"] == 1
    assert send("e-2")["duplicates"] == 1
    assert send("e-1")["applied"] == 1


def test_a_session_remembers_the_documented_number_of_purchased_and_disliked_items(limited: TestClient) -> None:
    def send(kind: str, *items: str) -> Any:
        events = [{"session_id": "marks", "item_id": item_id, "type": kind} for item_id in items]
        assert limited.post("/v1/events", json={"events": events}).status_code == 200
        return limited.get("/v1/sessions/marks").json()

    remembered = most("items of a session that are remembered as purchased or disliked")
    assert len(send("purchase", *item_ids("item-", remembered))["purchased"]) == remembered
    session = send("dislike", "one-more")
    assert (len(session["purchased"]), session["disliked"]) == (remembered - 1, ["one-more"])


def test_a_session_keeps_the_documented_number_of_answers(folder: Path, valkey: str) -> None:
    kept = most("answers of a session that are kept, for `SERVICE_ANSWER_TTL`")
    with opened(folder, valkey) as client:
        client.post("/v1/events", json={"session_id": "asks", "item_id": "item-1"})
        answers = [recommended(client, "asks") for _ in range(kept + 1)]

        def status(answer_id: str) -> int:
            return client.get(f"/v1/recommendations/{answer_id}/explanation").status_code

        assert {status(answer_id) for answer_id in answers[-kept:]} == {200}
        assert status(answers[0]) == 404


def test_the_table_has_every_error(limited: TestClient) -> None:
    documented = {(int(status), code.strip("`")) for status, code, _ in rows("## Errors")}
    of_the_service = {(error.status, error.code) for error in subclasses(ServiceError)}
    of_the_framework = {refusal(limited.get("/nowhere")), refusal(limited.put("/v1/events"))}
    assert documented == of_the_service | of_the_framework


def test_the_table_has_the_weight_of_every_event_type() -> None:
    documented = {kind.strip("`"): float(weight) for kind, weight, _ in rows("### Events")}
    assert documented.pop("any other") == WEIGHT_OF_OTHER_TYPES
    assert documented == WEIGHTS


def subclasses(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from subclasses(subclass)
