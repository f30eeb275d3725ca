"""Batches of recommendations: each query is answered as if sent alone, and no failure affects the others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from onward.service.settings import IN_MEMORY
from tests.service.shop import ACME, CHEAP, UNHURRIED, get, ids, opened, problem, publish_shop, recommend, scores, send

PATH = "/v1/recommendations:batch"
VIEWED = ["item-7", "item-3", "item-11"]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    publish_shop(folder, users=["user-1", "user-2"])
    return folder


@pytest.fixture(scope="module", params=["memory", "redis"])
def shop(request: pytest.FixtureRequest, bundles: Path, valkey: str) -> Iterator[TestClient]:
    with opened(bundles, IN_MEMORY if request.param == "memory" else valkey, **UNHURRIED) as client:
        client.put("/v1/scenarios/page", json={"k": 4, "diversity": 0.5})
        yield client


def post_batch(client: TestClient, queries: list[Any]) -> list[dict[str, Any]]:
    response = client.post(PATH, json={"requests": queries})
    assert response.status_code in {200, 207}, response.text
    results: list[dict[str, Any]] = response.json()["results"]
    failed = sum("problem" in result for result in results)
    assert len(results) == len(queries)
    assert all(("problem" in result) != ("recommendations" in result) for result in results)
    assert (response.json()["succeeded"], response.json()["failed"]) == (len(queries) - failed, failed)
    assert response.status_code == (207 if failed else 200)
    return results


def answers(client: TestClient, queries: list[Any]) -> list[dict[str, Any]]:
    results = post_batch(client, queries)
    assert {result["status"] for result in results} == {200}
    return [result["recommendations"] for result in results]


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without unique fields and scores, which may differ by rounding."""
    excluded = {"recommendation_id", "took_ms", "items", "session_id", "position"}
    return {name: value for name, value in answer.items() if name not in excluded} | {"ids": ids(answer)}


def test_each_query_is_answered_as_if_sent_alone(shop: TestClient, session_id: str) -> None:
    queries: list[dict[str, Any]] = [
        *({"items": [f"item-{number}", *VIEWED][: 1 + number % 4], "k": 1 + number} for number in range(1, 30)),
        {"items": VIEWED, "filter": CHEAP, "boost": [{"filter": ACME, "factor": 3.0}], "exact": True},
        {"items": VIEWED, "scenario": "page", "variant": "b", "pin": [{"id": "item-60", "position": 1}]},
        {"items": ["no-item"], "k": 3},
        {"user_id": "user-1"},
        {"user_id": "user-2", "items": ["item-9"]},
        {"items": VIEWED, "store": False},
        {"session_id": session_id, "items": VIEWED, "exclude": ["item-1"], "exclude_seen": True},
    ]
    popular = None
    while popular != (popular := ids(recommend(shop, items=["no-item"], k=60))):  # until popularity stayed as it was
        together = answers(shop, queries)
        alone = [
            recommend(shop, **query | ({"store": False, "items": []} if "session_id" in query else {}))
            for query in queries
        ]
    for batched, single in zip(together, alone, strict=True):
        assert comparable(batched) == comparable(single)
        assert scores(batched) == pytest.approx(scores(single), rel=1e-4, abs=1e-5)
    assert len({answer["recommendation_id"] for answer in together}) == len(queries)


def test_queries_of_one_session_are_answered_in_order(shop: TestClient, session_id: str) -> None:
    other_session = f"{session_id}-other"
    queries = [
        {"session_id": other_session if number % 3 == 0 else session_id, "items": [f"item-{number + 1}"], "k": 5}
        for number in range(30)
    ]
    together = answers(shop, queries)
    viewed: dict[str, list[str]] = {session_id: [], other_session: []}
    for number, (query, answer) in enumerate(zip(queries, together, strict=True)):
        name = str(query["session_id"])
        viewed[name].append(f"item-{number + 1}")
        assert answer["session_id"] == name
        assert ids(answer) == ids(recommend(shop, items=viewed[name], k=5))
    for name, items in viewed.items():
        assert [event["item_id"] for event in get(shop, f"/v1/sessions/{name}")["events"]] == items


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    mix=st.lists(
        st.tuples(st.sampled_from(["one", "two"]), st.sampled_from([None, "first", "reached", "other session"])),
        min_size=2,
        max_size=24,
    )
)
def test_items_are_appended_in_the_order_of_the_queries_with_or_without_positions(
    shop: TestClient, mix: list[tuple[str, str | None]]
) -> None:
    names = {name: f"{name}-{uuid4()}" for name in ("one", "two")}
    first = {name: send(shop, session_id, "item-60")["position"] for name, session_id in names.items()}
    viewed = {name: ["item-60"] for name in names}
    queries: list[dict[str, Any]] = []
    expected: list[tuple[int, str | None]] = []
    for number, (name, position) in enumerate(mix):
        generation = first[name].rpartition("-")[0]
        positions = {
            "first": first[name],
            "reached": f"{generation}-{len(viewed[name])}",  # by the queries before this one, and by no fewer
            "other session": "ended-1",
        }
        token = {} if position is None else {"position": positions[position]}
        queries.append({"session_id": names[name], "items": [f"item-{number + 1}"], "k": 1, **token})
        if position == "other session":
            expected.append((409, None))
        else:
            viewed[name].append(f"item-{number + 1}")
            expected.append((200, f"{generation}-{len(viewed[name])}"))
    results = post_batch(shop, queries)
    assert [(result["status"], result.get("recommendations", {}).get("position")) for result in results] == expected
    for name, items in viewed.items():
        assert [event["item_id"] for event in get(shop, f"/v1/sessions/{names[name]}")["events"]] == items


