"""Scenarios: options stored under a name, checked when they are stored, and versioned."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from onward.bundle.catalog.filters import Filter
from onward.bundle.search.retrieval import Boost, Options, Pin
from onward.service.errors import UnknownScenario
from onward.service.live.replica import Replica
from onward.service.live.versioned_store import InMemoryVersionedStore, RedisVersionedStore, VersionedStore
from onward.service.recommend.options import MAX_PINS, RecommendationOptions
from onward.service.recommend.scenarios import Scenarios
from tests.bundles import item_ids, publish_bundle
from tests.service.process import wait_until
from tests.service.workers import memory, worker_app

PATH = "/v1/scenarios/product-page"
OPTIONS = {
    "k": 5,
    "filter": {
        "and": [{"attribute": "price", "range": {"max": 20.0}}, {"not": {"attribute": "brand", "in": ["acme"]}}]
    },
    "exclude_seen": "purchased",
    "diversity": 0.5,
    "diversity_by": "brand",
    "boost": [{"filter": {"attribute": "brand", "equals": "apex"}, "factor": 2.0}],
    "pin": [{"id": "item-3", "position": 1}],
    "variant": "b",
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    attributes = [{"brand": "acme" if number % 2 else "apex", "price": number} for number in range(10)]
    publish_bundle(folder, item_ids("item-", 10), attributes=attributes)
    return folder


@pytest.fixture
def client(bundles: Path) -> Iterator[TestClient]:
    with TestClient(worker_app(bundles, memory, memory)) as client:
        yield client


def test_a_stored_scenario_is_returned_unchanged(client: TestClient) -> None:
    stored = client.put(PATH, json=OPTIONS)
    assert stored.status_code == 200
    assert stored.json() == {"name": "product-page", "version": 1, "options": OPTIONS}
    shown = client.get(PATH)
    assert (shown.json(), shown.headers["etag"]) == (stored.json(), '"1"')
    client.put("/v1/scenarios/cart", json={"k": 3})
    assert client.get("/v1/scenarios").json() == {
        "scenarios": [{"name": "cart", "version": 1, "options": {"k": 3}}, stored.json()],
        "count": 2,
    }


def test_if_match_must_name_the_stored_version(client: TestClient) -> None:
    def put(if_match: str | None) -> tuple[int, Any]:
        headers = {} if if_match is None else {"If-Match": if_match}
        answer = client.put(PATH, json={"k": 3}, headers=headers)
        return answer.status_code, answer.headers.get("etag") or answer.json()["code"]

    assert put("*") == (412, "precondition_failed")
    assert put('"1"') == (412, "precondition_failed")
    assert put(None) == (200, '"1"')
    assert put('"1"') == (200, '"2"')
    assert put('"1"') == (412, "precondition_failed")
    assert put("*") == (200, '"3"')
    assert put("1") == (422, "invalid_request")
    assert client.delete(PATH, headers={"If-Match": '"2"'}).status_code == 412
    assert client.delete(PATH, headers={"If-Match": '"3"'}).status_code == 204
    assert put('"3"') == (412, "precondition_failed")
    assert put(None) == (200, '"5"')  # the deletion was version 4


def test_a_missing_or_deleted_scenario_is_not_found(client: TestClient) -> None:
    client.put(PATH, json={})
    assert client.delete(PATH).status_code == 204
    assert client.get("/v1/scenarios").json() == {"scenarios": [], "count": 0}
    for method in ("get", "delete"):
        answer = getattr(client, method)(PATH)
        assert (answer.status_code, answer.json()["code"]) == (404, "scenario_not_found")


@pytest.mark.parametrize(
    ("options", "at"),
    [
        ({"filter": {"and": [{"attribute": "brand", "equals": "x"}, {"attribute": "colour", "exists": True}]}}, None),
        ({"filter": {"not": {"attribute": "brand", "range": {"min": 3}}}}, "body.filter.not.range"),
        ({"boost": [{"filter": {"attribute": "price", "equals": "3"}, "factor": 2}]}, "body.boost.0.filter.equals"),
        ({"diversity_by": "colour"}, "body.diversity_by"),
        ({"boost": [{"filter": {"attribute": "price", "equals": 3}, "factor": 101}]}, "body.boost.0.factor"),
        ({"diversity": 1.5}, "body.diversity"),
        ({"k": 0}, "body.k"),
        ({"k": True}, "body.k"),
        ({"variant": "-"}, "body.variant"),
        ({"exclude": ["item-1"]}, "body"),
        ({"pin": [{"id": "item-1", "position": 1}, {"id": "item-2", "position": 1}]}, "body"),
        ({"pin": [{"id": f"item-{n}", "position": n + 1} for n in range(MAX_PINS + 1)]}, "body.pin"),
    ],
)
def test_invalid_options_are_refused_with_their_location(
    client: TestClient, options: dict[str, Any], at: str | None
) -> None:
    answer = client.put(PATH, json=options)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["at"] == (at or "body.filter.and.1.attribute")
    assert client.get(PATH).status_code == 404


@pytest.mark.parametrize("name", ["A", "1a", "a b", "a" * 65, "ü"])
def test_an_invalid_name_is_refused(client: TestClient, name: str) -> None:
    assert client.put(f"/v1/scenarios/{name}", json={}).status_code == 422


def test_the_number_of_scenarios_is_limited(bundles: Path) -> None:
    with TestClient(worker_app(bundles, memory, lambda: InMemoryVersionedStore(max_names=2))) as client:
        for name in "ab":
            client.put(f"/v1/scenarios/{name}", json={})
        answer = client.put("/v1/scenarios/c", json={})
        assert (answer.status_code, answer.json()["code"]) == (409, "limit_reached")
        client.delete("/v1/scenarios/a")
        assert client.put("/v1/scenarios/c", json={}).status_code == 200


def test_every_worker_has_a_new_scenario_within_a_second(bundles: Path, valkey: str) -> None:
    def scenarios() -> VersionedStore:
        return RedisVersionedStore.connect(valkey, "shared-scenarios", max_names=10)

    with ExitStack() as workers:
        worker, other_worker = (
            workers.enter_context(TestClient(worker_app(bundles, memory, scenarios))) for _ in range(2)
        )
        worker.put(PATH, json=OPTIONS)
        wait_until(lambda: other_worker.get(PATH).status_code == 200, 1)
        assert other_worker.put(PATH, json={"k": 2}, headers={"If-Match": '"1"'}).status_code == 200
        assert worker.put(PATH, json={"k": 3}, headers={"If-Match": '"1"'}).status_code == 412
        assert worker.get(PATH).json()["options"] == {"k": 2}


async def test_the_options_of_a_request_override_those_of_its_scenario() -> None:
    scenarios = Scenarios(Replica(memory(), "scenarios"))
    await scenarios.put("page", RecommendationOptions.model_validate(OPTIONS), lambda version: True)
    request = RecommendationOptions(k=20, exclude_seen=None, boost=[])
    merged = request.over(scenarios.get("page").options)
    assert merged.as_json() == OPTIONS | {"k": 20, "exclude_seen": None, "boost": []}
    assert merged.as_options(exclude=["item-1"]) == Options(
        k=20,
        exclude=["item-1"],
        filter=Filter.model_validate(OPTIONS["filter"]),
        diversity=0.5,
        diversity_by="brand",
        pins=(Pin("item-3", 1),),
    )


def test_options_for_the_bundle_have_the_boosts_but_no_pins_beyond_k() -> None:
    options = RecommendationOptions.model_validate(
        {"k": 2, "boost": OPTIONS["boost"], "pin": [{"id": "a", "position": 3}, {"id": "b", "position": 2}]}
    ).as_options()
    assert options.pins == (Pin("b", 2),)
    assert options.boosts == (Boost(Filter.model_validate({"attribute": "brand", "equals": "apex"}), 2.0),)


async def test_a_missing_or_unreadable_scenario_is_unknown() -> None:
    replica = Replica(memory(), "scenarios")
    scenarios = Scenarios(replica)
    await replica.update({"odd": lambda stored: {"k": "many"}})
    for name in ("odd", "nobody"):
        with pytest.raises(UnknownScenario):
            scenarios.get(name)
    assert scenarios.all() == []
