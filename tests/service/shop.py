"""A small shop: its bundle, the whole service in this process, and helpers that call it over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import SecretStr
from redis import Redis
from starlette.testclient import TestClient

from onward.bundle import Bundle, current_digest
from onward.service.app import create_app
from onward.service.settings import IN_MEMORY, Settings
from tests.bundles import item_ids, publish_bundle
from tests.service.process import wait_until

ITEMS = item_ids("item-", 60)
UNAVAILABLE = "item-60"
CATEGORIES = ["mugs", "plates", "bowls", "pans"]
ATTRIBUTES: list[dict[str, Any]] = [
    {
        "category": CATEGORIES[number % 4],
        "brand": "acme" if number % 3 == 0 else "apex",
        "price": float(number),
        "tags": ["gift"] if number % 5 == 0 else ["plain", "new"],
        "organic": number % 2 == 0,
        "since": f"2026-01-{1 + number % 28:02}",
    }
    for number in range(1, 61)
]
CHEAP = {"attribute": "price", "range": {"max": 20.0}}
ACME = {"attribute": "brand", "equals": "acme"}


def publish_shop(bundles: Path, **options: Any) -> str:
    """Publish the shop's bundle, with two interests and the last item unavailable; return its digest."""
    available = np.ones(len(ITEMS) + 1, dtype=np.bool_)
    available[-1] = False
    defaults: dict[str, Any] = {"attributes": ATTRIBUTES, "available": available, "interests": 2}
    return publish_bundle(bundles, ITEMS, **(defaults | options))


def shop_bundle(bundles: Path) -> Bundle:
    """Load the current bundle of a folder."""
    return Bundle.load(bundles / str(current_digest(bundles)))


def logits(bundle: Bundle, session: list[str]) -> dict[str, float]:
    """Return the exact score of every item of the catalog, available or not."""
    rows = [row for item_id in session if (row := bundle.catalog.row(item_id)) is not None]
    scores_N1 = (bundle.vectors_N1D @ bundle.encoder.encode(rows).T).max(axis=1)
    return {bundle.catalog.item_id(row): float(scores_N1[row]) for row in range(1, len(scores_N1))}


UNHURRIED = {"store_timeout": 1}
"""Settings with a store timeout long enough for a busy machine."""


@contextmanager
def opened(bundles: Path, url: str = IN_MEMORY, **settings: Any) -> Iterator[TestClient]:
    """Run the whole service in this process, as one worker; yield a client once it is ready."""
    with opened_at_once(bundles, url, **settings) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield client


@contextmanager
def opened_at_once(bundles: Path, url: str = IN_MEMORY, **settings: Any) -> Iterator[TestClient]:
    """Run the whole service in this process, as one worker; yield a client as soon as it takes requests."""
    app = create_app(Settings(bundles=bundles, redis_url=SecretStr(url), **settings))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def recommend(client: TestClient, **query: Any) -> dict[str, Any]:
    response = client.post("/v1/recommendations", json=query)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def get(client: TestClient, path: str, **query: Any) -> dict[str, Any]:
    response = client.get(path, params=query)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def send(client: TestClient, session_id: str, item_id: str, kind: str = "view", **event: Any) -> dict[str, Any]:
    body = {"session_id": session_id, "item_id": item_id, "type": kind, **event}
    response = client.post("/v1/events", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["id"] for item in answer["items"]]


def scores(answer: dict[str, Any]) -> list[float]:
    return [item["score"] for item in answer["items"]]


def sources(answer: dict[str, Any]) -> set[str]:
    return {item["source"] for item in answer["items"]}


def problem(response: Any) -> tuple[int, str]:
    """Return the status and the code of a problem document."""
    return response.status_code, response.json()["code"]


def stored_keys(url: str) -> dict[bytes, bytes]:
    """Return every key of a store with its serialized value."""
    with Redis.from_url(url) as redis:
        return {key: redis.dump(key) for key in redis.scan_iter()}
