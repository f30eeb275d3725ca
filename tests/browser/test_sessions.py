"""Sessions with their answers, and forgetting one."""

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.browsing import visited

pytestmark = pytest.mark.browser


@pytest.fixture
def visitor(url: str) -> str:
    for item in ("item-17", "item-4"):
        query = {"session_id": "console-visitor", "items": [item], "k": 3}
        httpx.post(f"{url}/v1/recommendations", json=query).raise_for_status()
    return "console-visitor"


def test_a_session_shows_its_events_and_answers(browser: Browser, url: str, visitor: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("sessions")
        page.get_by_label("Session id").fill(visitor)
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_label("Events", exact=True)).to_contain_text("2 events")
        expect(page.get_by_label("Answers", exact=True)).to_contain_text("same now")


def test_a_session_of_the_list_is_opened_by_its_key(browser: Browser, url: str, visitor: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("sessions")
        page.locator("tbody tr").first.press("Enter")
        expect(page.get_by_label("Events", exact=True)).to_be_visible()
        assert "key=" in page.url


def test_a_session_can_be_forgotten(browser: Browser, url: str, visitor: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open(f"sessions?id={visitor}")
        page.get_by_role("button", name="Forget").click()
        page.get_by_role("dialog").get_by_role("button", name="Forget").click()
        expect(page.get_by_role("status")).to_have_text("Forgotten")
    assert httpx.get(f"{url}/v1/sessions/{visitor}").status_code == 404
