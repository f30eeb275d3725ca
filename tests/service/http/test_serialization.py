"""Answers that are concatenated from fragments match their documented schemas."""

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient

from onward.service.http.schemas.items import ItemList, RecommendedItem
from onward.service.http.schemas.recommendations import RecommendationResults, Recommendations
from tests.bundles import publish_bundle
from tests.service.shop import CHEAP, opened, publish_shop, recommend, send

AWKWARD = ['say-"hi"', "back\\slash", "日本-1", "ümlaut", "</script>", "a,b", "{brace}", "%s", "😀"]
ATTRIBUTES: list[dict[str, Any]] = [
    {"title": 'a "b" \\ 日本', "price": 1.5, "none": None, "tags": ["x", "y"], "on": True, "deep": {"n": [1, {}]}},
    {},
    {"title": "</script>", "price": 1e300},
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("shop")
    publish_shop(folder)
    with opened(folder) as client:
        yield client


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service whose ids and attributes need escaping."""
    folder = tmp_path_factory.mktemp("awkward")
    publish_bundle(folder, AWKWARD, attributes=[ATTRIBUTES[n % 3] for n in range(len(AWKWARD))], interests=2)
    with opened(folder) as client:
        yield client


def check(body: dict[str, Any], model: type[BaseModel]) -> None:
    """Assert that every field is documented and valid, and that no field is null."""
    assert not set(body) - set(model.model_fields)
    assert None not in body.values()
    assert {name for name, field in model.model_fields.items() if field.is_required()} <= set(body)
    model.model_validate(body)
    for item in body.get("items", ()):
        assert not set(item) - {field.name for field in fields(RecommendedItem)}
        assert None not in item.values()


@pytest.mark.parametrize(
    "query",
    [
        {"items": ["item-3"]},
        {"items": ["item-3"], "k": 1},
        {"session_id": "one", "items": ["item-3", "no-item"], "k": 100},
        {"items": ["no-item"]},
        {"items": ["item-3"], "filter": CHEAP, "boost": [{"filter": CHEAP, "factor": 2.0}]},
        {"items": ["item-3"], "filter": {"attribute": "price", "range": {"max": 0}}},
        {"items": ["item-3"], "pin": [{"id": "item-9", "position": 2}, {"id": "item-60", "position": 1}]},
        {"items": ["item-3"], "diversity": 0.5, "variant": "b", "exact": True},
        {"items": ["item-3"], "dry_run": True},
        {"session_id": "two", "items": ["item-4"], "scenario": "cheap"},
    ],
    ids=str,
)
def test_an_answer_matches_its_schema(shop: TestClient, query: dict[str, Any]) -> None:
    shop.put("/v1/scenarios/cheap", json={"filter": CHEAP})
    answer = recommend(shop, **query)
    check(answer, Recommendations)
    assert answer["count"] == len(answer["items"])
    assert [item["rank"] for item in answer["items"]] == list(range(1, len(answer["items"]) + 1))


def test_next_pages_item_lists_and_session_answers_match_their_schemas(shop: TestClient) -> None:
    send(shop, "three", "item-5")
    answer = recommend(shop, session_id="three", k=3)
    check(shop.post(f"/v1/recommendations/{answer['recommendation_id']}/next", json={}).json(), Recommendations)
    check(shop.get("/v1/sessions/three/recommendations").json(), Recommendations)
    check(shop.get("/v1/items/item-5/similar").json(), ItemList)
    check(shop.get("/v1/items:popular").json(), ItemList)


def test_batches_of_answers_and_problems_match_their_schemas(shop: TestClient) -> None:
    requests = [{"items": ["item-3"], "k": 2}, {"k": 0}, {"items": ["item-4"], "scenario": "none"}]
    body = shop.post("/v1/recommendations:batch", json={"requests": requests}).json()
    check(body, RecommendationResults)
    assert [result["status"] for result in body["results"]] == [200, 422, 422]
    assert (body["succeeded"], body["failed"]) == (1, 2)
    check(body["results"][0]["recommendations"], Recommendations)
    assert all("request_id" in result["problem"] for result in body["results"][1:])


def test_ids_and_attributes_are_escaped_correctly(awkward: TestClient) -> None:
    answer = recommend(awkward, items=AWKWARD[:1], k=len(AWKWARD))
    check(answer, Recommendations)
    attributes = {item["id"]: item.get("attributes") for item in answer["items"]}
    assert attributes == {item_id: ATTRIBUTES[place % 3] or None for place, item_id in enumerate(AWKWARD)}


def test_changed_attributes_are_serialized_at_once_and_others_stay_the_same(awkward: TestClient) -> None:
    before = {item["id"]: item for item in recommend(awkward, items=AWKWARD[:1], k=len(AWKWARD))["items"]}
    changed = awkward.patch("/v1/items/ümlaut", json={"attributes": {"title": 'new "title"', "price": None}})
    assert changed.status_code == 200, changed.text
    awkward.patch("/v1/items/brand-new", json={"attributes": {"title": "é"}, "similar_to": ["日本-1"]})
    after = {item["id"]: item for item in recommend(awkward, items=AWKWARD[:1], k=len(AWKWARD) + 1)["items"]}
    assert after["ümlaut"]["attributes"]["title"] == 'new "title"'
    assert after["brand-new"]["attributes"] == {"title": "é"}
    for item_id in set(AWKWARD) - {"ümlaut"}:
        assert after[item_id].get("attributes") == before[item_id].get("attributes")


def test_scores_are_not_rounded(tmp_path: Path) -> None:
    publish_shop(tmp_path)
    with opened(tmp_path) as client:
        text = client.post("/v1/recommendations", json={"items": ["item-3"], "k": 5}).text
        explained = recommend(client, items=["item-3"], k=5, dry_run=True)["explanation"]["items"]
    assert [item["score"] for item in json.loads(text)["items"]] == [item["score"] for item in explained]
