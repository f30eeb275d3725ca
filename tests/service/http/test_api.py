"""The answers of the endpoints, called in this process."""

import itertools
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from tests.service.conftest import ITEMS
from tests.service.shop import get, ids, recommend, scores

numbers = itertools.count()
ID_LIMIT = "x" * 128


@pytest.fixture
def session_id() -> str:
    return f"visitor-{next(numbers)}"


class TestRecommendations:
    def test_the_answer_to_items_is_ranked_and_names_its_bundle(self, client: TestClient) -> None:
        answer = recommend(client, items=["item-1", "item-2"], k=5)
        assert answer["count"] == len(answer["items"]) == 5
        assert [item["rank"] for item in answer["items"]] == [1, 2, 3, 4, 5]
        assert scores(answer) == sorted(scores(answer), reverse=True)
        assert {item["source"] for item in answer["items"]} == {"encoder"}
        assert {item["interest"] for item in answer["items"]} <= {0, 1}
        assert answer["bundle"] == get(client, "/v1/version")["bundle"]
        assert answer["degraded"] == answer["unknown_item_ids"] == []
        assert "session_id" not in answer

    def test_k_defaults_to_20(self, client: TestClient) -> None:
        assert recommend(client, items=["item-1"])["count"] == 20

    def test_an_answer_is_shorter_if_fewer_items_are_eligible(self, client: TestClient) -> None:
        assert recommend(client, items=["item-1"], k=100, exclude=ITEMS[10:])["count"] == 10

    def test_items_with_attributes_are_returned_with_them(self, client: TestClient) -> None:
        items = {item["id"]: item for item in recommend(client, items=["item-1"], k=50)["items"]}
        assert items["item-1"]["attributes"] == {"title": "Item 1", "price": None}
        assert "attributes" not in items["item-2"]

    def test_excluded_and_seen_items_are_not_recommended(self, client: TestClient) -> None:
        answer = recommend(client, items=["item-1", "item-2"], k=100, exclude=["item-3", "no-item"], exclude_seen=True)
        assert sorted(ids(answer)) == sorted(set(ITEMS) - {"item-1", "item-2", "item-3"})
        assert "item-1" in ids(recommend(client, items=["item-1"], k=100))

    def test_items_of_a_session_are_stored_before_the_answer(self, client: TestClient, session_id: str) -> None:
        first = recommend(client, session_id=session_id, items=["item-1", "item-2"])
        second = recommend(client, session_id=session_id, items=["item-3"])
        assert ids(first) == ids(recommend(client, items=["item-1", "item-2"]))
        assert ids(second) == ids(recommend(client, items=["item-1", "item-2", "item-3"]))
        assert second["session_id"] == session_id
        assert first["recommendation_id"] != second["recommendation_id"]

    def test_a_stored_session_has_a_recommendations_endpoint(self, client: TestClient, session_id: str) -> None:
        recommend(client, session_id=session_id, items=["item-1"])
        answer = get(
            client,
            f"/v1/sessions/{session_id}/recommendations",
            k=3,
            exclude=["item-4", "item-5"],
            exclude_seen=True,
        )
        expected = recommend(client, items=["item-1"], k=3, exclude=["item-4", "item-5"], exclude_seen=True)
        assert ids(answer) == ids(expected)
        assert scores(answer) == pytest.approx(scores(expected))

    def test_a_session_without_known_items_gets_popular_items(self, client: TestClient, session_id: str) -> None:
        by_path = get(client, f"/v1/sessions/{session_id}/recommendations", k=3)
        by_unknown_items = recommend(client, items=["x", "y"], k=3)
        assert ids(by_path) == ids(by_unknown_items) == ["item-1", "item-2", "item-3"]
        assert {item["source"] for item in by_path["items"]} == {"popular"}
        assert by_unknown_items["unknown_item_ids"] == ["x", "y"]
        assert by_unknown_items["degraded"] == []

    def test_server_timing_reports_the_stages_of_an_answer(self, client: TestClient, session_id: str) -> None:
        timing = client.post("/v1/recommendations", json={"session_id": session_id}).headers["server-timing"]
        assert [stage.split(";dur=")[0] for stage in timing.split(", ")] == ["store", "retrieval", "total"]
        assert all(float(stage.split(";dur=")[1]) >= 0 for stage in timing.split(", "))


