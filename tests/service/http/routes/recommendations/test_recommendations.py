"""Options of recommendations: alone, combined and in scenarios; positions, follow-up events and consent."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from onward.bundle import Bundle
from onward.service.server.embedded_store import find_servers, run_server
from onward.service.settings import IN_MEMORY
from tests.service.process import wait_until
from tests.service.shop import (
    ACME,
    ATTRIBUTES,
    CHEAP,
    ITEMS,
    UNAVAILABLE,
    UNHURRIED,
    get,
    ids,
    logits,
    opened,
    problem,
    publish_shop,
    recommend,
    scores,
    send,
    shop_bundle,
    sources,
    stored_keys,
)

SHOWN = [item for item in ITEMS if item != UNAVAILABLE]
ATTRIBUTES_OF = dict(zip(ITEMS, ATTRIBUTES, strict=True))
VIEWED = ["item-7", "item-3", "item-11"]


@pytest.fixture(scope="module")
def shop(bundles: Path) -> Iterator[TestClient]:
    with opened(bundles) as client:
        yield client


@pytest.fixture(scope="module")
def workers(bundles: Path, valkey: str) -> Iterator[list[TestClient]]:
    """Two workers of one service."""
    with opened(bundles, valkey, **UNHURRIED) as worker, opened(bundles, valkey, **UNHURRIED) as other_worker:
        yield [worker, other_worker]


@pytest.fixture(scope="module")
def scenario(shop: TestClient) -> str:
    """The name of a stored scenario that sets every option."""
    assert shop.put("/v1/scenarios/page", json=SCENARIO).status_code == 200
    return "page"


def best(logits: dict[str, float], among: list[str]) -> list[str]:
    return sorted(among, key=lambda item: -logits[item])


class TestOptions:
    def test_exact_ranks_by_the_scores_of_all_items(self, shop: TestClient, bundle: Bundle) -> None:
        answer = recommend(shop, items=VIEWED, k=100, exact=True)
        all_scores = logits(bundle, VIEWED)
        assert ids(answer) == best(all_scores, SHOWN)
        assert scores(answer) == pytest.approx([all_scores[item] for item in ids(answer)], rel=1e-5)
        assert answer["filter"] == {"eligible": 59, "strategy": "scan"}

    def test_a_filter_returns_all_items_that_match_and_no_others(self, shop: TestClient, bundle: Bundle) -> None:
        passing = {"and": [CHEAP, {"not": ACME}, {"or": [{"attribute": "tags", "in": ["gift"]}, {"not": ACME}]}]}
        expected = [
            item for item in SHOWN if ATTRIBUTES_OF[item]["price"] <= 20 and ATTRIBUTES_OF[item]["brand"] != "acme"
        ]
        answer = recommend(shop, items=VIEWED, k=100, filter=passing)
        assert ids(answer) == best(logits(bundle, VIEWED), expected)
        assert answer["filter"]["eligible"] == answer["count"] == len(expected)
        assert ids(recommend(shop, items=VIEWED, k=5, filter=passing)) == ids(answer)[:5]

    @pytest.mark.parametrize(
        ("condition", "matches"),
        [
            ({"attribute": "since", "range": {"above": "2026-01-27"}}, lambda item: item["since"] > "2026-01-27"),
            ({"attribute": "organic", "equals": True}, lambda item: item["organic"]),
            ({"attribute": "tags", "equals": "gift"}, lambda item: "gift" in item["tags"]),
            ({"attribute": "price", "in": [3, 4.0, 99]}, lambda item: item["price"] in (3, 4)),
            ({"attribute": "price", "exists": False}, lambda item: False),
        ],
    )
    def test_a_filter_supports_every_kind_of_attribute(
        self, shop: TestClient, bundle: Bundle, condition: dict[str, Any], matches: Any
    ) -> None:
        answer = recommend(shop, items=VIEWED, k=100, filter=condition)
        assert ids(answer) == best(logits(bundle, VIEWED), [item for item in SHOWN if matches(ATTRIBUTES_OF[item])])

    @pytest.mark.parametrize(
        ("options", "at"),
        [
            ({"filter": {"and": [CHEAP, {"attribute": "secret", "exists": True}]}}, "body.filter.and.1.attribute"),
            ({"filter": {"not": {"attribute": "price", "equals": "secret"}}}, "body.filter.not.equals"),
            ({"boost": [{"filter": {"attribute": "secret", "exists": True}, "factor": 2}]}, None),
            ({"diversity_by": "secret", "diversity": 0.5}, "body.diversity_by"),
            ({"boost": [{"filter": ACME, "factor": 101}]}, "body.boost.0.factor"),
            ({"pin": [{"id": "item-1", "position": 0}]}, "body.pin.0.position"),
        ],
    )
    def test_a_refusal_names_the_location_and_does_not_echo_the_value(
        self, shop: TestClient, session_id: str, options: dict[str, Any], at: str | None
    ) -> None:
        response = shop.post("/v1/recommendations", json={"session_id": session_id, "items": VIEWED, **options})
        assert problem(response) == (422, "invalid_request")
        assert [fault["at"] for fault in response.json()["errors"]] == [at or "body.boost.0.filter.attribute"]
        assert "secret" not in response.text
        assert shop.get(f"/v1/sessions/{session_id}").status_code == 404  # nothing was appended

    def test_boosts_add_to_the_scores_of_matching_items(self, shop: TestClient, bundle: Bundle) -> None:
        boost = [{"filter": ACME, "factor": 3.0}, {"filter": CHEAP, "factor": 0.5}]
        added = {
            item: math.log(3) * (ATTRIBUTES_OF[item]["brand"] == "acme")
            + math.log(0.5) * (ATTRIBUTES_OF[item]["price"] <= 20)
            for item in SHOWN
        }
        expected = {item: score + added[item] for item, score in logits(bundle, VIEWED).items() if item in added}
        answer = recommend(shop, items=VIEWED, k=100, boost=boost)
        assert ids(answer) == best(expected, SHOWN)
        assert scores(answer) == pytest.approx([expected[item] for item in ids(answer)], rel=1e-5)

    def test_pinned_items_take_their_positions_and_others_are_reported(self, shop: TestClient) -> None:
        assert shop.delete("/v1/items/item-59").status_code == 204
        try:
            pinned = ["item-2", "item-5", UNAVAILABLE, "item-59", "item-50", "item-8", "no-item"]
            answer = recommend(
                shop,
                items=VIEWED,
                k=8,
                exclude=["item-8"],
                filter={"attribute": "price", "range": {"max": 40}},
                pin=[{"id": item, "position": place} for place, item in enumerate(pinned, start=2)],
            )
        finally:
            shop.patch("/v1/items/item-59", json={"available": True})
        assert ids(answer)[1:3] == ["item-2", "item-5"]
        assert [item["source"] for item in answer["items"]] == ["encoder", "pinned", "pinned", *["encoder"] * 5]
        assert [item["rank"] for item in answer["items"]] == list(range(1, 9))
        assert answer["not_pinned"] == {
            UNAVAILABLE: "unavailable",
            "item-59": "deleted",
            "item-50": "filtered",
            "item-8": "excluded",
            "no-item": "unknown_item",
        }

    def test_diversity_varies_categories_and_zero_diversity_changes_nothing(self, shop: TestClient) -> None:
        def values_of(attribute: str, **options: Any) -> list[str]:
            answer = recommend(shop, items=["item-4"], k=10, filter={"not": {"attribute": "price", "equals": 1}})
            varied = recommend(
                shop, items=["item-4"], k=10, filter={"not": {"attribute": "price", "equals": 1}}, **options
            )
            assert varied["count"] == answer["count"] == 10
            return [ATTRIBUTES_OF[item][attribute] for item in ids(varied)]

        assert set(values_of("category", diversity=1)[:4]) == {"mugs", "plates", "bowls", "pans"}
        assert set(values_of("brand", diversity=1, diversity_by="brand")[:2]) == {"acme", "apex"}
        assert ids(recommend(shop, items=["item-4"], diversity=0)) == ids(recommend(shop, items=["item-4"]))

    def test_diversity_uses_vectors_if_no_item_has_a_category(self, tmp_path: Path) -> None:
        publish_shop(tmp_path, attributes=None)
        bundle = shop_bundle(tmp_path)

        def mean_similarity(items: list[str]) -> float:
            vectors_kD = bundle.vectors_N1D[[int(bundle.catalog.row(item) or 0) for item in items]]
            vectors_kD /= (vectors_kD**2).sum(axis=1, keepdims=True) ** 0.5
            return float((vectors_kD @ vectors_kD.T).mean())

        with opened(tmp_path) as client:
            plain, varied = (recommend(client, items=["item-4"], k=10, diversity=weight) for weight in (0, 0.7))
            refused = client.post("/v1/recommendations", json={"items": ["item-4"], "diversity_by": "category"})
        assert ids(varied)[0] == ids(plain)[0]
        assert mean_similarity(ids(varied)) < mean_similarity(ids(plain))
        assert problem(refused) == (422, "invalid_request")

    def test_exclude_seen_can_be_limited_to_purchased_items(self, shop: TestClient, session_id: str) -> None:
        send(shop, session_id, "item-7")
        send(shop, session_id, "item-3", "purchase")
        for seen, missing in ((True, {"item-7", "item-3"}), ("purchased", {"item-3"}), (False, set())):
            answer = recommend(shop, session_id=session_id, k=100, exclude_seen=seen)
            by_path = get(shop, f"/v1/sessions/{session_id}/recommendations", k=100, exclude_seen=seen)
            assert set(SHOWN) - set(ids(answer)) == set(SHOWN) - set(ids(by_path)) == missing
            assert answer["filter"]["eligible"] == answer["count"] == 59 - len(missing)

    def test_all_options_can_be_combined(self, shop: TestClient, session_id: str) -> None:
        send(shop, session_id, "item-9", "purchase")
        for exact in (False, True):
            answer = recommend(
                shop,
                session_id=session_id,
                items=["item-6"],
                k=6,
                filter=CHEAP,
                exclude=["item-4"],
                exclude_seen="purchased",
                boost=[{"filter": ACME, "factor": 100.0}],
                pin=[{"id": "item-1", "position": 3}, {"id": "item-40", "position": 4}],
                diversity=0.2,
                diversity_by="category",
                exact=exact,
                variant="b",
            )
            allowed = {item for item in SHOWN if ATTRIBUTES_OF[item]["price"] <= 20} - {"item-4", "item-9"}
            assert len(set(ids(answer))) == answer["count"] == 6
            assert set(ids(answer)) <= allowed
            assert answer["filter"]["eligible"] == len(allowed)
            assert ids(answer)[2] == "item-1"
            assert [ATTRIBUTES_OF[item]["brand"] for item in ids(answer)[:2]] == ["acme", "acme"]
            assert answer["not_pinned"] == {"item-40": "filtered"}
            assert answer["variant"] == "b"


SCENARIO: dict[str, Any] = {
    "k": 4,
    "filter": CHEAP,
    "exclude_seen": True,
    "diversity": 1.0,
    "diversity_by": "category",
    "exact": True,
    "boost": [{"filter": ACME, "factor": 50.0}],
    "pin": [{"id": "item-2", "position": 1}],
    "variant": "a",
}
OVERRIDES: dict[str, Any] = {
    "k": 6,
    "filter": None,
    "exclude_seen": False,
    "diversity": 0,
    "diversity_by": "brand",
    "exact": False,
    "boost": [],
    "pin": [{"id": "item-5", "position": 2}],
    "variant": "b",
}


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an answer that options determine, without scores."""
    return {name: answer.get(name) for name in ("count", "filter", "variant", "not_pinned")} | {"items": ids(answer)}