def test_a_failing_query_stores_nothing_and_does_not_affect_the_others(shop: TestClient, session_id: str) -> None:
    send(shop, session_id, "item-1")
    good = {"session_id": session_id, "items": ["item-2"], "k": 3}
    queries: list[Any] = [
        good,
        good | {"k": 0},
        good | {"items": ["a\u2028b"]},
        {"k": 3},
        7,
        None,
        good | {"unknown": 1},
        good | {"scenario": "nothing"},
        good | {"filter": {"and": [CHEAP, {"attribute": "secret", "exists": True}]}},
        good | {"position": "ahead-9"},
        good | {"filter": {"attribute": "price", "range": {}}},
        good,
    ]
    results = post_batch(shop, queries)
    assert [result["status"] for result in results] == [200, *[422] * 8, 409, 422, 200]
    problems = [result["problem"] for result in results if "problem" in result]
    codes = ["invalid_request"] * 6 + ["scenario_not_found", "invalid_request", "session_behind", "invalid_request"]
    assert [entry["code"] for entry in problems] == codes
    assert {entry["status"] == result["status"] for entry, result in zip(problems, results[1:-1], strict=True)} == {
        True
    }
    places = [[fault["at"] for fault in entry.get("errors", [])] for entry in problems]
    assert places == [
        ["body.requests.1.k"],
        ["body.requests.2.items.0"],
        ["body.requests.3"],
        ["body.requests.4"],
        ["body.requests.5"],
        ["body.requests.6"],
        [],
        ["body.requests.8.filter.and.1.attribute"],
        [],
        ["body.requests.10.filter.range"],
    ]
    assert "secret" not in str(results)
    assert get(shop, f"/v1/sessions/{session_id}")["count"] == 3
    assert ids(results[-1]["recommendations"]) == ids(recommend(shop, items=["item-1", "item-2", "item-2"], k=3))


def test_a_batch_of_only_failing_queries_is_answered(shop: TestClient) -> None:
    assert [result["status"] for result in post_batch(shop, [{}, {"items": []}])] == [422, 422]


def test_100_queries_are_accepted_and_101_refused(shop: TestClient, session_id: str) -> None:
    query = {"session_id": session_id, "items": ["item-1"], "k": 1}
    assert len(answers(shop, [query] * 100)) == 100
    refused = shop.post(PATH, json={"requests": [query] * 101})
    assert problem(refused) == (422, "invalid_request")
    assert refused.json()["errors"][0]["at"] == "body.requests"
    assert get(shop, f"/v1/sessions/{session_id}")["count"] == 50  # the session length
    invalid: list[Any] = [{"requests": []}, {}, [], {"requests": {}}, {"requests": [query], "k": 3}]
    for body in invalid:
        assert problem(shop.post(PATH, json=body)) == (422, "invalid_request")


def test_100_of_the_longest_queries_fit(shop: TestClient) -> None:
    queries = [
        {"items": [f"{number:02}-{place:02}" + "x" * 70 for place in range(100)], "k": 1} for number in range(100)
    ]
    assert len(answers(shop, queries)) == 100


def test_a_query_without_consent_is_not_stored_and_a_dry_run_is_explained(shop: TestClient, session_id: str) -> None:
    query = {"session_id": session_id, "items": VIEWED, "k": 2}
    not_stored, dry, stored = answers(shop, [query | {"store": False}, query | {"dry_run": True}, query])
    assert ids(not_stored) == ids(dry) == ids(stored)
    assert [item["id"] for item in dry["explanation"]["items"]] == ids(dry)
    assert "explanation" not in not_stored
    assert get(shop, f"/v1/sessions/{session_id}")["count"] == len(VIEWED)


def test_answers_of_a_batch_have_next_pages(shop: TestClient, session_id: str) -> None:
    for answer in answers(shop, [{"session_id": session_id, "items": VIEWED, "k": 3}, {"items": VIEWED, "k": 3}]):
        page = shop.post(f"/v1/recommendations/{answer['recommendation_id']}/next", json={}).json()
        assert ids(answer) + ids(page) == ids(recommend(shop, items=VIEWED, k=6, exact=True))
