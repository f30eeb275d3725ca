"""Clicking through the playground."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.browsing import visited

pytestmark = pytest.mark.browser

CLIENT = Path(__file__).parents[2] / "clients" / "python" / "src"
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


def test_the_python_call_prints_the_items_that_are_shown(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("playground?item=item-17")
        page.get_by_role("button", name="Python").click()
        page.get_by_label("Exact search").check()
        call = page.get_by_label("Call", exact=True)
        expect(call).to_contain_text('onward.recommend(items=["item-17"], k=10, exact=True)')
        done = subprocess.run(
            [sys.executable, "-c", call.inner_text()],
            env=os.environ | {"PYTHONPATH": str(CLIENT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        ids = [line.split()[1] for line in done.stdout.splitlines()]
        assert len(ids) == 10
        for place, item_id in enumerate(ids):
            expect(page.locator(".results > li").nth(place)).to_contain_text(item_id)


def test_the_typescript_call_has_the_options(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("playground?item=item-17")
        page.get_by_role("button", name="TypeScript").click()
        call = page.get_by_label("Call", exact=True)
        expect(call).to_contain_text(f'new OnwardClient("{url}", {{ key: process.env.KEY }})')
        expect(call).to_contain_text('"item-17"')


def test_it_says_why_an_item_is_not_there(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open("playground?item=item-17")
        page.get_by_role("button", name="Add a filter").click()
        page.get_by_label("Value").fill("Kitchen")
        page.get_by_label("Value").press("Enter")
        page.get_by_label("Why is this item not here?").fill("item-304")
        page.locator("[role=option]").first.click()
        expect(page.get_by_label("Why not")).to_contain_text("The filter leaves it out")
