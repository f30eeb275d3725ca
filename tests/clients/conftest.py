"""Fixtures: a running service that callers may use, and its OpenAPI document."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from onward.service.settings import IN_MEMORY
from tests.service.process import ServiceProcess
from tests.service.shop import publish_shop


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the shop's bundle; tests must not change it."""
    folder = tmp_path_factory.mktemp("bundles")
    publish_shop(folder)
    return folder


@pytest.fixture(scope="session")
def service_url(bundles: Path) -> Iterator[str]:
    """The URL of a running service that asks for no key."""
    with ServiceProcess(bundles, environment={"REDIS_URL": IN_MEMORY}) as service:
        yield service.wait_until_ready().url


@pytest.fixture(scope="session")
def openapi(service_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OpenAPI document that the service publishes, as a file."""
    path = tmp_path_factory.mktemp("openapi") / "openapi.json"
    path.write_bytes(httpx.get(f"{service_url}/openapi.json").raise_for_status().content)
    return path
