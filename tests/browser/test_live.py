"""The page of live figures."""

from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.browsing import visited
from tests.browser.traffic import send_traffic
from tests.service.process import wait_until

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module", autouse=True)
def traffic(url: str) -> None:
    with httpx.Client(base_url=url) as client:
        pages = send_traffic(client, visitors=40)
        wait_until(lambda: sum(outcome["answers"] for outcome in outcomes(client)) >= pages)


def outcomes(client: httpx.Client) -> list[Any]:
    report = client.get("/v1/metrics/online", params={"by": "scenario", "window": "P1D"}).json()
    return list(report["outcomes"])


def test_the_scenario_that_earns_most_comes_first(browser: Browser, url: str) -> None:
    with httpx.Client(base_url=url) as client:
        best = max(outcomes(client), key=lambda outcome: outcome["values"].get("purchase", 0))
    with visited(browser, url) as visit:
        page = visit.open("live")
        expect(page.get_by_role("region", name="What answers lead to").locator("tbody tr").first).to_contain_text(
            best["scenario"]
        )


def test_figures_of_all_requests_come_by_themselves(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("live")
        expect(page.get_by_role("region", name="Requests per second")).to_be_visible()
        expect(page.locator(".figures")).to_contain_text("99th percentile")


def test_it_says_how_much_of_the_catalog_is_shown(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("live")
        expect(page.get_by_label("What is shown")).to_contain_text("most popular tenth")


def test_answers_can_be_grouped_by_variant(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("live")
        page.get_by_role("button", name="Variant").click()
        expect(page.get_by_role("region", name="What answers lead to").locator("tbody tr")).to_have_count(2)
