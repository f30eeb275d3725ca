"""Every page of the console in a real browser: light and dark, on a desktop and a phone."""

import gzip
from importlib.resources import files
from itertools import product
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from onward.service.http.routes.console import FOLDER
from tests.browser.browsing import DESKTOP, PHONE, Theme, visited

pytestmark = pytest.mark.browser

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
"""axe-core: checks of labels, roles, names and contrast."""
MAX_TRANSFERRED = 100_000
THEMES: tuple[Theme, ...] = ("light", "dark")
PAGES = (
    "playground?item=item-17&item=item-4",
    "live",
    "catalog?id=item-17",
    "sessions?id=visitor-1",
    "releases",
    "data",
)


def violations(page: Page) -> list[Any]:
    found: list[Any] = page.evaluate("axe.run({ resultTypes: ['violations'] }).then((result) => result.violations)")
    return [(violation["id"], [node["html"] for node in violation["nodes"]]) for violation in found]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_accessible_and_complains_of_nothing(browser: Browser, url: str, path: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open(path)
        assert page.locator("h1").count() == 1
        assert page.locator("[role=alert]").count() == 0
        page.evaluate(AXE)
        for (width, height), theme in product((DESKTOP, PHONE), THEMES):
            page.set_viewport_size({"width": width, "height": height})
            page.emulate_media(color_scheme=theme)
            assert violations(page) == [], (width, theme)
            overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert overflow <= 0, f"the page is wider than a screen of {width} pixels"


def test_all_files_together_are_small() -> None:
    sizes = [len(gzip.compress(file.read_bytes(), 1)) for file in FOLDER.rglob("*.*") if file.is_file()]
    assert sum(sizes) < MAX_TRANSFERRED


def test_the_switch_keeps_a_theme_against_the_system(browser: Browser, url: str) -> None:
    with visited(browser, url, theme="light") as visit:
        page = visit.open()
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.click("#theme")
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert dark != light
        page.reload()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


def test_the_first_tab_stop_skips_to_the_content(browser: Browser, url: str) -> None:
    with visited(browser, url) as visit:
        page = visit.open()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
