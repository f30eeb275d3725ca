"""The page of live figures."""

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.browsing import visited
from tests.browser.traffic import send_traffic

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module", autouse=True)
def traffic(url: str) -> None:
    with httpx.Client(base_url=url) as client:
        send_traffic(client, visitors=40)


def test_the_scenario_that_earns_most_comes_first(browser: Browser, url: str) -> None:
    with httpx.Client(base_url=url) as client:
        report = client.get("/v1/metrics/online", params={"by": "scenario", "window": "P1D"}).json()
    best = max(report["outcomes"], key=lambda outcome: outcome["values"].get("purchase", 0))
    with visited(browser, url) as visit:
        page = visit.open("live")
        expect(page.locator("tbody tr").first).to_contain_text(best["scenario"])


def test_figures_of_all_requests_come_by_themselves(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("live")
        expect(page.get_by_label("Requests per second", exact=True)).to_be_visible()
        expect(page.locator(".figures")).to_contain_text("99th percentile")


def test_answers_can_be_grouped_by_variant(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("live")
        page.get_by_role("button", name="Variant").click()
        expect(page.locator("tbody tr")).to_have_count(2)
