"""A bundle with nearest sessions is served like any other: options, live items, explanations and why not."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.service.process import wait_until
from tests.service.shop import CHEAP, ids, opened, publish_shop, recommend, sources

PAST = [[7, 8, 30]] * 20 + [[9, 10]] * 20 + [[row, row + 1] for row in range(11, 40)]
"""After item 7 all past sessions have 8 and 30."""


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    publish_shop(tmp_path, past_sessions=PAST, interests=1, session_weight=3.0)
    with opened(tmp_path) as client:
        yield client


def test_past_sessions_decide_what_comes_next(client: TestClient) -> None:
    answer = recommend(client, items=["item-7"], k=10, exclude_seen=True)
    assert set(ids(answer)[:2]) == {"item-8", "item-30"}
    assert (len(ids(answer)), sources(answer)) == (10, {"encoder"})
    filtered = recommend(client, items=["item-7"], k=10, exclude_seen=True, filter=CHEAP)
    assert ids(filtered)[0] == "item-8"
    assert "item-30" not in ids(filtered)
    assert len(ids(filtered)) == 10


def test_a_new_item_gets_the_votes_for_the_item_it_is_like(client: TestClient) -> None:
    assert client.patch("/v1/items/new", json={"similar_to": ["item-8"]}).status_code == 200
    wait_until(lambda: "new" in ids(recommend(client, items=["item-7"], k=4, exclude_seen=True)))
    assert client.patch("/v1/items/item-8", json={"available": False}).status_code == 200
    wait_until(lambda: "item-8" not in ids(recommend(client, items=["item-7"], k=4, exclude_seen=True)))
    assert "new" in ids(recommend(client, items=["item-7"], k=4, exclude_seen=True))


def test_answers_are_explained_by_their_events(client: TestClient) -> None:
    answer = recommend(client, session_id="visitor", items=["item-15", "item-7"], k=10, exclude_seen=True)
    path = f"/v1/recommendations/{answer['recommendation_id']}/explanation"
    wait_until(lambda: client.get(path).status_code == 200)
    explained = {item["id"]: item for item in client.get(path).json()["items"]}
    assert explained["item-30"]["contributions"][0]["item_id"] == "item-7"
    missing = client.get(path, params={"why_not": "item-10"}).json()["why_not"]
    assert missing["reason"] in ("outranked", "shown")