class TestScenarios:
    def test_an_answer_uses_the_options_of_its_scenario_and_names_it(
        self, shop: TestClient, scenario: str, session_id: str
    ) -> None:
        by_name = recommend(shop, items=VIEWED, scenario=scenario)
        assert comparable(by_name) == comparable(recommend(shop, items=VIEWED, **SCENARIO))
        assert by_name["scenario"]["name"] == scenario
        send(shop, session_id, VIEWED[0])
        by_path = get(shop, f"/v1/sessions/{session_id}/recommendations", scenario=scenario)
        assert comparable(by_path) == comparable(recommend(shop, items=VIEWED[:1], **SCENARIO))

    @pytest.mark.parametrize("option", list(OVERRIDES))
    def test_an_option_of_the_request_overrides_that_of_the_scenario(
        self, shop: TestClient, scenario: str, option: str
    ) -> None:
        override = {option: OVERRIDES[option]}
        answer = recommend(shop, items=VIEWED, scenario=scenario, **override)
        assert comparable(answer) == comparable(recommend(shop, items=VIEWED, **(SCENARIO | override)))

    def test_a_request_can_override_every_option_of_the_scenario(self, shop: TestClient, scenario: str) -> None:
        answer = recommend(shop, items=VIEWED, scenario=scenario, **OVERRIDES)
        assert comparable(answer) == comparable(recommend(shop, items=VIEWED, **OVERRIDES))

    def test_a_new_version_applies_from_the_next_answer(self, shop: TestClient) -> None:
        for version, k in enumerate((3, 2), start=1):
            shop.put("/v1/scenarios/changing", json={"k": k})
            answer = recommend(shop, items=VIEWED, scenario="changing")
            assert (answer["count"], answer["scenario"]) == (k, {"name": "changing", "version": version})

    def test_an_unknown_scenario_is_refused(self, shop: TestClient, session_id: str) -> None:
        body = {"session_id": session_id, "items": VIEWED, "scenario": "nothing"}
        assert problem(shop.post("/v1/recommendations", json=body)) == (422, "scenario_not_found")
        by_path = shop.get(f"/v1/sessions/{session_id}/recommendations", params={"scenario": "nothing"})
        assert problem(by_path) == (422, "scenario_not_found")
        assert shop.get(f"/v1/sessions/{session_id}").status_code == 404

    def test_a_scenario_that_no_longer_fits_the_bundle_is_refused_unless_the_request_overrides_it(
        self, tmp_path: Path
    ) -> None:
        publish_shop(tmp_path)
        with opened(tmp_path, reload_interval=0.05) as client:
            client.put("/v1/scenarios/cheap", json={"filter": CHEAP, "k": 3})
            first = recommend(client, items=VIEWED, scenario="cheap")
            digest = publish_shop(tmp_path, attributes=[{"brand": "acme"} for _ in ITEMS])
            wait_until(lambda: get(client, "/v1/version")["bundle"] == digest)
            refused = client.post("/v1/recommendations", json={"items": VIEWED, "scenario": "cheap"})
            assert problem(refused) == (422, "invalid_request")
            assert "scenario does not fit the live bundle: filter.attribute" in refused.json()["detail"]
            assert recommend(client, items=VIEWED, scenario="cheap", filter=None)["count"] == 3
            assert client.get("/v1/scenarios/cheap").status_code == 200
            page = client.post(f"/v1/recommendations/{first['recommendation_id']}/next", json={})
            assert problem(page) == (410, "recommendation_gone")


