"""Fallbacks: sessions without known items, and a session store that is down or does not respond."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from starlette.testclient import TestClient

from onward.service.recommend.pipeline import MAX_BATCH
from onward.service.server.embedded_store import find_servers, run_server
from tests.service.process import wait_until
from tests.service.shop import (
    CHEAP,
    ITEMS,
    UNAVAILABLE,
    get,
    ids,
    opened,
    problem,
    recommend,
    send,
    sources,
)

VIEWED = ["item-7", "item-3"]
POPULAR = [item for item in ITEMS if item != UNAVAILABLE]
"""Available items, sorted by popularity in the bundle."""


class TestSessionsWithoutKnownItems:
    def test_an_unknown_session_gets_popular_items_and_is_not_degraded(self, bundles: Path) -> None:
        with opened(bundles) as client:
            for answer in (
                recommend(client, session_id="nobody", k=5),
                recommend(client, items=["no-item"], k=5),
                get(client, "/v1/sessions/nobody/recommendations", k=5),
            ):
                assert ids(answer) == POPULAR[:5]
                assert sources(answer) == {"popular"}
                assert answer["degraded"] == []
            assert ids(recommend(client, items=["no-item"], k=100, filter=CHEAP)) == POPULAR[:20]

    def test_a_session_of_a_new_item_gets_items_similar_to_it(self, bundles: Path) -> None:
        with opened(bundles) as client:
            client.patch("/v1/items/new", json={"similar_to": ["item-7"]})
            client.patch("/v1/items/newer", json={"similar_to": ["item-3"]})
            wait_until(lambda: get(client, "/v1/items/newer")["recommendable"], 5)
            answer = recommend(client, session_id="visitor", items=["new"], k=5)
            assert ids(answer) == ids(get(client, "/v1/items/new/similar", k=5))
            assert ids(answer)[0] == "item-7"
            assert sources(answer) == {"similar"}
            assert (answer["degraded"], answer["unknown_item_ids"]) == ([], [])
            newest = recommend(client, session_id="visitor", items=["newer", "no-item"], k=100)
            assert ids(newest)[0] == "item-3"  # similar to the last item with a vector
            assert "newer" not in ids(newest)
            assert set(ids(newest)) == {*POPULAR, "new"}
            explanation = get(client, f"/v1/recommendations/{newest['recommendation_id']}/explanation", why_not="newer")
            assert explanation["why_not"] == {"id": "newer", "reason": "seen"}
            assert sources(recommend(client, session_id="visitor", items=["item-9"], k=5)) == {"encoder"}

    def test_no_fallback_shows_ineligible_items(self, bundles: Path) -> None:
        with opened(bundles) as client:
            client.patch("/v1/items/new", json={"similar_to": ["item-7"]})
            client.delete("/v1/items/item-1")
            client.patch("/v1/items/item-2", json={"available": False})
            wait_until(lambda: get(client, "/v1/items/new")["recommendable"], 5)
            send(client, "visitor", "item-3", "dislike")
            for items in (["no-item"], ["new"], ["item-9"]):
                answer = recommend(client, session_id="visitor", items=items, k=100, exclude=["item-4"], store=False)
                ineligible = {"item-1", "item-2", "item-3", "item-4", UNAVAILABLE}
                assert ineligible.isdisjoint(ids(answer))
                assert set(POPULAR) - ineligible <= set(ids(answer))

    def test_a_session_with_only_a_disliked_item_gets_popular_items(self, bundles: Path) -> None:
        with opened(bundles) as client:
            send(client, "visitor", "item-9")
            assert sources(recommend(client, session_id="visitor", k=3)) == {"encoder"}
            send(client, "visitor", "item-9", "dislike")
            answer = recommend(client, session_id="visitor", k=100)
            assert sources(answer) == {"popular"}
            assert "item-9" not in ids(answer)

    def test_popular_items_follow_recent_purchases(self, bundles: Path) -> None:
        with opened(bundles) as client:
            for buyer in range(200):
                send(client, f"buyer-{buyer}", "item-50", "purchase")
            wait_until(lambda: ids(recommend(client, session_id="nobody", k=1)) == ["item-50"], 10)
            answer = recommend(client, session_id="nobody", k=1)
            explanation = get(
                client, f"/v1/recommendations/{answer['recommendation_id']}/explanation", why_not="item-1"
            )
            assert (explanation["why_not"]["reason"], explanation["why_not"]["rank"]) == ("outranked", 2)


@contextmanager
def failing_store(fault: signal.Signals) -> Iterator[tuple[str, Callable[..., None]]]:
    """Run a private server; yield its URL and a function that sends it the fault, or another signal."""
    with run_server(find_servers()[0]) as url:
        pid = int(Redis.from_url(url).info("server")["process_id"])
        try:
            yield url, lambda number=fault: os.kill(pid, number)
        finally:
            if fault == signal.SIGSTOP:
                os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_without_its_store_the_service_gives_degraded_answers(bundles: Path, fault: signal.Signals) -> None:
    with failing_store(fault) as (url, fail), opened(bundles, url) as client:
        client.put("/v1/scenarios/page", json={"k": 4})
        answer = recommend(client, session_id="visitor", items=VIEWED, k=3)
        position = answer["position"]
        client.patch("/v1/items/item-2", json={"available": False})
        wait_until(lambda: client.get(f"/v1/recommendations/{answer['recommendation_id']}/explanation").is_success, 5)
        fail()

        def is_degraded(answer: dict[str, Any], source: str) -> bool:
            return answer["degraded"] == ["session_store"] and sources(answer) == {source}

        full = {"session_id": "visitor", "items": VIEWED, "scenario": "page", "exclude": ["item-4"], "filter": CHEAP}
        by_items = recommend(client, **full)
        assert is_degraded(by_items, "encoder")
        assert ids(by_items) == ids(recommend(client, items=VIEWED, k=4, exclude=["item-4"], filter=CHEAP))
        assert is_degraded(recommend(client, session_id="visitor", position=position), "popular")
        assert is_degraded(get(client, "/v1/sessions/visitor/recommendations"), "popular")
        assert recommend(client, items=VIEWED)["degraded"] == []
        dry = recommend(client, session_id="visitor", items=VIEWED, dry_run=True)
        assert is_degraded(dry, "encoder")
        assert dry["explanation"]["session"] == VIEWED
        assert "item-2" not in ids(
            recommend(client, items=VIEWED, k=100)
        )  # live changes and scenarios remain in effect

        path = f"/v1/recommendations/{answer['recommendation_id']}"
        for refused in (client.post(f"{path}/next", json={}), client.get(f"{path}/explanation")):
            assert problem(refused) == (503, "session_store_unavailable")
        assert client.get("/health/ready").status_code == 200


def test_an_answer_takes_no_longer_than_its_request_allows(bundles: Path) -> None:
    with (
        failing_store(signal.SIGSTOP) as (url, fail),
        opened(bundles, url, store_timeout=timedelta(seconds=30)) as client,
    ):
        popular = ids(recommend(client, session_id="nobody", k=3))
        similar = ids(get(client, "/v1/items/item-3/similar", k=3))
        fail()
        query = {"session_id": "visitor", "k": 3, "timeout_ms": 30}
        assert (answer := recommend(client, **query))["degraded"] == ["deadline"]
        assert (ids(answer), sources(answer), answer.get("position")) == (popular, {"popular"}, None)
        answer = recommend(client, **query, items=["item-7", "item-3"], exclude_seen=False, dry_run=True)
        assert (ids(answer), sources(answer), answer["degraded"]) == (similar, {"similar"}, ["deadline"])
        assert "explanation" not in answer
        answer = get(client, "/v1/sessions/visitor/recommendations", timeout_ms=30)
        assert answer["degraded"] == ["deadline"]
        results = client.post("/v1/recommendations:batch", json={"requests": [query] * 3}).json()["results"]
        assert [result["recommendations"]["degraded"] for result in results] == [["deadline"]] * 3
        for wrong in (0, 60_001, 1.5, "30"):
            assert client.post("/v1/recommendations", json={**query, "timeout_ms": wrong}).status_code == 422


def failures(client: TestClient, store: str) -> float:
    """Return the number of failures of a store so far."""
    lines = client.get("/metrics").text.splitlines()
    metric = 'onward_store_failures_total{reason="'
    return sum(float(line.split()[-1]) for line in lines if line.startswith(metric) and f'store="{store}"' in line)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_batch_calls_a_failing_store_once_per_micro_batch(bundles: Path, fault: signal.Signals) -> None:
    of_one: list[dict[str, Any]] = [{"session_id": "visitor", "items": VIEWED, "k": 2}] * 40
    of_many: list[dict[str, Any]] = [{"session_id": f"visitor-{number}", "k": 2} for number in range(40)]
    with failing_store(fault) as (url, fail), opened(bundles, url) as client:
        fail()
        recommend(client, session_id="visitor")  # the call that finds the server gone
        for queries in (of_one, of_many):
            before = failures(client, "sessions")
            response = client.post("/v1/recommendations:batch", json={"requests": queries})
            answers = [result["recommendations"] for result in response.json()["results"]]
            assert [answer["degraded"] for answer in answers] == [["session_store"]] * 40
            assert failures(client, "sessions") - before == ceil(40 / MAX_BATCH)
        mixed = [of_one[0], {"items": VIEWED}, {"k": 0}, {"session_id": "x", "position": "a-1"}]
        results = client.post("/v1/recommendations:batch", json={"requests": mixed}).json()["results"]
        assert [result["status"] for result in results] == [200, 200, 422, 200]
        assert results[1]["recommendations"]["degraded"] == []


def test_sessions_continue_once_the_store_is_back(bundles: Path) -> None:
    with failing_store(signal.SIGSTOP) as (url, fail), opened(bundles, url) as client:
        position = send(client, "visitor", "item-9")["position"]
        fail()
        assert recommend(client, session_id="visitor")["degraded"] == ["session_store"]
        fail(signal.SIGCONT)
        wait_until(lambda: recommend(client, session_id="visitor")["degraded"] == [], 10)
        answer = recommend(client, session_id="visitor", position=position, k=3)
        assert ids(answer) == ids(recommend(client, items=["item-9"], k=3))
