"""A browser, and the demo shop with a service of its own, for all tests of the console."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.browsing import chromium, launched
from tests.service.demo_shop import demo_shop, publish_demo_shop
from tests.service.process import ServiceProcess


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = chromium()
    if program is None:
        pytest.skip("no chromium: install it (apt-get install chromium) or name it by CHROMIUM")
    with launched(program) as browser:
        yield browser


@pytest.fixture(scope="session")
def shop_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundles = tmp_path_factory.mktemp("shop") / "bundles"
    bundles.mkdir()
    publish_demo_shop(bundles, demo_shop())
    return bundles


@pytest.fixture(scope="session")
def url(shop_bundles: Path) -> Iterator[str]:
    with ServiceProcess(shop_bundles, environment={"REDIS_URL": "memory://"}) as process:
        yield process.wait_until_ready().url