class TestPositions:
    def test_the_next_answer_of_any_worker_sees_an_event(self, workers: list[TestClient], session_id: str) -> None:
        for number in range(20):
            writer, reader = workers[number % 2], workers[(number + 1) % 2]
            position = send(writer, session_id, f"item-{number + 1}")["position"]
            answer = recommend(reader, session_id=session_id, position=position, k=3)
            assert answer["position"] == position
            viewed = [f"item-{seen + 1}" for seen in range(number + 1)]
            assert ids(answer) == ids(recommend(reader, items=viewed, k=3))

    def test_a_position_that_is_not_reached_is_a_409_and_nothing_is_appended(
        self, workers: list[TestClient], session_id: str
    ) -> None:
        generation, count = send(workers[0], session_id, "item-1")["position"].rsplit("-", 1)
        for ahead in (f"{generation}-{int(count) + 1}", f"other-{count}", "?", "x" * 64):
            body = {"session_id": session_id, "items": ["item-2"], "position": ahead}
            assert problem(workers[1].post("/v1/recommendations", json=body)) == (409, "session_behind")
            by_path = workers[1].get(f"/v1/sessions/{session_id}/recommendations", params={"position": ahead})
            assert problem(by_path) == (409, "session_behind")
        assert get(workers[0], f"/v1/sessions/{session_id}")["count"] == 1

    def test_the_position_of_a_deleted_session_is_never_reached_again(
        self, workers: list[TestClient], session_id: str
    ) -> None:
        position = send(workers[0], session_id, "item-1")["position"]
        workers[1].delete(f"/v1/sessions/{session_id}")
        send(workers[0], session_id, "item-1")
        body = {"session_id": session_id, "position": position}
        assert problem(workers[0].post("/v1/recommendations", json=body)) == (409, "session_behind")

    def test_a_position_needs_a_session(self, shop: TestClient) -> None:
        response = shop.post("/v1/recommendations", json={"items": VIEWED, "position": "a-1"})
        assert problem(response) == (422, "invalid_request")


