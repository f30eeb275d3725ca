"""Next pages: no item repeats, until all items are shown or the answer has expired."""

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from onward.bundle import Bundle
from onward.service.recommend import retrieval
from onward.service.records.answer_log import AnswerLog
from onward.service.records.answers import MAX_PAGES
from onward.service.settings import IN_MEMORY
from tests.bundles import item_ids, publish_bundle
from tests.service.process import wait_until
from tests.service.shop import (
    ATTRIBUTES,
    CHEAP,
    ITEMS,
    UNAVAILABLE,
    UNHURRIED,
    get,
    ids,
    opened,
    problem,
    publish_shop,
    recommend,
    send,
    sources,
)

SHOWN = set(ITEMS) - {UNAVAILABLE}
VIEWED = ["item-7", "item-3"]
NOT_FOUND = (404, "recommendation_not_found")


@pytest.fixture(scope="module", params=["memory", "redis"])
def workers(request: pytest.FixtureRequest, bundles: Path, valkey: str) -> Iterator[list[TestClient]]:
    """Two workers on one store; in memory the same single worker twice."""
    if request.param == "memory":
        with opened(bundles, IN_MEMORY) as client:
            yield [client, client]
    else:
        with opened(bundles, valkey, **UNHURRIED) as worker, opened(bundles, valkey, **UNHURRIED) as other_worker:
            yield [worker, other_worker]


def next_response(client: TestClient, answer: dict[str, Any], **body: Any) -> Any:
    return client.post(f"/v1/recommendations/{answer['recommendation_id']}/next", json=body)


def next_page(client: TestClient, answer: dict[str, Any], **body: Any) -> dict[str, Any]:
    response = next_response(client, answer, **body)
    assert response.status_code == 200, response.text
    page: dict[str, Any] = response.json()
    return page


def all_pages(clients: list[TestClient], answer: dict[str, Any], **body: Any) -> list[dict[str, Any]]:
    """Return the answer and its pages up to an empty one, alternating workers and using the last page's id."""
    pages = [answer]
    for client in itertools.cycle(clients):
        pages.append(next_page(client, pages[-1], **body))
        if pages[-1]["count"] == 0:
            return pages
    raise AssertionError


@pytest.mark.parametrize("with_session", [True, False])
def test_pages_show_every_item_once_in_the_order_of_one_long_answer(
    workers: list[TestClient], session_id: str, *, with_session: bool
) -> None:
    query: dict[str, Any] = {"items": VIEWED} | ({"session_id": session_id} if with_session else {})
    pages = all_pages(workers, recommend(workers[0], **query, k=7))
    full = recommend(workers[0], items=VIEWED, k=100, exact=True)
    assert [item for page in pages for item in ids(page)] == ids(full)
    assert [page["count"] for page in pages] == [7] * 8 + [3, 0]
    assert [page["filter"]["eligible"] for page in pages] == [59, *range(52, 0, -7), 0]
    assert len({page["recommendation_id"] for page in pages}) == len(pages)


def test_pages_of_one_item_cover_all_items(workers: list[TestClient]) -> None:
    pages = all_pages(workers, recommend(workers[0], items=VIEWED, k=1))
    shown = [item for page in pages for item in ids(page)]
    assert len(shown) == len(SHOWN)
    assert set(shown) == SHOWN


def test_the_id_of_any_page_gives_the_page_after_the_last(workers: list[TestClient]) -> None:
    first = recommend(workers[0], items=VIEWED, k=3)
    second = next_page(workers[1], first)
    others = [next_page(workers[number % 2], first if number % 2 else second, k=4) for number in range(4)]
    shown = [item for page in (first, second, *others) for item in ids(page)]
    assert shown == ids(recommend(workers[0], items=VIEWED, k=22, exact=True))


def test_next_pages_use_the_options_of_the_answer_except_pins(workers: list[TestClient], session_id: str) -> None:
    worker = workers[0]
    worker.put("/v1/scenarios/pages", json={"filter": CHEAP, "variant": "b"})
    send(worker, session_id, "item-9", "purchase")
    send(worker, session_id, "item-8", "dislike")
    query = {
        "session_id": session_id,
        "scenario": "pages",
        "exclude_seen": "purchased",
        "boost": [{"filter": {"attribute": "brand", "equals": "acme"}, "factor": 100.0}],
    }
    pin = [{"id": "item-20", "position": 1}]
    first = recommend(worker, **query, items=VIEWED, k=3, exclude=["item-4"], pin=pin)
    full = recommend(worker, **query, k=100, exclude=["item-4", "item-20"])
    pages = all_pages(workers, first)
    shown = [item for page in pages for item in ids(page)]
    cheap = {item for item, attributes in zip(ITEMS, ATTRIBUTES, strict=True) if attributes["price"] <= 20}
    assert sorted(shown) == sorted(cheap - {"item-9", "item-8", "item-4"})
    assert sources(first) == {"encoder", "pinned"}
    assert {source for page in pages[1:] for source in sources(page)} == {"encoder"}
    assert shown == ["item-20", *ids(full)]
    assert {page["variant"] for page in pages} == {"b"}
    assert {page["scenario"]["name"] for page in pages} == {"pages"}


def test_popular_items_have_next_pages_too(workers: list[TestClient]) -> None:
    pages = all_pages(workers, recommend(workers[0], items=["no-item"], k=25))
    shown = [item for page in pages for item in ids(page)]
    assert len(shown) == len(SHOWN)
    assert set(shown) == SHOWN
    assert {source for page in pages for source in sources(page)} == {"popular"}


