"""A session is listed by a key, and shown with every answer that it got, each computed again by its bundle."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from onward.bundle import current_digest
from onward.service.sessions import session_digest
from onward.service.settings import IN_MEMORY
from tests.bundles import publish_bundle
from tests.service.process import wait_until
from tests.service.shop import ITEMS, UNHURRIED, get, ids, opened, problem, publish_shop, recommend, send


@pytest.fixture(params=["memory", "redis"])
def url(request: pytest.FixtureRequest, valkey: str) -> str:
    return IN_MEMORY if request.param == "memory" else valkey


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    publish_shop(tmp_path)
    return tmp_path


@pytest.fixture
def client(folder: Path, url: str) -> Iterator[TestClient]:
    with opened(folder, url, **UNHURRIED) as client:
        yield client


def history(client: TestClient, session_id: str, **query: Any) -> dict[str, Any]:
    return get(client, f"/v1/sessions/{session_id}/history", **query)


def keys(client: TestClient) -> dict[str, dict[str, Any]]:
    page = get(client, "/v1/sessions", limit=100)
    sessions = page["sessions"]
    while "next_cursor" in page:
        page = get(client, "/v1/sessions", limit=100, cursor=page["next_cursor"])
        sessions += page["sessions"]
    return {session["key"]: session for session in sessions}


def test_a_session_is_shown_with_its_answers_by_its_id_and_by_its_key(client: TestClient, folder: Path) -> None:
    name = f"visitor {folder.name}"
    send(client, name, "item-3")
    first = recommend(client, session_id=name, items=["item-5"], k=3, variant="b")
    second = recommend(client, session_id=name, k=2, exclude=["item-9"])
    more = client.post(f"/v1/recommendations/{second['recommendation_id']}/next").json()
    listed = keys(client)[session_digest(name)]
    assert (listed["applied"], listed["last_event"]["item_id"]) == (2, "item-5")

    shown = history(client, name, replay=True)
    assert shown == history(client, listed["key"], by="key", replay=True)
    assert [event["item_id"] for event in shown["events"]] == ["item-3", "item-5"]
    newest, oldest = shown["answers"]
    assert [answer["recommendation_id"] for answer in (newest, oldest)] == [
        second["recommendation_id"],
        first["recommendation_id"],
    ]
    assert ids(oldest) == ids(first)
    assert (newest["pages"], ids(newest)) == (2, ids(second) + ids(more))
    assert (oldest["variant"], oldest["options"]["k"], newest["options"]["exclude"]) == ("b", 3, ["item-9"])
    assert (oldest["session"], oldest["bundle"]) == (["item-3", "item-5"], current_digest(folder))
    assert [answer["replay"] for answer in shown["answers"]] == [{"status": "same"}] * 2
    assert len(history(client, name, limit=1)["answers"]) == 1
    assert get(client, f"/v1/recommendations/{newest['recommendation_id']}/explanation")["items"]


def test_a_replay_says_what_changed(client: TestClient, folder: Path) -> None:
    name = f"visitor {folder.name}"
    popular = recommend(client, session_id=name, k=2)
    answer = recommend(client, session_id=name, items=["item-5"], k=3)
    client.patch(f"/v1/items/{ids(answer)[0]}", json={"available": False}).raise_for_status()
    newest, oldest = history(client, name, replay=True)["answers"]
    assert newest["replay"]["status"] == "changed"
    assert ids(newest["replay"])[:2] == ids(answer)[1:]
    assert (ids(oldest), oldest["replay"]) == (ids(popular), {"status": "not_repeatable"})
    client.patch(f"/v1/items/{ids(answer)[0]}", json={"available": True}).raise_for_status()

    before = str(current_digest(folder))
    live = publish_bundle(folder, ITEMS)
    wait_until(lambda: get(client, "/v1/version")["bundle"] == live)
    assert history(client, name, replay=True)["answers"][0]["replay"] == {"status": "same"}
    shutil.rmtree(folder / before)
    assert history(client, name, replay=True)["answers"][0]["replay"] == {"status": "bundle_removed"}


def test_a_session_is_erased_by_its_key(client: TestClient, folder: Path) -> None:
    name = f"visitor {folder.name}"
    answer = recommend(client, session_id=name, items=["item-5"])
    key = session_digest(name)
    assert client.delete(f"/v1/sessions/{key}", params={"by": "key"}).status_code == 204
    assert key not in keys(client)
    assert problem(client.get(f"/v1/sessions/{name}/history")) == (404, "session_not_found")
    explanation = client.get(f"/v1/recommendations/{answer['recommendation_id']}/explanation")
    assert problem(explanation) == (404, "recommendation_not_found")


def test_a_cursor_that_is_none_is_refused(client: TestClient) -> None:
    assert problem(client.get("/v1/sessions", params={"cursor": "x"})) == (422, "invalid_request")
