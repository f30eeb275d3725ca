"""Clicking through the playground."""

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.browsing import visited

pytestmark = pytest.mark.browser

FIRST = ".results li:first-child"


def test_an_item_is_found_by_its_title_and_clicked_with_the_keyboard(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("playground")
        field = page.get_by_label("Add an item to the session")
        field.fill("bench")
        expect(page.locator("[role=option]").first).to_be_visible()
        field.press("Enter")
        expect(page.get_by_role("list", name="Events of the session, oldest first")).to_contain_text("bench")
        expect(page.get_by_role("heading", name="Next items")).to_be_visible()


def test_an_answer_says_which_click_brought_an_item(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("playground?item=item-17&item=item-304")
        page.locator(f"{FIRST} .open").click()
        expect(page.locator(f"{FIRST} .detail")).to_contain_text("How much lower it would score without each event")
        expect(page.locator(f"{FIRST} .bars .number")).to_have_count(2)


def test_two_sets_of_options_show_what_moved_and_a_link_keeps_them(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("playground?item=item-17")
        page.get_by_role("button", name="Compare").click()
        page.get_by_role("button", name="Add a filter").click()
        page.get_by_label("Value").fill("Dining")
        page.get_by_label("Value").press("Enter")
        expect(page.get_by_label("Answer B")).to_contain_text("new")
        expect(page.locator("main")).to_contain_text("items are in both")
        page.reload()
        expect(page.get_by_label("Answer B")).to_contain_text("Dining")


def test_the_call_of_what_is_shown_has_its_options(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("playground?item=item-17")
        page.get_by_role("button", name="Python").click()
        page.get_by_label("Exact search").check()
        expect(page.get_by_label("Call", exact=True)).to_contain_text('{"items": ["item-17"], "k": 10, "exact": True}')


def test_it_says_why_an_item_is_not_there(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("playground?item=item-17")
        page.get_by_role("button", name="Add a filter").click()
        page.get_by_label("Value").fill("Kitchen")
        page.get_by_label("Value").press("Enter")
        page.get_by_label("Why is this item not here?").fill("item-304")
        page.locator("[role=option]").first.click()
        expect(page.get_by_label("Why not")).to_contain_text("The filter leaves it out")