def test_concurrent_callers_never_get_the_same_item(workers: list[TestClient], session_id: str) -> None:
    first = recommend(workers[0], session_id=session_id, items=VIEWED, k=3)
    with ThreadPoolExecutor(12) as callers:
        pages = list(callers.map(lambda number: next_page(workers[number % 2], first), range(12)))
    shown = [item for page in (first, *pages) for item in ids(page)]
    assert len(shown) == 3 * 13
    assert len(set(shown)) == len(shown)


def test_a_page_reflects_changes_of_the_catalog(workers: list[TestClient]) -> None:
    worker = workers[0]
    first = recommend(worker, items=VIEWED, k=50)
    gone = min(SHOWN - set(ids(first)))
    worker.patch(f"/v1/items/{gone}", json={"available": False})
    try:
        assert set(ids(next_page(worker, first))) == SHOWN - set(ids(first)) - {gone}
    finally:
        worker.patch(f"/v1/items/{gone}", json={"available": True})
        for each in workers:
            wait_until(lambda each=each: gone in ids(recommend(each, items=["no-item"], k=len(SHOWN))))


def test_a_page_without_the_time_for_a_search_has_other_items_in_time(
    workers: list[TestClient], session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = recommend(workers[0], session_id=session_id, items=VIEWED, k=3)
    may_go_on = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(retrieval, "is_short", lambda *_, **__: False)
        patch.setattr(Bundle, "retrieve", lambda *_, **__: may_go_on.wait(60))
        late = next_page(workers[0], answer, timeout_ms=200)
        may_go_on.set()
    assert late["degraded"] == ["deadline"]
    assert set(sources(late)) <= {"similar", "popular"}
    after = next_page(workers[1], late, k=60)
    assert after["degraded"] == []
    assert SHOWN - {*ids(answer), *ids(late), *ids(after)} == set()
    assert not {*ids(answer)} & {*ids(late)}
    assert not {*ids(answer), *ids(late)} & {*ids(after)}


def test_a_page_for_which_the_store_takes_too_long_is_refused_in_time(
    workers: list[TestClient], session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = recommend(workers[0], session_id=session_id, items=VIEWED, k=3)

    async def hang(*_: Any) -> Any:
        await asyncio.sleep(60)

    monkeypatch.setattr(AnswerLog, "pages", hang)
    assert problem(next_response(workers[0], answer, timeout_ms=50)) == (503, "session_store_unavailable")


def test_a_deleted_session_has_no_pages(workers: list[TestClient], session_id: str) -> None:
    worker, other_worker = workers
    first = recommend(worker, session_id=session_id, items=VIEWED, k=3)
    page = next_page(other_worker, first)
    unwritten = recommend(worker, session_id=session_id, k=3)
    worker.delete(f"/v1/sessions/{session_id}")
    for answer in (first, page, unwritten):
        assert problem(next_response(other_worker, answer)) == NOT_FOUND
        gone = worker.get(f"/v1/recommendations/{answer['recommendation_id']}/explanation")
        assert problem(gone) == NOT_FOUND


def test_an_unknown_answer_has_no_pages(workers: list[TestClient]) -> None:
    made_up = recommend(workers[0], items=VIEWED)["recommendation_id"][:-4] + "zzzz"
    for name in ("x", "0" * 48, made_up):
        assert problem(next_response(workers[0], {"recommendation_id": name})) == NOT_FOUND


@pytest.mark.parametrize("body", [{"k": 0}, {"k": 101}, {"k": 5, "items": []}, [], None, "x"])
def test_the_body_is_optional_and_an_invalid_one_is_refused(workers: list[TestClient], body: Any) -> None:
    answer = recommend(workers[0], items=VIEWED, k=2)
    path = f"/v1/recommendations/{answer['recommendation_id']}/next"
    if body is None:
        assert workers[0].post(path).json()["count"] == 2
    else:
        assert workers[0].post(path, json=body).status_code == 422


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_an_answer_expires_after_its_time_to_live(bundles: Path, valkey: str, kind: str, session_id: str) -> None:
    with opened(bundles, IN_MEMORY if kind == "memory" else valkey, answer_ttl=1, **UNHURRIED) as client:
        answers = [recommend(client, items=VIEWED), recommend(client, session_id=session_id, items=VIEWED)]
        assert [next_response(client, answer).status_code for answer in answers] == [200, 200]
        time.sleep(1.1)
        assert [problem(next_response(client, answer)) for answer in answers] == [NOT_FOUND] * 2


def test_a_service_that_stores_no_answers_has_no_pages(bundles: Path) -> None:
    with opened(bundles, answer_ttl=0) as client:
        assert problem(next_response(client, recommend(client, items=VIEWED))) == NOT_FOUND


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_pages_of_more_than_1000_items_do_not_repeat_and_are_limited_in_number(
    tmp_path: Path, valkey: str, kind: str
) -> None:
    many = item_ids("item-", 1_250)
    publish_bundle(tmp_path, many)
    with opened(tmp_path, IN_MEMORY if kind == "memory" else valkey, **UNHURRIED) as client:
        pages = all_pages([client], recommend(client, items=VIEWED, k=100))
        shown = [item for page in pages for item in ids(page)]
        assert len(shown) == len(many)
        assert set(shown) == set(many)
        last = recommend(client, items=VIEWED, k=1)
        for _ in range(MAX_PAGES - 1):
            last = next_page(client, last)
        assert problem(next_response(client, last)) == (409, "limit_reached")


def test_a_page_comes_from_the_live_bundle(tmp_path: Path) -> None:
    publish_shop(tmp_path)
    with opened(tmp_path, reload_interval=0.05) as client:
        first = recommend(client, items=VIEWED, k=30)
        digest = publish_shop(tmp_path, seed=1)
        wait_until(lambda: get(client, "/v1/version")["bundle"] == digest)
        page = next_page(client, first, k=100)
        assert page["bundle"] == digest
        assert set(ids(page)) == SHOWN - set(ids(first))
