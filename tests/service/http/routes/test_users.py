"""Recommendations for requests that name a user."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.bundles import item_ids, publish_bundle
from tests.service.shop import ids, opened, recommend

ITEMS, USERS = item_ids("item-", 50), item_ids("user-", 3)


@pytest.fixture(scope="module")
def with_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The whole service in this process, with a bundle that has user vectors."""
    bundles = tmp_path_factory.mktemp("bundles")
    publish_bundle(bundles, ITEMS, users=USERS)
    with opened(bundles) as client:
        yield client


def test_the_answer_says_whether_the_user_is_known(with_users: TestClient) -> None:
    anonymous = recommend(with_users, items=["item-1"])
    known = recommend(with_users, items=["item-1"], user_id="user-2")
    unknown = recommend(with_users, items=["item-1"], user_id="somebody")
    assert "user" not in anonymous
    assert (known["user"], unknown["user"]) == ("known", "unknown")
    assert ids(unknown) == ids(anonymous) != ids(known)


def test_a_known_user_suffices_without_a_session(with_users: TestClient) -> None:
    known, unknown = recommend(with_users, user_id="user-1", k=5), recommend(with_users, user_id="somebody", k=5)
    assert {item["source"] for item in known["items"]} == {"encoder"}
    assert {item["source"] for item in unknown["items"]} == {"popular"}


def test_recommendations_for_a_stored_session_take_the_user_into_account(with_users: TestClient) -> None:
    recommend(with_users, session_id="visitor-1", items=["item-1", "item-2"])
    answer = with_users.get("/v1/sessions/visitor-1/recommendations", params={"user_id": "user-3", "k": 5}).json()
    assert answer["user"] == "known"
    assert ids(answer) == ids(recommend(with_users, items=["item-1", "item-2"], user_id="user-3", k=5))


def test_an_encoder_of_sessions_alone_ignores_the_user(client: TestClient) -> None:
    assert "user" not in recommend(client, items=["item-1"], user_id="user-1")
    assert {item["source"] for item in recommend(client, user_id="user-1")["items"]} == {"popular"}


@pytest.mark.parametrize("user_id", ["", "two\nlines", "x" * 129, 7])
def test_an_invalid_user_id_is_refused(with_users: TestClient, user_id: Any) -> None:
    response = with_users.post("/v1/recommendations", json={"items": ["item-1"], "user_id": user_id})
    assert (response.status_code, response.json()["errors"][0]["at"]) == (422, "body.user_id")


def test_a_request_without_session_items_and_user_is_refused(with_users: TestClient) -> None:
    response = with_users.post("/v1/recommendations", json={"k": 5})
    assert response.status_code == 422
    assert "give session_id, items, user_id or a combination" in response.json()["errors"][0]["message"]