class TestFollowUpEvents:
    def test_a_dislike_applies_at_once_until_the_item_is_viewed_again(
        self, workers: list[TestClient], session_id: str
    ) -> None:
        worker, other_worker = workers
        recommend(worker, session_id=session_id, items=VIEWED)
        send(worker, session_id, "item-3", "dislike")
        answer = recommend(other_worker, session_id=session_id, k=100)
        assert ids(answer) == [
            item for item in ids(recommend(other_worker, items=["item-7", "item-11"], k=100)) if item != "item-3"
        ]
        assert "item-3" not in ids(
            recommend(other_worker, session_id=session_id, k=5, pin=[{"id": "item-3", "position": 1}])
        )
        send(other_worker, session_id, "item-3")
        assert "item-3" in ids(recommend(worker, session_id=session_id, k=100))

    def test_a_purchase_applies_at_once(self, workers: list[TestClient], session_id: str) -> None:
        send(workers[0], session_id, "item-7", "purchase")
        answer = recommend(workers[1], session_id=session_id, k=100, exclude_seen="purchased")
        assert "item-7" not in ids(answer)
        assert ids(answer) == [item for item in ids(recommend(workers[1], items=["item-7"], k=100)) if item != "item-7"]


class TestConsent:
    """`store: false` and `dry_run` store nothing."""

    @pytest.mark.parametrize("not_stored", [{"store": False}, {"dry_run": True}, {"store": False, "dry_run": True}])
    def test_a_call_without_consent_leaves_no_trace(
        self, bundles: Path, tmp_path: Path, not_stored: dict[str, bool]
    ) -> None:
        with run_server(find_servers()[0]) as url:
            with opened(bundles, url, event_log=tmp_path, **UNHURRIED) as client:
                client.put("/v1/scenarios/page", json={"k": 3})
                recommend(client, session_id="known", items=["item-1"])
                send(client, "known", "item-2", "dislike")
            before, log = stored_keys(url), {path: path.read_bytes() for path in tmp_path.rglob("*")}
            with opened(bundles, url, event_log=tmp_path, **UNHURRIED) as client:
                wait_until(lambda: client.get("/v1/scenarios/page").status_code == 200, 5)
                for session_id in ("known", "unknown", None):
                    query = {"items": VIEWED, "user_id": "u", "scenario": "page", "k": 100, **not_stored}
                    body = query if session_id is None else query | {"session_id": session_id}
                    recommend(client, **body)
                    batch = client.post("/v1/recommendations:batch", json={"requests": [body, body]})
                    assert batch.status_code == 200
            assert stored_keys(url) == before
            assert {path: path.read_bytes() for path in tmp_path.rglob("*")} == log

    def test_a_call_without_consent_gets_the_same_answer(self, shop: TestClient, session_id: str) -> None:
        send(shop, session_id, "item-7")
        send(shop, session_id, "item-3", "dislike")
        body = {"session_id": session_id, "items": ["item-11", "item-3"], "k": 100}
        not_stored, dry, stored = (
            recommend(shop, **body, **flags) for flags in ({"store": False}, {"dry_run": True}, {})
        )
        assert ids(not_stored) == ids(dry) == ids(stored)
        assert "explanation" not in not_stored
        assert "explanation" not in stored
        assert dry["explanation"]["session"] == ["item-7", "item-11", "item-3"]

    @pytest.mark.parametrize("weights", ["", "view=0", "view=-1", "view=2,cart=-1"])
    @pytest.mark.parametrize("store", ["memory", "redis"])
    def test_at_the_session_length_a_call_without_consent_gets_the_same_answer(
        self, bundles: Path, valkey: str, session_id: str, store: str, weights: str
    ) -> None:
        url = IN_MEMORY if store == "memory" else valkey
        with opened(bundles, url, session_length=4, event_weights=weights, **UNHURRIED) as client:
            events = ["cart", "view", "purchase", "like", "dislike", "impression", "cart"]
            for number, kind in enumerate(events, start=1):
                send(client, session_id, f"item-{number}", kind)
            for items in (["item-11"], ["item-5", "item-12", "item-4", "item-13", "item-14", "item-14"]):
                for options in ({}, {"exclude_seen": True}, {"exclude_seen": "purchased"}):
                    body = {"session_id": session_id, "items": items, "k": 100, **options}
                    not_stored = recommend(client, **body, store=False)
                    dry = recommend(client, **body, dry_run=True)
                    stored = recommend(client, **body)
                    assert ids(not_stored) == ids(dry) == ids(stored)
                    assert scores(not_stored) == scores(dry) == scores(stored)
                    path = f"/v1/recommendations/{stored['recommendation_id']}/explanation"
                    assert dry["explanation"]["session"] == get(client, path)["session"]

    def test_a_dry_run_is_explained_and_has_neither_next_page_nor_explanation(self, shop: TestClient) -> None:
        answer = recommend(shop, items=VIEWED, k=3, dry_run=True)
        assert [item["id"] for item in answer["explanation"]["items"]] == ids(answer)
        assert len(answer["explanation"]["items"][0]["contributions"]) == 3
        path = f"/v1/recommendations/{answer['recommendation_id']}"
        assert problem(shop.post(f"{path}/next", json={})) == (404, "recommendation_not_found")
        assert problem(shop.get(f"{path}/explanation")) == (404, "recommendation_not_found")

    def test_a_deleted_session_leaves_no_key(self, bundles: Path) -> None:
        with run_server(find_servers()[0]) as url, opened(bundles, url, **UNHURRIED) as client:
            answer = recommend(client, session_id="visitor", items=VIEWED)
            client.post(f"/v1/recommendations/{answer['recommendation_id']}/next", json={})
            send(client, "visitor", "item-3", "dislike")
            recommend(client, session_id="visitor")
            assert client.delete("/v1/sessions/visitor").status_code == 204
            time.sleep(0.1)  # longer than the delay with which answers are written
            assert [key for key in stored_keys(url) if key.startswith(b"onward:session:")] == []


def test_sources_are_reported(shop: TestClient) -> None:
    assert sources(recommend(shop, items=VIEWED, pin=[{"id": "item-1", "position": 1}])) == {"encoder", "pinned"}
    assert sources(recommend(shop, items=["no-item"], pin=[{"id": "item-9", "position": 1}])) == {"popular", "pinned"}
