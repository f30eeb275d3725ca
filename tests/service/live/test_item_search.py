"""Items are listed and found by texts and ids, as the live catalog has them now."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from onward.service.live import item_search
from onward.service.live.text_index import TextIndex
from tests.bundles import item_ids, publish_bundle
from tests.service.shop import get, ids, opened, problem

IDS = item_ids("item-", 30)
COLOURS = ("Blue", "Green", "Crème")
ATTRIBUTES: list[dict[str, Any]] = [
    {"title": f"{COLOURS[number % 3]} mug {number}", "tags": ["gift"] if number < 5 else [], "price": 1.0}
    for number in range(1, 31)
]
POPULARITY = np.arange(31, dtype=np.float32)
"""The last item is the most popular."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    publish_bundle(folder, IDS, attributes=ATTRIBUTES, popularity=POPULARITY)
    return folder


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with opened(folder) as client:
        yield client


def found(client: TestClient, query: str = "", **options: Any) -> list[str]:
    return ids(get(client, "/v1/items", query=query, **options))


def listed(client: TestClient, query: str = "", **options: Any) -> list[str]:
    """Return the items of all pages."""
    page = get(client, "/v1/items", query=query, **options)
    items = ids(page)
    while (cursor := page.get("next_cursor")) is not None:
        page = get(client, "/v1/items", query=query, cursor=cursor, **options)
        assert page["items"]
        items += ids(page)
    return items


def test_all_items_are_listed_page_by_page_most_popular_first(client: TestClient) -> None:
    assert found(client, limit=3) == ["item-30", "item-29", "item-28"]
    for limit in (1, 7, 30, 100):
        assert listed(client, limit=limit) == IDS[::-1]


def test_texts_are_found_by_their_words_whatever_their_case_and_accents(client: TestClient) -> None:
    assert found(client, "blue", limit=2) == ["item-30", "item-27"]
    assert found(client, "CREME mug 2") == ["item-29", "item-26", "item-23", "item-20", "item-2"]
    assert sorted(listed(client, "gif", limit=1)) == ["item-1", "item-2", "item-3", "item-4"]
    assert listed(client, "mug", limit=4) == IDS[::-1]
    assert found(client, "blue teapot") == []


def test_an_id_comes_first_and_its_beginning_finds_ids_where_no_text_does(client: TestClient) -> None:
    assert found(client, "item-7") == ["item-7"]
    assert listed(client, "item-2", limit=2) == ["item-2", *item_ids("item-", 30)[19:29]]
    assert found(client, '"*') == []


def test_what_was_changed_hidden_added_and_deleted_is_found_as_it_is_now(client: TestClient) -> None:
    assert found(client, "teapot") == []
    client.patch("/v1/items/item-9", json={"attributes": {"title": "Red teapot"}}).raise_for_status()
    client.patch("/v1/items/pot-new", json={"attributes": {"title": "Small teapot"}}).raise_for_status()
    client.patch("/v1/items/item-12", json={"available": False}).raise_for_status()
    client.delete("/v1/items/item-15").raise_for_status()
    assert found(client, "teapot") == ["item-9", "pot-new"]
    assert found(client, "pot-") == ["pot-new"]
    assert "item-9" not in found(client, "blue", limit=100)
    assert "item-15" not in listed(client) + found(client, "item-15") + found(client, "blue", limit=100)
    assert found(client)[-1] != "pot-new"
    assert listed(client, limit=9)[-1] == "pot-new"
    (hidden,) = [item for item in get(client, "/v1/items", query="item-12")["items"] if item["id"] == "item-12"]
    assert (hidden["available"], hidden["not_recommendable"]) == (False, "unavailable")
    assert listed(client, changed=True, limit=1) == ["item-12", "item-9", "pot-new"]
    assert found(client, "mug", changed=True) == ["item-12"]
    client.patch("/v1/items/item-9", json={"attributes": {"title": "Red jug"}}).raise_for_status()
    assert found(client, "teapot") == ["pot-new"]


def test_the_cursor_of_another_bundle_and_no_cursor_are_refused(folder: Path, tmp_path: Path) -> None:
    with opened(folder) as client:
        cursor = get(client, "/v1/items", limit=1)["next_cursor"]
    publish_bundle(tmp_path, IDS[:20])
    with opened(tmp_path) as client:
        for text in (cursor, "x", "WzFd", "é"):
            assert problem(client.get("/v1/items", params={"cursor": text})) == (422, "invalid_request")


def test_a_search_answers_before_its_index_is_built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_build = threading.Event()

    def built(*arguments: Any) -> TextIndex:
        may_build.wait()
        return TextIndex(*arguments)

    monkeypatch.setattr(item_search, "TextIndex", built)
    monkeypatch.setattr(item_search, "MAX_INDEX_WAIT_S", 0.01)
    with opened(folder) as client:
        page = get(client, "/v1/items", query="item-3")
        assert (ids(page), page["degraded"]) == (["item-3"], ["index"])
        assert get(client, "/v1/items", query="mug")["items"] == []
        assert found(client, limit=1) == ["item-30"]
        may_build.set()
        monkeypatch.setattr(item_search, "MAX_INDEX_WAIT_S", 30)
        assert len(found(client, "mug", limit=100)) == 30


async def test_an_index_is_not_built_before_it_is_needed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_search, "TextIndex", None)
    with opened(folder) as client:
        assert len(await asyncio.to_thread(listed, client)) == 30
