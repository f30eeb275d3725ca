"""What the options of a recommendation do, by themselves, together and in scenarios, and what a call leaves behind."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from onward.bundle import Bundle
from onward.service.server.embedded_store import find_servers, run_server
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
OF = dict(zip(ITEMS, ATTRIBUTES, strict=True))
VIEWED = ["item-7", "item-3", "item-11"]


@pytest.fixture(scope="module")
def shop(bundles: Path) -> Iterator[TestClient]:
    with opened(bundles) as client:
        yield client


@pytest.fixture(scope="module")
def workers(bundles: Path, valkey: str) -> Iterator[list[TestClient]]:
    """Two workers of one service."""
    with opened(bundles, valkey, **UNHURRIED) as one, opened(bundles, valkey, **UNHURRIED) as other:
        yield [one, other]


@pytest.fixture(scope="module")
def named(shop: TestClient) -> str:
    """The name of a scenario of all options."""
    assert shop.put("/v1/scenarios/page", json=SCENARIO).status_code == 200
    return "page"


def best(logits: dict[str, float], among: list[str]) -> list[str]:
    return sorted(among, key=lambda item: -logits[item])


class TestOptions:
    def test_exact_gives_the_order_of_comparing_all(self, shop: TestClient, bundle: Bundle) -> None:
        answer = recommend(shop, items=VIEWED, k=100, exact=True)
        of_all = logits(bundle, VIEWED)
        assert ids(answer) == best(of_all, SHOWN)
        assert scores(answer) == pytest.approx([of_all[item] for item in ids(answer)], rel=1e-5)
        assert answer["filter"] == {"eligible": 59, "strategy": "scan"}

    def test_a_filter_lets_through_what_passes_and_all_of_it(self, shop: TestClient, bundle: Bundle) -> None:
        passing = {"and": [CHEAP, {"not": ACME}, {"or": [{"attribute": "tags", "in": ["gift"]}, {"not": ACME}]}]}
        expected = [item for item in SHOWN if OF[item]["price"] <= 20 and OF[item]["brand"] != "acme"]
        answer = recommend(shop, items=VIEWED, k=100, filter=passing)
        assert ids(answer) == best(logits(bundle, VIEWED), expected)
        assert answer["filter"]["eligible"] == answer["count"] == len(expected)
        assert ids(recommend(shop, items=VIEWED, k=5, filter=passing)) == ids(answer)[:5]

    @pytest.mark.parametrize(
        ("passing", "holds"),
        [
            ({"attribute": "since", "range": {"above": "2026-01-27"}}, lambda of: of["since"] > "2026-01-27"),
            ({"attribute": "organic", "equals": True}, lambda of: of["organic"]),
            ({"attribute": "tags", "equals": "gift"}, lambda of: "gift" in of["tags"]),
            ({"attribute": "price", "in": [3, 4.0, 99]}, lambda of: of["price"] in (3, 4)),
            ({"attribute": "price", "exists": False}, lambda of: False),
        ],
    )
    def test_a_filter_asks_for_any_kind_of_attribute(
        self, shop: TestClient, bundle: Bundle, passing: dict[str, Any], holds: Any
    ) -> None:
        answer = recommend(shop, items=VIEWED, k=100, filter=passing)
        assert ids(answer) == best(logits(bundle, VIEWED), [item for item in SHOWN if holds(OF[item])])

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
    def test_a_refusal_points_at_what_is_wrong_and_does_not_repeat_it(
        self, shop: TestClient, session_id: str, options: dict[str, Any], at: str | None
    ) -> None:
        response = shop.post("/v1/recommendations", json={"session_id": session_id, "items": VIEWED, **options})
        assert problem(response) == (422, "invalid_request")
        assert [fault["at"] for fault in response.json()["errors"]] == [at or "body.boost.0.filter.attribute"]
        assert "secret" not in response.text
        assert shop.get(f"/v1/sessions/{session_id}").status_code == 404  # nothing was appended

    def test_boosts_add_to_the_scores_of_what_passes(self, shop: TestClient, bundle: Bundle) -> None:
        boost = [{"filter": ACME, "factor": 3.0}, {"filter": CHEAP, "factor": 0.5}]
        added = {
            item: math.log(3) * (OF[item]["brand"] == "acme") + math.log(0.5) * (OF[item]["price"] <= 20)
            for item in SHOWN
        }
        expected = {item: score + added[item] for item, score in logits(bundle, VIEWED).items() if item in added}
        answer = recommend(shop, items=VIEWED, k=100, boost=boost)
        assert ids(answer) == best(expected, SHOWN)
        assert scores(answer) == pytest.approx([expected[item] for item in ids(answer)], rel=1e-5)

    def test_pins_stand_where_they_were_put_and_others_are_told(self, shop: TestClient) -> None:
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

    def test_diversity_shows_more_categories_and_none_of_it_changes_nothing(self, shop: TestClient) -> None:
        def of_first(attribute: str, **options: Any) -> list[str]:
            answer = recommend(shop, items=["item-4"], k=10, filter={"not": {"attribute": "price", "equals": 1}})
            varied = recommend(
                shop, items=["item-4"], k=10, filter={"not": {"attribute": "price", "equals": 1}}, **options
            )
            assert varied["count"] == answer["count"] == 10
            return [OF[item][attribute] for item in ids(varied)]

        assert set(of_first("category", diversity=1)[:4]) == {"mugs", "plates", "bowls", "pans"}
        assert set(of_first("brand", diversity=1, diversity_by="brand")[:2]) == {"acme", "apex"}
        assert ids(recommend(shop, items=["item-4"], diversity=0)) == ids(recommend(shop, items=["item-4"]))

    def test_diversity_goes_by_the_vectors_where_no_item_has_a_category(self, tmp_path: Path) -> None:
        publish_shop(tmp_path, attributes=None)
        bundle = shop_bundle(tmp_path)

        def likeness(items: list[str]) -> float:
            vectors_kD = bundle.vectors_N1D[[int(bundle.catalog.row(item) or 0) for item in items]]
            vectors_kD /= (vectors_kD**2).sum(axis=1, keepdims=True) ** 0.5
            return float((vectors_kD @ vectors_kD.T).mean())

        with opened(tmp_path) as client:
            plain, varied = (recommend(client, items=["item-4"], k=10, diversity=weight) for weight in (0, 0.7))
            refused = client.post("/v1/recommendations", json={"items": ["item-4"], "diversity_by": "category"})
        assert ids(varied)[0] == ids(plain)[0]
        assert likeness(ids(varied)) < likeness(ids(plain))
        assert problem(refused) == (422, "invalid_request")

    def test_what_was_bought_stays_away_and_what_was_viewed_does_not(self, shop: TestClient, session_id: str) -> None:
        send(shop, session_id, "item-7")
        send(shop, session_id, "item-3", "purchase")
        for seen, missing in ((True, {"item-7", "item-3"}), ("purchased", {"item-3"}), (False, set())):
            answer = recommend(shop, session_id=session_id, k=100, exclude_seen=seen)
            by_address = get(shop, f"/v1/sessions/{session_id}/recommendations", k=100, exclude_seen=seen)
            assert set(SHOWN) - set(ids(answer)) == set(SHOWN) - set(ids(by_address)) == missing
            assert answer["filter"]["eligible"] == answer["count"] == 59 - len(missing)

    def test_all_of_them_hold_together(self, shop: TestClient, session_id: str) -> None:
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
            allowed = {item for item in SHOWN if OF[item]["price"] <= 20} - {"item-4", "item-9"}
            assert len(set(ids(answer))) == answer["count"] == 6
            assert set(ids(answer)) <= allowed
            assert answer["filter"]["eligible"] == len(allowed)
            assert ids(answer)[2] == "item-1"
            assert [OF[item]["brand"] for item in ids(answer)[:2]] == ["acme", "acme"]
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
INSTEAD: dict[str, Any] = {
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


def decided(answer: dict[str, Any]) -> dict[str, Any]:
    """What options decide of an answer, but for rounding."""
    return {name: answer.get(name) for name in ("count", "filter", "variant", "not_pinned")} | {"items": ids(answer)}


class TestScenarios:
    def test_an_answer_goes_by_its_scenario_and_names_it(self, shop: TestClient, named: str, session_id: str) -> None:
        by_name = recommend(shop, items=VIEWED, scenario=named)
        assert decided(by_name) == decided(recommend(shop, items=VIEWED, **SCENARIO))
        assert by_name["scenario"]["name"] == named
        send(shop, session_id, VIEWED[0])
        by_address = get(shop, f"/v1/sessions/{session_id}/recommendations", scenario=named)
        assert decided(by_address) == decided(recommend(shop, items=VIEWED[:1], **SCENARIO))

    @pytest.mark.parametrize("option", list(INSTEAD))
    def test_what_a_request_gives_stands_in_the_place_of_the_scenarios(
        self, shop: TestClient, named: str, option: str
    ) -> None:
        given = {option: INSTEAD[option]}
        answer = recommend(shop, items=VIEWED, scenario=named, **given)
        assert decided(answer) == decided(recommend(shop, items=VIEWED, **(SCENARIO | given)))

    def test_all_that_a_request_gives_leaves_nothing_of_the_scenario(self, shop: TestClient, named: str) -> None:
        answer = recommend(shop, items=VIEWED, scenario=named, **INSTEAD)
        assert decided(answer) == decided(recommend(shop, items=VIEWED, **INSTEAD))

    def test_a_new_version_counts_from_the_next_answer(self, shop: TestClient) -> None:
        for version, k in enumerate((3, 2), start=1):
            shop.put("/v1/scenarios/changing", json={"k": k})
            answer = recommend(shop, items=VIEWED, scenario="changing")
            assert (answer["count"], answer["scenario"]) == (k, {"name": "changing", "version": version})

    def test_one_that_is_not_stored_is_told(self, shop: TestClient, session_id: str) -> None:
        body = {"session_id": session_id, "items": VIEWED, "scenario": "nothing"}
        assert problem(shop.post("/v1/recommendations", json=body)) == (422, "scenario_not_found")
        by_address = shop.get(f"/v1/sessions/{session_id}/recommendations", params={"scenario": "nothing"})
        assert problem(by_address) == (422, "scenario_not_found")
        assert shop.get(f"/v1/sessions/{session_id}").status_code == 404

    def test_one_that_fits_the_bundle_no_longer_is_told_unless_the_request_gives_better(self, tmp_path: Path) -> None:
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
    def test_an_event_counts_for_the_next_answer_of_any_worker(
        self, workers: list[TestClient], session_id: str
    ) -> None:
        for number in range(20):
            writer, reader = workers[number % 2], workers[(number + 1) % 2]
            position = send(writer, session_id, f"item-{number + 1}")["position"]
            answer = recommend(reader, session_id=session_id, position=position, k=3)
            assert answer["position"] == position
            viewed = [f"item-{seen + 1}" for seen in range(number + 1)]
            assert ids(answer) == ids(recommend(reader, items=viewed, k=3))

    def test_a_position_that_is_not_reached_is_told_and_nothing_appended(
        self, workers: list[TestClient], session_id: str
    ) -> None:
        birth, count = send(workers[0], session_id, "item-1")["position"].rsplit("-", 1)
        for ahead in (f"{birth}-{int(count) + 1}", f"other-{count}", "?", "x" * 64):
            body = {"session_id": session_id, "items": ["item-2"], "position": ahead}
            assert problem(workers[1].post("/v1/recommendations", json=body)) == (409, "session_behind")
            by_address = workers[1].get(f"/v1/sessions/{session_id}/recommendations", params={"position": ahead})
            assert problem(by_address) == (409, "session_behind")
        assert get(workers[0], f"/v1/sessions/{session_id}")["count"] == 1

    def test_the_position_of_a_forgotten_session_is_not_reached_again(
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


class TestWhatFollows:
    def test_a_dislike_counts_at_once_until_the_visitor_comes_back(
        self, workers: list[TestClient], session_id: str
    ) -> None:
        one, other = workers
        recommend(one, session_id=session_id, items=VIEWED)
        send(one, session_id, "item-3", "dislike")
        answer = recommend(other, session_id=session_id, k=100)
        assert ids(answer) == [
            item for item in ids(recommend(other, items=["item-7", "item-11"], k=100)) if item != "item-3"
        ]
        assert "item-3" not in ids(recommend(other, session_id=session_id, k=5, pin=[{"id": "item-3", "position": 1}]))
        send(other, session_id, "item-3")
        assert "item-3" in ids(recommend(one, session_id=session_id, k=100))

    def test_a_purchase_counts_at_once(self, workers: list[TestClient], session_id: str) -> None:
        send(workers[0], session_id, "item-7", "purchase")
        answer = recommend(workers[1], session_id=session_id, k=100, exclude_seen="purchased")
        assert "item-7" not in ids(answer)
        assert ids(answer) == [item for item in ids(recommend(workers[1], items=["item-7"], k=100)) if item != "item-7"]


class TestConsent:
    """`store: false` and `dry_run` keep nothing."""

    @pytest.mark.parametrize("unkept", [{"store": False}, {"dry_run": True}, {"store": False, "dry_run": True}])
    def test_a_call_without_consent_leaves_no_trace(
        self, bundles: Path, tmp_path: Path, unkept: dict[str, bool]
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
                    asked = {"items": VIEWED, "user_id": "u", "scenario": "page", "k": 100, **unkept}
                    body = asked if session_id is None else asked | {"session_id": session_id}
                    recommend(client, **body)
                    batch = client.post("/v1/recommendations:batch", json={"requests": [body, body]})
                    assert batch.status_code == 200
            assert stored_keys(url) == before
            assert {path: path.read_bytes() for path in tmp_path.rglob("*")} == log

    def test_it_is_answered_as_one_that_is_kept(self, shop: TestClient, session_id: str) -> None:
        send(shop, session_id, "item-7")
        send(shop, session_id, "item-3", "dislike")
        body = {"session_id": session_id, "items": ["item-11", "item-3"], "k": 100}
        unkept, dry, kept = (recommend(shop, **body, **how) for how in ({"store": False}, {"dry_run": True}, {}))
        assert ids(unkept) == ids(dry) == ids(kept)
        assert "explanation" not in unkept
        assert "explanation" not in kept
        assert dry["explanation"]["session"] == ["item-7", "item-11", "item-3"]

    def test_a_dry_run_is_explained_and_has_neither_next_page_nor_explanation(self, shop: TestClient) -> None:
        answer = recommend(shop, items=VIEWED, k=3, dry_run=True)
        assert [item["id"] for item in answer["explanation"]["items"]] == ids(answer)
        assert len(answer["explanation"]["items"][0]["contributions"]) == 3
        path = f"/v1/recommendations/{answer['recommendation_id']}"
        assert problem(shop.post(f"{path}/next", json={})) == (404, "recommendation_not_found")
        assert problem(shop.get(f"{path}/explanation")) == (404, "recommendation_not_found")

    def test_a_forgotten_session_leaves_no_key(self, bundles: Path) -> None:
        with run_server(find_servers()[0]) as url, opened(bundles, url, **UNHURRIED) as client:
            answer = recommend(client, session_id="visitor", items=VIEWED)
            client.post(f"/v1/recommendations/{answer['recommendation_id']}/next", json={})
            send(client, "visitor", "item-3", "dislike")
            recommend(client, session_id="visitor")
            assert client.delete("/v1/sessions/visitor").status_code == 204
            time.sleep(0.1)  # longer than answers wait to be written
            assert [key for key in stored_keys(url) if key.startswith(b"onward:session:")] == []


def test_sources_are_told(shop: TestClient) -> None:
    assert sources(recommend(shop, items=VIEWED, pin=[{"id": "item-1", "position": 1}])) == {"encoder", "pinned"}
    assert sources(recommend(shop, items=["no-item"], pin=[{"id": "item-9", "position": 1}])) == {"popular", "pinned"}
