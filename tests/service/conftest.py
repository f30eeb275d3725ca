"""Fixtures: a Redis or Valkey server, a published bundle, and the service in this process."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from starlette.testclient import TestClient

from onward.service import telemetry
from onward.service.app import create_app
from onward.service.episodes import Episodes
from onward.service.records import recorder
from onward.service.redis_client import RedisClient, connect
from onward.service.server.embedded_store import find_servers, run_server
from onward.service.settings import IN_MEMORY, Settings
from tests.bundles import item_ids, publish_bundle
from tests.service.clock import Clock
from tests.service.process import wait_until

ITEMS = item_ids("item-", 50)


@pytest.fixture(scope="session", autouse=True)
def prompt_popularity() -> Iterator[None]:
    """Let workers in this process know soon what is popular, so that tests need not wait for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "POPULARITY_INTERVAL", timedelta(seconds=0.2))
        patch.setattr(recorder, "POPULARITY_SPREAD", timedelta(0))
        yield


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """The URL of a private Redis or Valkey server."""
    with run_server(find_servers()[0]) as url:
        yield url


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a current bundle; tests must not change it."""
    folder = tmp_path_factory.mktemp("bundles")
    attributes = [{"title": f"Item {number}", "price": None} if number % 2 else {} for number in range(1, 51)]
    publish_bundle(folder, ITEMS, attributes=attributes, interests=2)
    return folder


@pytest.fixture(scope="session")
def client(bundles: Path) -> Iterator[TestClient]:
    """The whole service in this process, with sessions in memory."""
    app = create_app(Settings(bundles=bundles, redis_url=SecretStr(IN_MEMORY)))
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield client


@pytest.fixture(autouse=True)
def no_faults_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test's first fault is logged, whatever other tests did."""
    monkeypatch.setattr(telemetry, "_faults", Episodes())


@pytest.fixture
def clock() -> Clock:
    """The clock of the store under test."""
    return Clock()


@pytest.fixture
async def redis(valkey: str) -> AsyncIterator["Redis"]:
    """A client of the private server, to inspect its keys."""
    async with Redis.from_url(valkey) as redis:
        yield redis


@pytest.fixture
async def calls(valkey: str) -> AsyncIterator[RedisClient]:
    """The service's own client of the private server."""
    calls = connect(valkey)
    yield calls
    await calls.aclose()
