"""Comparing bundles, making one live and rolling back."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from onward.bundle import current_digest
from tests.browser.browsing import visited
from tests.bundles import publish_bundle
from tests.service.process import ServiceProcess
from tests.service.shop import publish_shop

pytestmark = pytest.mark.browser


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    folder = tmp_path / "bundles"
    folder.mkdir()
    publish_bundle(folder, ["cup", "plate", "pan"])
    publish_shop(folder)
    return folder


@pytest.fixture
def url(bundles: Path, tmp_path: Path) -> Iterator[str]:
    environment = {"SERVICE_AUDIT_LOG": str(tmp_path / "audit.jsonl")}  # jobs need a store that workers share
    with ServiceProcess(bundles, environment=environment) as process:
        yield process.wait_until_ready().url


def test_rolling_back_makes_the_bundle_before_live_and_says_who_and_why(
    browser: Browser, url: str, bundles: Path
) -> None:
    newest = current_digest(bundles)
    with visited(browser, url) as visit:
        page = visit.open("releases")
        page.get_by_role("button", name="Roll back").click()
        page.get_by_label("Reason").fill("shows no cups")
        page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
        expect(page.get_by_role("status")).to_contain_text("is live")
        expect(page.get_by_label("Who changed what")).to_contain_text("shows no cups")
        expect(page.get_by_label("Bundles").locator("tbody tr").first).to_contain_text("live")
    assert httpx.get(f"{url}/v1/version").json()["bundle"] != newest


def test_a_retired_bundle_is_made_live_again(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("releases")
        page.get_by_role("button", name="Activate").first.click()
        page.get_by_role("dialog").get_by_role("button", name="Activate").click()
        expect(page.get_by_role("status")).to_contain_text("is live")


def test_a_job_is_started_and_cancelled(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("releases")
        page.get_by_role("button", name="Rebuild index").click()
        page.get_by_label("Reason").fill("new products")
        page.get_by_role("button", name="Start").click()
        jobs = page.get_by_label("Jobs").locator("tbody")
        expect(jobs).to_contain_text("new products")
        expect(jobs).to_contain_text("waits for a worker")
        jobs.get_by_role("button", name="Cancel").click()
        expect(jobs.locator(".badge")).to_have_text("cancelled")


def test_the_playground_compares_the_answers_of_two_bundles(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("playground?item=item-1&item=item-2")
        page.get_by_role("button", name="Compare").click()
        page.locator("label", has_text="Bundle").locator("select").first.select_option(index=1)
        expect(page.get_by_label("Answer B")).to_contain_text("Next items of")
        expect(page.locator("main")).to_contain_text("items are in both")
        expect(page.get_by_label("Call", exact=True)).to_contain_text("/v1/bundles/")


def test_two_bundles_are_shown_side_by_side(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("releases")
        expect(page.get_by_role("checkbox", checked=True)).to_have_count(2)
        expect(page.get_by_label("Side by side").get_by_role("heading", level=3)).to_have_count(2)
