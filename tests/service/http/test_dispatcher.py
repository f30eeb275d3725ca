"""What the dispatcher does for every endpoint: content codings, cross-origin requests and HEAD."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient
from starlette.types import Message

from onward.service.app import create_app
from onward.service.settings import IN_MEMORY, Settings
from tests.bundles import item_ids, publish_bundle
from tests.service.process import wait_until

SHOP = "https://shop.example"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-api-key"}
OBJECT = gzip.compress(b"{}", mtime=0)
QUERY = {"items": ["item-1"], "k": 100}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    publish_bundle(folder, item_ids("item-", 200))
    return folder


def opened(folder: Path, **settings: Any) -> TestClient:
    return TestClient(create_app(Settings(bundles=folder, redis_url=SecretStr(IN_MEMORY), **settings)))


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with opened(folder, max_body=2_000) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield client


@pytest.fixture(scope="module")
def shop(folder: Path) -> Iterator[TestClient]:
    with opened(folder, cors_origins=(SHOP,)) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield client


def post(client: TestClient, content: bytes, coding: str | None, **headers: str) -> Any:
    coded = {} if coding is None else {"Content-Encoding": coding}
    return client.post(
        "/v1/recommendations", content=content, headers={"Content-Type": "application/json", **coded, **headers}
    )


class TestContentCoding:
    """Bodies may be compressed with gzip, and large answers are."""

    @pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP", "identity", None])
    def test_a_known_coding_is_decoded(self, client: TestClient, coding: str | None) -> None:
        body = json.dumps(QUERY).encode()
        content = gzip.compress(body, mtime=0) if coding and "gzip" in coding.lower() else body
        assert post(client, content, coding).json()["count"] == 100

    @pytest.mark.parametrize("coding", ["br", "zstd", "deflate", "gzip, gzip", "gzip;q=1", ""])
    def test_another_is_refused(self, client: TestClient, coding: str) -> None:
        response = post(client, json.dumps(QUERY).encode(), coding)
        assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")

    @pytest.mark.parametrize(
        "content",
        [b"{}", b"", OBJECT[:-4], OBJECT + b"x", OBJECT + gzip.compress(b"", mtime=0)],
    )
    def test_what_is_not_one_gzip_stream_is_refused(self, client: TestClient, content: bytes) -> None:
        response = post(client, content, "gzip")
        assert (response.status_code, response.json()["code"]) == (400, "malformed_request")

    def test_a_bomb_is_refused(self, client: TestClient) -> None:
        at_the_limit = gzip.compress(json.dumps(QUERY).encode().ljust(2_000))
        assert post(client, at_the_limit, "gzip").status_code == 200
        bomb = gzip.compress(b" " * 1_000_000, mtime=0)
        assert len(bomb) < 2_000
        assert post(client, bomb, "gzip").status_code == 413

    @pytest.mark.parametrize(
        ("accepted", "is_coded"),
        [
            ("gzip", True),
            ("br, gzip;q=0.5", True),
            ("*", True),
            ("identity", False),
            ("gzip;q=0", False),
            ("gzip; q=0.0, br", False),
            ("agzip", False),
            ("gzipped", False),
            ("gzip;q=0, *", False),
            ("*, gzip;q=0", False),
            ("*;q=0, gzip", True),
            ("gzip;q=0.001", True),
        ],
    )
    def test_a_large_answer_is_compressed_if_that_is_accepted(
        self, client: TestClient, accepted: str, is_coded: bool
    ) -> None:
        response = post(client, json.dumps(QUERY).encode(), None, **{"Accept-Encoding": accepted})
        assert (response.headers.get("content-encoding") == "gzip") == is_coded
        assert response.json()["count"] == 100
        assert response.headers["vary"] == "Accept-Encoding"

    def test_a_small_answer_is_not(self, client: TestClient) -> None:
        response = client.get("/health/live", headers={"Accept-Encoding": "gzip"})
        assert "content-encoding" not in response.headers


class TestCORS:
    """Scripts of the named origins may call the service."""

    def test_it_is_off_by_default(self, client: TestClient) -> None:
        response = client.options("/v1/recommendations", headers={"Origin": SHOP, **PREFLIGHT})
        assert response.status_code == 405
        assert "access-control-allow-origin" not in response.headers

    def test_a_preflight_of_an_allowed_origin_is_answered(self, shop: TestClient) -> None:
        response = shop.options("/v1/recommendations", headers={"Origin": SHOP, **PREFLIGHT})
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == SHOP
        assert "POST" in response.headers["access-control-allow-methods"]

    def test_a_preflight_of_another_origin_is_refused(self, shop: TestClient) -> None:
        response = shop.options("/v1/recommendations", headers={"Origin": "https://evil.example", **PREFLIGHT})
        assert response.status_code == 400
        assert "access-control-allow-origin" not in response.headers

    @pytest.mark.parametrize("body", [QUERY, {"items": 3}])
    def test_answers_and_errors_may_be_read_by_the_allowed_origin_only(self, shop: TestClient, body: Any) -> None:
        for origin, allowed in ((SHOP, SHOP), ("https://evil.example", None), (None, None)):
            headers = {} if origin is None else {"Origin": origin}
            response = shop.post("/v1/recommendations", json=body, headers=headers)
            assert response.headers.get("access-control-allow-origin") == allowed
            assert "Origin" in response.headers["vary"]

    @pytest.mark.parametrize("kind", ["text/plain", "text/plain;charset=UTF-8", "application/json"])
    def test_a_beacon_of_an_allowed_origin_is_an_event(self, shop: TestClient, kind: str) -> None:
        event = json.dumps({"session_id": "visitor", "item_id": "item-1"})
        sent = shop.post("/v1/events", content=event, headers={"Content-Type": kind, "Origin": SHOP})
        assert (sent.status_code, sent.json()["applied"]) == (200, 1)

    @pytest.mark.parametrize("origin", ["https://evil.example", None])
    def test_a_beacon_of_another_origin_is_not(self, shop: TestClient, origin: str | None) -> None:
        event = json.dumps({"session_id": "visitor", "item_id": "item-1"})
        headers = {"Content-Type": "text/plain"} | ({} if origin is None else {"Origin": origin})
        assert shop.post("/v1/events", content=event, headers=headers).status_code == 415
        assert shop.post("/v1/recommendations", content="{}", headers=headers).status_code == 415

    def test_all_origins_may_be_allowed(self, folder: Path) -> None:
        with opened(folder, cors_origins=("*",)) as client:
            response = client.get("/health/live", headers={"Origin": "https://any.example"})
            assert response.headers["access-control-allow-origin"] == "*"


def test_head_has_the_headers_of_get_and_no_body(client: TestClient) -> None:
    get, head = client.get("/health/live"), client.head("/health/live")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(get.content)), b"")
    assert client.head("/v1/recommendations").status_code == 405


async def test_head_stays_head_for_the_server_that_sends_the_answer(client: TestClient) -> None:
    """A server compares the length of the body with the header, but for HEAD."""
    scope: dict[str, Any] = {"type": "http", "method": "HEAD", "headers": [], "state": {}}
    scope |= {"path": "/health/live", "raw_path": b"/health/live", "query_string": b""}

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_message: Message) -> None:
        pass

    await client.app(scope, receive, send)
    assert scope["method"] == "HEAD"


@pytest.fixture(scope="module")
def prefixed(folder: Path) -> Iterator[TestClient]:
    settings: dict[str, Any] = {"api_keys": ("0" * 64,), "cors_origins": (SHOP,), "root_path": "/reco"}
    app = create_app(Settings(bundles=folder, redis_url=SecretStr(IN_MEMORY), **settings))
    with TestClient(app, root_path="/reco") as client:
        yield client


class TestRootPath:
    """Behind a proxy that removes a prefix, which the server puts back, the same rules hold."""

    @pytest.mark.parametrize("path", ["/health/live", "/metrics", "/docs", "/openapi.json"])
    def test_what_needs_no_key_needs_none(self, prefixed: TestClient, path: str) -> None:
        assert prefixed.get(f"/reco{path}").status_code == 200

    def test_all_else_does(self, prefixed: TestClient) -> None:
        for path in ("/reco/v1/version", "/reco/health", "/reco/reco/health/live"):
            assert prefixed.get(path).status_code == 401

    def test_a_beacon_is_accepted(self, folder: Path) -> None:
        app = create_app(Settings(bundles=folder, redis_url=SecretStr(IN_MEMORY), cors_origins=(SHOP,)))
        event = json.dumps({"session_id": "visitor", "item_id": "item-1"})
        with TestClient(app, root_path="/reco") as client:
            sent = client.post("/reco/v1/events", content=event, headers={"Content-Type": "text/plain", "Origin": SHOP})
        assert sent.status_code != 415
