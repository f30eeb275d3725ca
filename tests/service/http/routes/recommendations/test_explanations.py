"""Explanations: the repeated answer, contributions of events, boosts and moves, and why an item is missing."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any, get_args

import pytest
from starlette.testclient import TestClient

from onward.bundle import Bundle, Options, SessionView
from onward.service.errors import RecommendationGone
from onward.service.recommend.explainer import explain_stored
from onward.service.recommend.explanation import Reason
from onward.service.records.answers import Answer
from tests.service.process import wait_until
from tests.service.records.answer_ids import new_answer_id
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
    send,
    shop_bundle,
)

VIEWED = ["item-7", "item-3", "item-11", "item-3"]
ATTRIBUTES_OF = dict(zip(ITEMS, ATTRIBUTES, strict=True))
GONE = (410, "recommendation_gone")
BY_SCORE = {"shown", "outranked", "diversity", "pin"}


@pytest.fixture(scope="module")
def workers(bundles: Path, valkey: str) -> Iterator[list[TestClient]]:
    """Two workers of one service; tests that change the catalog use other services."""
    with opened(bundles, valkey, **UNHURRIED) as worker, opened(bundles, valkey, **UNHURRIED) as other_worker:
        yield [worker, other_worker]


def wait_until_popularity_settles(workers: list[TestClient]) -> None:
    """Wait until all workers have read the popularity that follows from the events of earlier tests."""
    known: list[Any] = []

    def is_settled() -> bool:
        time.sleep(0.5)  # longer than workers take to write and to read it
        before = known[:]
        known[:] = [
            {item["id"]: item["score"] for item in recommend(worker, items=["no-item"], k=len(ITEMS))["items"]}
            for worker in workers
        ]
        return bool(before) and all(scores == pytest.approx(known[0], rel=1e-5) for scores in before + known)

    wait_until(is_settled)


def explanation_response(client: TestClient, answer: dict[str, Any], **query: Any) -> Any:
    return client.get(f"/v1/recommendations/{answer['recommendation_id']}/explanation", params=query)


def explain(client: TestClient, answer: dict[str, Any], **query: Any) -> dict[str, Any]:
    response = explanation_response(client, answer, **query)
    assert response.status_code == 200, response.text
    explanation: dict[str, Any] = response.json()
    return explanation


def why_not(client: TestClient, answer: dict[str, Any], item_id: str) -> dict[str, Any]:
    reason: dict[str, Any] = explain(client, answer, why_not=item_id)["why_not"]
    assert reason.pop("id") == item_id
    return reason


def shared_fields(answer: dict[str, Any]) -> list[Any]:
    """Return the fields of the items that an answer and its explanation share."""
    names = ("id", "score", "rank", "source", "interest")
    return [tuple(item.get(name) for name in names) for item in answer["items"]]


class TestRepeatedAnswers:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"exact": True, "k": 100},
            {"filter": CHEAP, "k": 30},
            {"boost": [{"filter": ACME, "factor": 2.5}], "diversity": 0.6, "pin": [{"id": "item-5", "position": 2}]},
            {"exclude": ["item-1", "item-2"], "exclude_seen": True, "variant": "b"},
            {"user_id": "u", "items": ["no-item"]},
        ],
    )
    def test_any_worker_explains_an_answer_with_identical_values(
        self, workers: list[TestClient], session_id: str, options: dict[str, Any]
    ) -> None:
        worker, other_worker = workers
        for extra in ({}, {"session_id": session_id}):
            answer = recommend(worker, **({"items": VIEWED, "k": 10} | options | extra))
            explanation = explain(other_worker, answer)
            assert shared_fields(explanation) == shared_fields(answer)
            assert explanation["bundle"] == answer["bundle"]
            assert explanation["session"] == options.get("items", VIEWED)
            assert explanation["recommendation_id"] == answer["recommendation_id"]
            assert explain(worker, answer) == explanation

    def test_later_events_of_the_session_do_not_change_an_explanation(
        self, workers: list[TestClient], session_id: str
    ) -> None:
        worker, other_worker = workers
        send(worker, session_id, "item-2", "dislike")
        answer = recommend(worker, session_id=session_id, items=VIEWED, k=10)
        before = explain(worker, answer)
        send(worker, session_id, ids(answer)[0], "dislike")
        recommend(other_worker, session_id=session_id, items=["item-30"])
        assert explain(other_worker, answer) == before

    def test_next_pages_session_answers_and_batches_are_explained(
        self, workers: list[TestClient], session_id: str
    ) -> None:
        worker, other_worker = workers
        recommend(worker, session_id=session_id, items=VIEWED)
        by_path = get(worker, f"/v1/sessions/{session_id}/recommendations", k=6, exclude_seen="true")
        queries = [{"items": VIEWED[: 1 + number % 4], "k": 5 + number} for number in range(20)]
        batch = worker.post("/v1/recommendations:batch", json={"requests": queries}).json()["results"]
        pages = [worker.post(f"/v1/recommendations/{by_path['recommendation_id']}/next").json() for _ in range(2)]
        for answer in (by_path, *pages, *(result["recommendations"] for result in batch)):
            assert shared_fields(explain(other_worker, answer)) == shared_fields(answer)

    def test_scores_may_differ_by_rounding_but_no_more(self, bundle: Bundle) -> None:
        items = bundle.retrieve(SessionView(VIEWED), Options(5)).items
        answer = Answer(new_answer_id(None), 0, bundle.digest, items, tuple(VIEWED), options={"k": 5})

        def with_scores(factor: float) -> Answer:
            return replace(answer, items=replace(items, scores=tuple(score * factor for score in items.scores)))

        rounded = explain_stored(bundle, with_scores(1 + 1e-6))
        assert [item.score for item in rounded.items] == [item.score * (1 + 1e-6) for item in items]
        with pytest.raises(RecommendationGone):
            explain_stored(bundle, with_scores(1.01))


class TestContributions:
    @pytest.mark.parametrize("with_session", [True, False])
    def test_a_contribution_is_the_difference_of_leaving_the_event_out(
        self, workers: list[TestClient], bundle: Bundle, session_id: str, *, with_session: bool
    ) -> None:
        query: dict[str, Any] = {"items": ["no-item", *VIEWED]} | ({"session_id": session_id} if with_session else {})
        answer = recommend(workers[0], **query, k=8)
        full = logits(bundle, VIEWED)
        without = [logits(bundle, VIEWED[:place] + VIEWED[place + 1 :]) for place in range(4)]
        for item in explain(workers[1], answer)["items"]:
            contributions = {
                (event["place"], event["item_id"]): event["contribution"] for event in item["contributions"]
            }
            expected = {(0, "no-item"): 0.0} | {
                (place + 1, VIEWED[place]): full[item["id"]] - without[place][item["id"]] for place in range(4)
            }
            assert contributions == pytest.approx(expected, abs=1e-4)
            assert list(contributions.values()) == sorted(contributions.values(), reverse=True)

    def test_an_event_before_the_encoders_window_contributes_nothing(self, workers: list[TestClient]) -> None:
        viewed = [f"item-{number}" for number in range(1, 14)]  # the encoder reads the last 10
        for item in explain(workers[0], recommend(workers[0], items=viewed, k=3))["items"]:
            contributions = {event["place"]: event["contribution"] for event in item["contributions"]}
            assert [contributions[place] for place in range(3)] == pytest.approx([0] * 3, abs=1e-5)
            assert all(abs(contributions[place]) > 1e-4 for place in range(3, 13))

    def test_the_only_event_contributes_the_whole_score(self, workers: list[TestClient]) -> None:
        for item in explain(workers[0], recommend(workers[0], items=["item-7"], k=3))["items"]:
            (only,) = item["contributions"]
            assert (only["item_id"], only["place"]) == ("item-7", 0)
            assert only["contribution"] == pytest.approx(item["score"], rel=1e-5)

    def test_with_a_known_user_an_event_contributes_what_it_adds_to_the_user(self, tmp_path: Path) -> None:
        publish_shop(tmp_path, users=["user-1"])
        with opened(tmp_path) as client:
            alone = recommend(client, user_id="user-1", k=100, exact=True)
            answer = recommend(client, user_id="user-1", items=["item-7"], k=3)
            of_user = {item["id"]: item["score"] for item in alone["items"]}
            for item in explain(client, answer)["items"]:
                added = item["score"] - of_user[item["id"]]
                assert item["contributions"][0]["contribution"] == pytest.approx(added, abs=1e-4)
            assert [item["contributions"] for item in explain(client, alone)["items"]] == [[]] * 59

    def test_items_not_retrieved_by_the_encoder_have_no_contributions(self, workers: list[TestClient]) -> None:
        popular = recommend(workers[0], items=["no-item"], k=3, pin=[{"id": "item-9", "position": 2}])
        assert all("contributions" not in item for item in explain(workers[0], popular)["items"])


class TestReranking:
    def test_the_interest_that_retrieved_an_item_is_reported(self, tmp_path: Path) -> None:
        publish_shop(tmp_path, interests=4)
        with opened(tmp_path) as client:
            answer = recommend(client, items=VIEWED, k=59)
            explanation = explain(client, answer)
            assert {item["interest"] for item in explanation["items"]} == {0, 1, 2, 3}
            bundle = shop_bundle(tmp_path)
            interests_KD = bundle.encoder.encode([bundle.catalog.row(item) or 0 for item in VIEWED])
            for item in explanation["items"]:
                scores_K = interests_KD @ bundle.vectors_N1D[bundle.catalog.row(item["id"]) or 0]
                assert item["interest"] == scores_K.argmax()

    def test_the_effect_of_boosts_is_reported(self, workers: list[TestClient]) -> None:
        boost = [{"filter": ACME, "factor": 3.0}, {"filter": CHEAP, "factor": 0.5}]
        answer = recommend(workers[0], items=VIEWED, k=59, boost=boost)
        for item in explain(workers[1], answer)["items"]:
            acme, cheap = ATTRIBUTES_OF[item["id"]]["brand"] == "acme", ATTRIBUTES_OF[item["id"]]["price"] <= 20
            added = math.log(3) * acme + math.log(0.5) * cheap
            assert item.get("boost", 0.0) == pytest.approx(added)

    def test_places_before_diversity_and_pins_are_reported(self, workers: list[TestClient]) -> None:
        pins = [{"id": "item-5", "position": 1}]
        plain = [item for item in ids(recommend(workers[0], items=VIEWED, k=59)) if item != "item-5"]
        answer = recommend(workers[0], items=VIEWED, k=10, diversity=0.8, pin=pins)
        pinned, *others = explain(workers[1], answer)["items"]
        assert (pinned["id"], pinned["source"]) == ("item-5", "pinned")
        assert "place_before_diversity" not in pinned
        assert [item["place_before_diversity"] for item in others] == [plain.index(item["id"]) + 1 for item in others]
        assert [item["place_before_diversity"] for item in others] != list(range(1, 10))


class TestWhyNot:
    def test_each_rule_is_reported(self, bundles: Path, session_id: str) -> None:
        with opened(bundles) as client:
            client.delete("/v1/items/item-59")
            client.patch("/v1/items/new", json={}).raise_for_status()
            send(client, session_id, "item-8", "purchase")
            send(client, session_id, "item-6", "dislike")
            query = {"session_id": session_id, "exclude": ["item-4"], "k": 3}
            cheap = {"attribute": "price", "range": {"max": 30}}
            seen = recommend(client, **query, items=["item-7"], filter=cheap, exclude_seen=True)
            page = client.post(f"/v1/recommendations/{seen['recommendation_id']}/next").json()
            bought = recommend(client, **query, exclude_seen="purchased")
            expected = [
                (seen, "no-item", "unknown_item"),
                (seen, "item-59", "deleted"),
                (seen, UNAVAILABLE, "unavailable"),
                (seen, "new", "no_vector"),
                (seen, "item-40", "filtered"),
                (seen, "item-4", "excluded"),
                (seen, "item-6", "disliked"),
                (seen, "item-7", "seen"),
                (page, ids(seen)[0], "shown_before"),
                (page, "item-7", "seen"),
                (bought, "item-8", "purchased"),
                (bought, "item-4", "excluded"),
            ]
            for answer, item_id, reason in expected:
                missing = why_not(client, answer, item_id)
                assert missing.pop("condition", None) == ("filter" if reason == "filtered" else None)
                assert missing == {"reason": reason}
            shown = why_not(client, seen, ids(seen)[1])
            assert shown == {"reason": "shown", "rank": 2, "score": seen["items"][1]["score"]}
            assert {reason for _, _, reason in expected} == set(get_args(Reason)) - BY_SCORE

    def test_the_condition_that_a_filtered_item_fails_is_reported(self, bundles: Path) -> None:
        below = [{"attribute": "price", "range": {"max": price}} for price in (45, 35, 25)]
        with opened(bundles) as client:
            answer = recommend(client, items=["item-1"], filter={"and": [below[0], {"and": below[1:]}]})
            conditions = {
                item_id: why_not(client, answer, item_id)["condition"] for item_id in ("item-48", "item-40", "item-30")
            }
            assert conditions == {
                "item-48": "filter.and.0",
                "item-40": "filter.and.1.and.0",
                "item-30": "filter.and.1.and.1",
            }
            either = recommend(client, items=["item-1"], filter={"or": below})
            assert why_not(client, either, "item-48")["condition"] == "filter"

    def test_the_rank_and_score_of_an_outranked_item_are_reported(self, workers: list[TestClient]) -> None:
        boost = [{"filter": ACME, "factor": 3.0}]
        for options in ({}, {"boost": boost}, {"filter": CHEAP}, {"exclude_seen": True}):
            answer = recommend(workers[0], items=VIEWED, k=3, **options)
            full = recommend(workers[0], items=VIEWED, k=100, exact=True, **options)
            for item in full["items"][3:]:
                missing = why_not(workers[1], answer, item["id"])
                assert (missing["reason"], missing["rank"]) == ("outranked", item["rank"])
                assert missing["score"] == pytest.approx(item["score"], rel=1e-5)

    def test_diversity_is_the_reason_for_an_item_that_would_be_shown_without_it(
        self, workers: list[TestClient]
    ) -> None:
        answer = recommend(workers[0], items=VIEWED, k=8, diversity=1)
        plain = ids(recommend(workers[0], items=VIEWED, k=8))
        missing = [why_not(workers[1], answer, item) for item in plain if item not in ids(answer)]
        assert missing
        assert {entry["reason"] for entry in missing} == {"diversity"}
        assert all(entry["rank"] <= 8 for entry in missing)

    @pytest.mark.parametrize("items", [VIEWED, ["no-item"]])
    def test_pins_are_the_reason_for_an_item_that_would_be_shown_without_them(
        self, workers: list[TestClient], items: list[str]
    ) -> None:
        wait_until_popularity_settles(workers)
        plain = recommend(workers[0], items=items, k=8, exact=True)
        natural = ids(plain)
        first, second, third, low, lower = (natural[place] for place in (0, 1, 2, 6, 7))
        for pins, displaced in [
            ({1: low}, {third: [low]}),
            ({2: UNAVAILABLE, 3: low}, {third: [low]}),
            ({1: lower, 3: low}, {second: [lower, low], third: [lower, low]}),
            ({3: first}, {}),
            ({1: low, 2: first}, {third: [low]}),
            ({1: third, 2: low}, {second: [third, low]}),
        ]:
            pin = [{"id": item_id, "position": position} for position, item_id in pins.items()]
            answer = recommend(workers[0], items=items, k=3, exact=True, pin=pin)
            reasons = {item: why_not(workers[1], answer, item) for item in natural if item not in ids(answer)}
            assert reasons == {
                item["id"]: {"rank": item["rank"], "score": pytest.approx(item["score"], rel=1e-5)}
                | (
                    {"reason": "pin", "pins": displaced[item["id"]]}
                    if item["id"] in displaced
                    else {"reason": "outranked"}
                )
                for item in plain["items"]
                if item["id"] in reasons
            }
            assert displaced.keys() == set(natural[:3]) - set(ids(answer))

    def test_diversity_is_the_reason_for_an_item_that_would_be_shown_with_the_pins_alone(
        self, workers: list[TestClient]
    ) -> None:
        natural = ids(recommend(workers[0], items=VIEWED, k=20, exact=True))
        pins = [{"id": item, "position": position} for position, item in enumerate(natural[15:18], start=1)]
        answer = recommend(workers[0], items=VIEWED, k=8, diversity=1, pin=pins)
        missing = [why_not(workers[1], answer, item) for item in natural if item not in ids(answer)]
        expected = {rank: "diversity" if rank <= 5 else "pin" if rank <= 8 else "outranked" for rank in range(1, 21)}
        assert [entry["reason"] for entry in missing] == [expected[entry["rank"]] for entry in missing]
        assert {entry["reason"] for entry in missing} == {"diversity", "pin", "outranked"}

    def test_popular_answers_report_reasons_too(self, workers: list[TestClient]) -> None:
        answer = recommend(workers[0], items=["no-item"], k=3, filter=CHEAP)
        assert why_not(workers[1], answer, "item-40") == {"reason": "filtered", "condition": "filter"}
        assert why_not(workers[1], answer, "item-20")["reason"] == "outranked"

    @pytest.mark.parametrize("query", [{"why_not": ""}, {"why_not": "a\tb"}, {"why_not": "x" * 129}, {"other": "1"}])
    def test_an_invalid_query_is_refused(self, workers: list[TestClient], query: dict[str, str]) -> None:
        assert explanation_response(workers[0], recommend(workers[0], items=VIEWED), **query).status_code == 422


class TestGoneAnswers:
    def test_only_a_change_that_alters_the_answer_makes_it_gone(self, bundles: Path) -> None:
        with opened(bundles) as client:
            answer, filtered = (
                recommend(client, items=VIEWED, k=5),
                recommend(client, items=VIEWED, k=5, filter={"attribute": "price", "range": {"max": 50}}),
            )
            before = explain(client, answer)
            outside = next(item for item in ITEMS[:50] if item not in {*ids(answer), *ids(filtered), *VIEWED})
            client.patch(f"/v1/items/{outside}", json={"available": False})
            client.patch(f"/v1/items/{ids(answer)[0]}", json={"attributes": {"price": 49.0, "shade": "blue"}})
            assert explain(client, answer) == before
            assert shared_fields(explain(client, filtered)) == shared_fields(filtered)
            client.patch(f"/v1/items/{ids(answer)[1]}", json={"available": False})
            response = explanation_response(client, answer)
            assert problem(response) == GONE
            assert "catalog has changed" in response.json()["detail"]
            client.patch(f"/v1/items/{ids(answer)[1]}", json={"available": True})
            assert explain(client, answer) == before
            client.patch(f"/v1/items/{ids(filtered)[0]}", json={"attributes": {"price": 51.0}})
            assert problem(explanation_response(client, filtered)) == GONE
            client.delete(f"/v1/items/{ids(answer)[4]}")
            assert problem(explanation_response(client, answer)) == GONE

    def test_a_new_item_that_would_be_shown_makes_the_answer_gone(self, bundles: Path) -> None:
        with opened(bundles) as client:
            answer = recommend(client, items=["item-7"], k=5)
            client.patch("/v1/items/new", json={"similar_to": ["item-7"]})
            wait_until(lambda: "new" in ids(recommend(client, items=["item-7"], k=5)), 5)
            assert problem(explanation_response(client, answer)) == GONE

    def test_a_filter_on_a_removed_attribute_makes_the_answer_gone(self, bundles: Path) -> None:
        with opened(bundles) as client:
            client.patch("/v1/items/item-5", json={"attributes": {"hot": True}})
            hot = {"attribute": "hot", "equals": True}
            answer = recommend(client, items=VIEWED, filter=hot)
            popular = recommend(client, items=["no-item"], filter=hot)
            assert ids(answer) == ids(popular) == ["item-5"]
            client.patch("/v1/items/item-5", json={"attributes": {"hot": None}})
            assert problem(explanation_response(client, answer)) == GONE
            assert why_not(client, popular, "item-9") == {"reason": "filtered", "condition": "filter"}
            for earlier in (answer, popular):
                assert problem(client.post(f"/v1/recommendations/{earlier['recommendation_id']}/next")) == GONE

    def test_an_older_bundle_explains_its_answers_until_it_is_removed(self, tmp_path: Path, valkey: str) -> None:
        older = publish_shop(tmp_path)
        with opened(tmp_path, valkey, reload_interval=0.05, **UNHURRIED) as client:
            answer = recommend(client, items=VIEWED, k=5)
            popular = recommend(client, items=["no-item"], k=5)
            before = explain(client, answer, why_not="item-40")
            newer = publish_shop(tmp_path, seed=1)
            wait_until(lambda: get(client, "/v1/version")["bundle"] == newer)
            assert explain(client, answer, why_not="item-40") == before
            assert before["bundle"] == older
            assert ids(recommend(client, items=VIEWED, k=5)) != ids(answer)
            rmtree(tmp_path / older)
            for gone in (answer, popular):
                response = explanation_response(client, gone)
                assert problem(response) == GONE
                assert "bundle" in response.json()["detail"]
            assert recommend(client, items=VIEWED)["count"] == 20


class TestOneItemOfAQuery:
    def test_it_says_what_an_explanation_of_the_answer_says_and_stores_nothing(
        self, workers: list[TestClient], session_id: str
    ) -> None:
        send(workers[0], session_id, "item-3")
        query = {"session_id": session_id, "items": VIEWED, "k": 5, "diversity": 0.9, "filter": CHEAP}
        explained = {
            item_id: workers[0].post(f"/v1/items/{item_id}/explanation", json=query).raise_for_status().json()
            for item_id in ("no-item", UNAVAILABLE, "item-40", *(f"item-{number}" for number in range(1, 21)))
        }
        session = get(workers[0], f"/v1/sessions/{session_id}")
        assert [event["item_id"] for event in session["events"]] == ["item-3"]
        answer = recommend(workers[0], **query)
        for item_id, told in explained.items():
            expected = why_not(workers[0], answer, item_id)
            assert {name: told[name] for name in expected} == {
                name: pytest.approx(value) if name == "score" else value for name, value in expected.items()
            }
            assert told["session"] == ["item-3", *VIEWED]
        reasons = {told["reason"] for told in explained.values()}
        assert {"unknown_item", "unavailable", "filtered", "seen", "shown", "diversity", "outranked"} >= reasons
        assert {"unknown_item", "unavailable", "filtered", "shown", "diversity"} <= reasons
        assert "contributions" not in explained["no-item"]
        shown = explain(workers[0], answer)["items"][0]
        assert explained[shown["id"]]["contributions"] == [
            {**part, "contribution": pytest.approx(part["contribution"], abs=1e-5)} for part in shown["contributions"]
        ]
