"""Figures of operation, recall and exposure, over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from onward.service import worker_metrics
from onward.service.recommend import recall_meter
from tests.bundles import item_ids, publish_bundle
from tests.service.process import wait_until
from tests.service.shop import get, ids, opened, problem, recommend

IDS = item_ids("item-", 40)
POPULARITY = np.arange(40, -1, -1, dtype=np.float32)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(worker_metrics, "FIRST_WINDOW_S", 0.0)
    monkeypatch.setattr(worker_metrics, "MIN_AGE_S", 0.0)
    monkeypatch.setattr(recall_meter, "MAX_LAG_S", 60.0)
    available = np.arange(41) != 40
    publish_bundle(tmp_path, IDS, popularity=POPULARITY, available=available)
    with opened(tmp_path, recall_sample=1) as client:
        yield client


def test_figures_of_the_last_seconds_are_reported_by_worker_and_together(client: TestClient) -> None:
    get(client, "/v1/metrics/live")
    for _ in range(20):
        recommend(client, items=["item-1"], k=5)
    wait_until(lambda: get(client, "/v1/metrics/live", window=60)["total"]["recall"]["answers"] > 0)
    figures = get(client, "/v1/metrics/live", window=60)
    (worker,) = figures["workers"]
    assert worker.pop("pid")
    assert worker == figures["total"]
    route = next(route for route in figures["routes"] if route["route"] == "/v1/recommendations")
    assert route["requests"] * figures["seconds"] == pytest.approx(20)
    assert 0 < route["p50_ms"] <= route["p95_ms"] <= route["p99_ms"]
    assert figures["bundle"] == get(client, "/v1/version")["bundle"]
    recall = figures["total"]["recall"]
    assert (recall["value"], recall["high"]) == (1.0, pytest.approx(1.0))
    assert 0 < recall["low"] < 1
    assert figures["total"]["refused"] == figures["total"]["degraded"] == {}
    for window in ("0", "61", "x"):
        assert problem(client.get("/v1/metrics/live", params={"window": window})) == (422, "invalid_request")


def test_a_service_that_keeps_its_answers_exact_can_turn_the_comparison_off(tmp_path: Path) -> None:
    publish_bundle(tmp_path, IDS)
    with opened(tmp_path, recall_sample=0) as client:
        recommend(client, items=["item-1"])
        recall = get(client, "/v1/metrics/live")["total"]["recall"]
        assert recall == {"answers": 0, "low": 0.0, "high": 1.0}


def test_items_that_nobody_saw_are_listed_and_counted(client: TestClient) -> None:
    before = get(client, "/v1/metrics/exposure")
    assert (before["items"], before["shown"], before["coverage"]) == (39, 0, 0.0)
    page = get(client, "/v1/items:unseen", limit=2)
    assert (ids(page), page["count"]) == (["item-1", "item-2"], 39)

    answer = recommend(client, items=["item-3"], k=6)
    following = client.post(f"/v1/recommendations/{answer['recommendation_id']}/next").json()
    shown = {*ids(answer), *ids(following)}
    wait_until(lambda: get(client, "/v1/metrics/exposure")["shown"] == len(shown))
    exposure = get(client, "/v1/metrics/exposure")
    assert exposure["coverage"] == pytest.approx(len(shown) / 39)
    tenths = exposure["tenths"]
    assert [tenth["items"] for tenth in tenths] == [4] * 9 + [3]
    for number, tenth in enumerate(tenths):
        own = shown & {*IDS[4 * number : 4 * number + 4]}
        assert (tenth["shown"], tenth["impressions"]) == (len(own), len(own))

    unseen, page = [], get(client, "/v1/items:unseen", limit=7)
    while True:
        unseen += ids(page)
        assert page["count"] == 39 - len(shown)
        if "next_cursor" not in page:
            break
        page = get(client, "/v1/items:unseen", limit=7, cursor=page["next_cursor"])
    assert unseen == [item_id for item_id in IDS[:39] if item_id not in shown]
    client.patch(f"/v1/items/{unseen[0]}", json={"available": False}).raise_for_status()
    assert ids(get(client, "/v1/items:unseen", limit=1)) == unseen[1:2]
