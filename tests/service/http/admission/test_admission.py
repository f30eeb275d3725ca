"""Admission: API keys, rate limits and the in-flight limit, in this process and in a real one."""

import asyncio
import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from onward.service.app import create_app
from onward.service.rate_limit import RateLimit
from onward.service.settings import IN_MEMORY, Settings
from tests.bundles import item_ids, publish_bundle
from tests.redis_servers import redis_servers
from tests.service.process import ServiceProcess, wait_until
from tests.service.server.test_serve import metric

KEYS = ["first-key", "second-key"]
DIGESTS = tuple(sha256(key.encode()).hexdigest() for key in KEYS)
GUARDED = "/v1/items:popular"
ALWAYS_ADMITTED = ["/health/live", "/metrics"]


@contextmanager
def service(bundles: Path, **settings: Any) -> Iterator[TestClient]:
    app = create_app(Settings(bundles=bundles, redis_url=SecretStr(IN_MEMORY), **settings))
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield client


@pytest.fixture(scope="module")
def guarded(bundles: Path) -> Iterator[TestClient]:
    with service(bundles, api_keys=DIGESTS) as client:
        yield client


def with_key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class TestKeys:
    @pytest.mark.parametrize("key", KEYS)
    def test_a_key_is_accepted_in_either_header(self, guarded: TestClient, key: str) -> None:
        for headers in (with_key(key), {"authorization": f"bearer  {key} "}, {"X-API-Key": key}):
            assert guarded.get(GUARDED, headers=headers).status_code == 200

    @pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic Zmlyc3Qta2V5"}, {"Authorization": "Bearer "}])
    def test_a_missing_key_is_answered_with_how_to_send_one(self, guarded: TestClient, headers: dict[str, str]) -> None:
        response = guarded.get(GUARDED, headers=headers)
        assert (response.status_code, response.json()["code"]) == (401, "missing_key")
        assert response.headers["www-authenticate"] == 'Bearer realm="onward"'
        assert response.json()["request_id"] == response.headers["x-request-id"]

    @pytest.mark.parametrize("key", ["third-key", "first-key2", DIGESTS[0], "ключ".encode().hex(), "x" * 5000])
    def test_a_wrong_key_is_refused_and_not_echoed(self, guarded: TestClient, key: str) -> None:
        response = guarded.get(GUARDED, headers=with_key(key))
        assert (response.status_code, response.json()["code"]) == (403, "wrong_key")
        assert key not in response.text

    def test_without_a_key_no_path_reveals_whether_it_exists(self, guarded: TestClient) -> None:
        for path in (
            "/nowhere",
            "/v1/version",
            "/health",
            "/docs/",
            "/x//metrics",
            "/metrics/",
            "/health%2F../v1/version",
        ):
            response = guarded.get(path)
            assert response.status_code == 401, path

    def test_operations_and_documentation_need_no_key(self, guarded: TestClient) -> None:
        for path in ("/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"):
            assert guarded.get(path).status_code == 200

    def test_refusals_are_counted(self, guarded: TestClient) -> None:
        guarded.get(GUARDED)
        assert 'onward_refused_requests_total{code="missing_key"}' in guarded.get("/metrics").text

    def test_the_openapi_document_requires_a_key_if_the_deployment_does(
        self, guarded: TestClient, client: TestClient
    ) -> None:
        document = guarded.get("/openapi.json").json()
        assert document["components"]["securitySchemes"].keys() == {"bearer", "header"}
        secured = {
            path for path, methods in document["paths"].items() for method in methods.values() if "security" in method
        }
        assert secured == {path for path in document["paths"] if path.startswith("/v1/")}
        assert '"security":' not in client.get("/openapi.json").text


class TestRate:
    def test_a_request_over_the_limit_gets_a_retry_after(self, bundles: Path) -> None:
        with service(bundles, rate_limit=RateLimit.parse("3/hour")) as client:
            statuses = [client.get(GUARDED).status_code for _ in range(4)]
            refused = client.post("/v1/recommendations", content=b"whatever")
            assert statuses == [200, 200, 200, 429]
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
            assert 1100 < int(refused.headers["retry-after"]) <= 1200
            assert {client.get(path).status_code for path in ALWAYS_ADMITTED} == {200}

    def test_each_key_has_its_own_limit(self, bundles: Path) -> None:
        with service(bundles, rate_limit=RateLimit.parse("1/hour"), api_keys=DIGESTS) as client:
            statuses = [client.get(GUARDED, headers=with_key(key)).status_code for key in [*KEYS, *KEYS]]
            assert statuses == [200, 200, 429, 429]

    def test_a_wrong_key_spends_no_token(self, bundles: Path) -> None:
        with service(bundles, rate_limit=RateLimit.parse("1/hour"), api_keys=DIGESTS) as client:
            assert {client.get(GUARDED, headers=with_key("wrong")).status_code for _ in range(5)} == {403}


def test_settings_of_admission_reach_the_workers_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_API_KEYS", f" {DIGESTS[0].upper()} ,{DIGESTS[1]}")
    monkeypatch.setenv("SERVICE_RATE_LIMIT", "100/minute")
    settings = Settings(bundles=tmp_path, max_in_flight=7)
    assert (settings.api_keys, settings.rate_limit) == (DIGESTS, RateLimit(100, "minute"))
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings(bundles=tmp_path) == settings


