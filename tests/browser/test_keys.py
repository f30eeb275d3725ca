"""The console of a deployment that asks for keys: which scope a page lacks, and how long a key is kept."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.browsing import visited
from tests.service.http.test_scopes import line
from tests.service.process import ServiceProcess

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def guarded_url(shop_bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    keys = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    keys.write_text("\n".join([line("web-key", "recommend"), line("all-key")]))
    environment = {"REDIS_URL": "memory://", "SERVICE_KEYS_FILE": str(keys)}
    with ServiceProcess(shop_bundles, environment=environment) as process:
        yield process.wait_until_ready().url


def enter(page: Page, key: str) -> None:
    page.get_by_role("dialog").get_by_label("Key").fill(key)
    page.get_by_role("button", name="Use this key").click()


def test_a_page_names_the_scope_that_it_needs_and_opens_with_a_key(browser: Browser, guarded_url: str) -> None:
    with visited(browser, guarded_url) as visit:
        page = visit.open("releases")
        expect(page.get_by_role("alert")).to_contain_text("This needs a key with the scope “admin”")
        page.get_by_role("button", name="Enter a key").click()
        enter(page, "web-key")
        expect(page.get_by_role("alert")).to_contain_text("scope “admin”")
        page.get_by_role("button", name="Enter a key").click()
        enter(page, "all-key")
        expect(page.get_by_role("region", name="Bundles")).to_contain_text("live")


def test_a_key_is_kept_in_its_tab_alone_and_in_no_address(browser: Browser, guarded_url: str) -> None:
    with visited(browser, guarded_url) as visit:
        page = visit.open("playground")
        page.get_by_role("button", name="Enter a key").click()
        enter(page, "web-key")
        expect(page.get_by_role("heading", name="Popular items")).to_be_visible()
        page.reload()
        expect(page.get_by_role("heading", name="Popular items")).to_be_visible()
        assert "web-key" not in page.url
        assert page.evaluate("Object.values(localStorage).includes('web-key')") is False
    with visited(browser, guarded_url) as visit:
        expect(visit.open("playground").get_by_role("alert")).to_contain_text("scope “recommend”")
