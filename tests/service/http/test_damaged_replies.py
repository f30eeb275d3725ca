"""Damaged replies of the store fail no request other than by 503, and reach no other session."""

import asyncio
import random
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.bundles import publish_bundle
from tests.redis_servers import HOST
from tests.service.process import wait_until
from tests.service.redis_client.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.service.shop import opened

ITEMS = [letter * 12 for letter in "AHOVZ"]
"""One for each session. No change of few bits makes one of another."""
ALLOWED = {200, 204, 207, 404, 409, 410, 412, 503}

Call = Callable[[TestClient, int], Any]


def session_of(number: int) -> str:
    return f"visitor-{number}"


CALLS: dict[str, Call] = {
    "event": lambda client, number: client.post(
        "/v1/events", json={"session_id": session_of(number), "item_id": ITEMS[number], "event_id": str(number)}
    ),
    "events": lambda client, number: client.post(
        "/v1/events",
        json={"events": [{"session_id": session_of(number), "item_id": ITEMS[number], "type": "purchase"}] * 3},
    ),
    "recommend": lambda client, number: client.post(
        "/v1/recommendations", json={"session_id": session_of(number), "items": [ITEMS[number]], "k": 3}
    ),
    "read": lambda client, number: client.get(f"/v1/sessions/{session_of(number)}"),
    "merge": lambda client, number: client.post(
        f"/v1/sessions/{session_of(number)}-anonymous:merge", json={"into": session_of(number)}
    ),
    "delete": lambda client, number: client.delete(f"/v1/sessions/{session_of(number)}"),
    "metrics": lambda client, _: client.get("/v1/metrics/online", params={"by": "scenario"}),
    "popular": lambda client, _: client.get("/v1/items:popular"),
    "put item": lambda client, number: client.patch(f"/v1/items/{ITEMS[number]}", json={"attributes": {"price": 2.5}}),
    "get item": lambda client, number: client.get(f"/v1/items/{ITEMS[number]}"),
    "put scenario": lambda client, number: client.put(f"/v1/scenarios/scenario-{number}", json={"k": 3}),
    "scenarios": lambda client, _: client.get("/v1/scenarios"),
}


@contextmanager
def running_proxy(server: Path, path: Path) -> Iterator[FaultProxy]:
    """Run a proxy in a thread of its own: the service under test blocks this one."""
    loop = asyncio.new_event_loop()
    ended, started = asyncio.Event(), threading.Event()
    proxies: list[FaultProxy] = []

    async def run() -> None:
        async with fault_proxy(server, path) as proxy:
            proxies.append(proxy)
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    started.wait()
    try:
        yield proxies[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def damaged(valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, FaultProxy]]:
    """The service, and the proxy between it and its store."""
    folder = tmp_path_factory.mktemp("damaged")
    bundles = folder / "bundles"
    publish_bundle(bundles, ITEMS, attributes=[{"price": 1.0}] * len(ITEMS))
    with (
        running_proxy(Path(valkey.removeprefix("unix://")), folder / "proxy") as proxy,
        opened(bundles, f"unix://{folder / 'proxy'}") as client,
    ):
        yield client, proxy


def recommendation_calls(answer_id: str) -> list[str]:
    return [f"/v1/recommendations/{answer_id}/explanation", f"/v1/recommendations/{answer_id}/next"]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    rate=st.sampled_from([0.05, 0.2, 1.0]),
    fault=st.sampled_from(["flips", "lost", "garbage", "reset", "slices"]),
    calls=st.lists(st.tuples(st.sampled_from(sorted(CALLS)), st.integers(0, len(ITEMS) - 1)), min_size=3, max_size=12),
)
def test_damaged_replies_give_degraded_answers_or_503(
    damaged: tuple[TestClient, FaultProxy], seed: int, rate: float, fault: Fault, calls: list[tuple[str, int]]
) -> None:
    client, proxy = damaged
    proxy.random = random.Random(seed)
    proxy.flip_rate = rate
    with structlog.testing.capture_logs() as log:
        proxy.fault = fault
        for name, number in calls:
            response = CALLS[name](client, number)
            assert response.status_code in ALLOWED, (name, response.text)
            if name in ("read", "recommend") and response.status_code == 200:
                others = set(ITEMS) - {ITEMS[number]}
                seen = {event["item_id"] for event in response.json().get("events", ())}
                assert not seen & others
            if name == "recommend" and response.status_code == 200:
                identifier = response.json()["recommendation_id"]
                for path in recommendation_calls(identifier):
                    followed = client.get(path) if path.endswith("explanation") else client.post(path, json={})
                    assert followed.status_code in ALLOWED, followed.text
        proxy.fault = "none"
    unexpected = [line for line in log if line["event"] in ("request failed", "background work failed")]
    assert not unexpected, unexpected


@pytest.fixture(scope="module")
def tls_port() -> Iterator[int]:
    """A server that answers whatever is not TLS with a fatal alert, as a TLS port does."""

    class Alert(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(100)
            self.request.sendall(b"\x15\x03\x03\x00\x02\x02\x46")

    with socketserver.ThreadingTCPServer((HOST, 0), Alert) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_server_of_another_protocol_is_an_outage_for_every_call(
    damaged: tuple[TestClient, FaultProxy], tls_port: int, tmp_path: Path
) -> None:
    publish_bundle(tmp_path, ITEMS)
    with structlog.testing.capture_logs() as log, opened(tmp_path, f"redis://{HOST}:{tls_port}") as client:
        for _ in range(3):
            for name in ("event", "read", "delete", "merge", "metrics", "put item", "put scenario"):
                assert CALLS[name](client, 1).status_code == 503, name
            assert CALLS["recommend"](client, 1).json()["degraded"] == ["session_store"]
    events = [line["event"] for line in log]
    assert "background work failed" not in events
    assert events.count("session store failed") == 1


def test_the_service_is_whole_again_afterwards(damaged: tuple[TestClient, FaultProxy]) -> None:
    client, proxy = damaged
    proxy.fault = "flips"
    for _ in range(3):
        CALLS["event"](client, 0)
    proxy.fault = "none"
    wait_until(lambda: CALLS["event"](client, 0).status_code == 200)
    wait_until(lambda: CALLS["put item"](client, 0).status_code == 200)
    assert not CALLS["recommend"](client, 0).json()["degraded"]