def test_empty_admission_settings_admit_everyone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_API_KEYS", "")
    monkeypatch.setenv("SERVICE_RATE_LIMIT", "")
    settings = Settings(bundles=tmp_path)
    assert (settings.api_keys, settings.rate_limit) == ((), None)


@contextmanager
def hanging_store(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Run a store; yield its URL and a function that makes it hang, with its connections open."""
    with redis_servers(folder, 1) as (server,):
        pid = int(server.execute("info", "server")["process_id"])
        try:
            yield server.url, lambda: os.kill(pid, signal.SIGSTOP)
        finally:
            os.kill(pid, signal.SIGCONT)


def test_under_overload_excess_requests_are_refused_at_once_and_the_others_answered(
    tmp_path: Path,
) -> None:
    publish_bundle(tmp_path, item_ids("item-", 20))
    environment = {"SERVICE_STORE_TIMEOUT": "3", "SERVICE_TIMEOUT": "30", "SERVICE_MAX_IN_FLIGHT": "5"}
    with (
        hanging_store(tmp_path / "store") as (url, hang),
        ServiceProcess(tmp_path, environment={**environment, "REDIS_URL": url}).wait_until_ready() as process,
    ):
        answers: list[httpx.Response] = []
        query = {"session_id": "s", "items": ["item-1"]}
        httpx.post(f"{process.url}/v1/recommendations", json=query).raise_for_status()
        hang()

        async def send_all() -> None:
            async with httpx.AsyncClient(base_url=process.url, timeout=30) as client:
                requests = [client.post("/v1/recommendations", json=query) for _ in range(40)]
                for answer in asyncio.as_completed(requests):
                    answers.append(await answer)
                    if len(answers) == 35:
                        assert (await client.get("/health/ready")).status_code == 200

        asyncio.run(send_all())
        assert [answer.status_code for answer in answers] == [503] * 35 + [200] * 5
        assert {answer.json()["code"] for answer in answers[:35]} == {"overloaded"}
        assert len({answer.headers["retry-after"] for answer in answers[:35]}) > 1
        assert {tuple(answer.json()["degraded"]) for answer in answers[35:]} == {("session_store",)}
        assert metric(process.url, 'onward_refused_requests_total{code="overloaded"}') == 35
        assert httpx.get(f"{process.url}{GUARDED}").status_code == 200
        assert [line["in_flight"] for line in process.events("overloaded")][:1] == [5]
        assert not process.events("request answered")  # a log line for each would add to the overload


class SentRequest:
    """A request on its own connection, of which all or only the headers have been sent."""

    def __init__(self, url: str, *, session_id: str | None = None, with_body: bool = True) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._body = json.dumps({"items": ["item-1"], "session_id": session_id}).encode()
        self._connection = socket.create_connection((host, int(port)), timeout=30)
        head = f"Content-Type: application/json\r\nContent-Length: {len(self._body)}\r\nConnection: close"
        self._connection.sendall(f"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
        if with_body:
            self.send_body()

    def send_body(self) -> None:
        self._connection.sendall(self._body)

    def status(self) -> int:
        with self._connection, self._connection.makefile("rb") as answer:
            return int(answer.read().split()[1])


def test_a_request_whose_body_has_not_arrived_takes_no_place(tmp_path: Path) -> None:
    publish_bundle(tmp_path, item_ids("item-", 20))
    with ServiceProcess(tmp_path, environment={"SERVICE_MAX_IN_FLIGHT": "2"}).wait_until_ready() as process:
        waiting = [SentRequest(process.url, with_body=False) for _ in range(5)]
        assert httpx.get(f"{process.url}{GUARDED}").status_code == 200
        for request in waiting:
            request.send_body()
            assert request.status() == 200


def test_a_stalled_body_times_out(tmp_path: Path) -> None:
    publish_bundle(tmp_path, item_ids("item-", 20))
    with ServiceProcess(tmp_path, environment={"SERVICE_BODY_TIMEOUT": "0.5"}).wait_until_ready() as process:
        stalled = [SentRequest(process.url, with_body=False) for _ in range(3)]
        assert Counter(request.status() for request in stalled) == {408: 3}
        assert httpx.get(f"{process.url}{GUARDED}").status_code == 200
        assert metric(process.url, 'onward_ended_connections_total{reason="body_timeout"}') == 3


def test_keys_are_never_logged(tmp_path: Path) -> None:
    publish_bundle(tmp_path, item_ids("item-", 20))
    environment = {"SERVICE_API_KEYS": ",".join(DIGESTS), "SERVICE_LOG_LEVEL": "debug"}
    with ServiceProcess(tmp_path, environment=environment).wait_until_ready() as process:
        for key in (KEYS[0], "wrong-key"):
            for headers in (with_key(key), {"X-API-Key": key}):
                httpx.get(f"{process.url}{GUARDED}", headers={"X-Request-ID": "the-last", **headers})
        wait_until(lambda: sum(line.get("request_id") == "the-last" for line in process.log) == 4)
        logged = json.dumps(process.log)
        assert not any(key in logged for key in (*KEYS, "wrong-key", *DIGESTS))
