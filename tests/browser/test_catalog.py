"""Finding, hiding, changing and adding products."""

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.browsing import visited

pytestmark = pytest.mark.browser


def item(url: str, item_id: str) -> httpx.Response:
    return httpx.get(f"{url}/v1/items/{item_id}")


def test_a_product_is_found_hidden_and_shown_again(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("catalog")
        page.get_by_label("Find items").fill("glass bench")
        page.get_by_role("row", name="glass bench").first.click()
        item_id = page.locator("aside code").first.inner_text()
        page.get_by_role("button", name="Hide").click()
        expect(page.get_by_role("status")).to_contain_text("no answer shows it")
        assert item(url, item_id).json()["recommendable"] is False
        page.get_by_role("button", name="Undo").click()
        expect(page.locator("aside").get_by_role("button", name="Hide")).to_be_visible()
        assert item(url, item_id).json()["recommendable"] is True


def test_an_attribute_is_changed_and_keeps_its_kind(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("catalog?id=item-100")
        page.get_by_role("button", name="Change", exact=True).click()
        page.get_by_label("price").fill("12.5")
        page.get_by_role("button", name="Save").click()
        expect(page.locator("aside")).to_contain_text("12.5")
    assert item(url, "item-100").json()["attributes"]["price"] == 12.5


def test_a_product_is_added_and_recommended(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("catalog")
        page.get_by_role("button", name="Add a product").click()
        page.get_by_label("Id", exact=True).fill("bench-new")
        page.get_by_label("Title").fill("Purple glass bench")
        page.get_by_label("Similar to").fill("item-304")
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.locator("aside")).to_contain_text("mean of the items named as similar")
    assert item(url, "bench-new").json()["recommendable"] is True


def test_what_no_answer_has_shown_is_listed(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("catalog")
        page.get_by_role("button", name="Never shown").click()
        expect(page.locator("tbody tr")).not_to_have_count(0)
        assert "list=unseen" in page.url


def test_what_the_service_refuses_is_said(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("catalog")
        page.get_by_role("button", name="Add a product").click()
        page.get_by_label("Id", exact=True).fill("bad-price")
        page.get_by_label("Other attributes").fill('{"price": "cheap"}')
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.get_by_role("status")).to_contain_text("price is of the kind number")