class TestSessions:
    def test_a_session_can_be_deleted(self, client: TestClient, session_id: str) -> None:
        recommend(client, session_id=session_id, items=["item-1"])
        for _ in range(2):
            response = client.delete(f"/v1/sessions/{session_id}")
            assert (response.status_code, response.content) == (204, b"")
        assert client.get(f"/v1/sessions/{session_id}").status_code == 404

    @pytest.mark.parametrize(
        "odd_id",
        [
            ID_LIMIT,
            "a/b",
            "a%2Fb",
            "a%252fb",
            "100%",
            "a/recommendations",
            "a:merge",
            "a?b#c",
            "{x}:*",
            "ïd",
            "日本",
            "😀",
            "a+b&c=d",
        ],
    )
    def test_every_valid_id_can_be_used_in_a_path(self, client: TestClient, odd_id: str) -> None:
        recommend(client, session_id=odd_id, items=[odd_id])
        session = get(client, f"/v1/sessions/{quote(odd_id, safe='')}")
        assert (session["session_id"], session["events"][-1]["item_id"]) == (odd_id, odd_id)
        assert client.delete(f"/v1/sessions/{quote(odd_id, safe='')}").status_code == 204


class TestItems:
    def test_similar_items_do_not_include_the_item_itself(self, client: TestClient) -> None:
        answer = get(client, "/v1/items/item-5/similar", k=100, exclude=["item-6"])
        assert sorted(ids(answer)) == sorted(set(ITEMS) - {"item-5", "item-6"})
        assert {item["source"] for item in answer["items"]} == {"similar"}

    def test_popular_items_are_sorted_by_popularity(self, client: TestClient) -> None:
        assert ids(get(client, "/v1/items:popular", k=3, exclude="item-2")) == ["item-1", "item-3", "item-4"]

    def test_similar_items_of_an_unknown_item_are_not_found(self, client: TestClient) -> None:
        response = client.get("/v1/items/nothing/similar")
        assert (response.status_code, response.json()["code"]) == (404, "item_not_found")


class TestOperations:
    def test_readiness_names_the_live_bundle(self, client: TestClient) -> None:
        assert get(client, "/health/live") == {"status": "live"}
        assert get(client, "/health/ready") == {"status": "ready", "bundle": get(client, "/v1/version")["bundle"]}

    def test_the_version_includes_the_metrics_of_the_manifest(self, client: TestClient) -> None:
        version = get(client, "/v1/version")
        assert (version["model"], version["items"], version["metrics"]) == ("mean", 50, {"recall@20": 0.5})

    def test_metrics_count_requests_by_route_template(self, client: TestClient) -> None:
        client.get("/v1/sessions/someone-secret")
        client.get("/wp-admin/secret")
        text = client.get("/metrics").text
        assert 'onward_requests_total{method="GET",route="/v1/sessions/{session_id}",status="404"}' in text
        assert 'route="unmatched",status="404"' in text
        assert "onward_retrieval_seconds_bucket" in text
        assert "secret" not in text

    def test_a_valid_request_id_is_kept_and_an_invalid_one_replaced(self, client: TestClient) -> None:
        kept = client.get("/health/live", headers={"X-Request-ID": "trace-1.a_B"})
        assert kept.headers["x-request-id"] == "trace-1.a_B"
        for invalid in ("a b", "x" * 65, "", 'a"b', "a;b"):
            replaced = client.get("/health/live", headers={"X-Request-ID": invalid})
            assert replaced.headers["x-request-id"] != invalid
            assert replaced.headers["x-request-id"].isalnum()

    def test_a_problem_document_has_the_request_id(self, client: TestClient) -> None:
        response = client.get("/nowhere", headers={"X-Request-ID": "trace-2"})
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json() == {
            "type": "/problems/not_found",
            "title": "Not Found",
            "status": 404,
            "detail": "No endpoint has this path; see /docs.",
            "code": "not_found",
            "request_id": "trace-2",
        }
