"""A browser for tests and screenshots: Chromium without a window, and what a page asks for and complains about."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

Theme = Literal["light", "dark"]

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP, PHONE = (1440, 900), (390, 844)


def chromium() -> Path | None:
    """Return the program, by CHROMIUM or by its usual names; None if it is not installed."""
    names = (os.environ.get("CHROMIUM", "chromium"), "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    return None if found is None else Path(found)


@contextmanager
def launched(program: Path) -> Iterator[Browser]:
    """Start the browser with an empty profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def visited(
    browser: Browser, url: str, *, size: tuple[int, int] = DESKTOP, theme: Theme = "light"
) -> Iterator["Visit"]:
    """Open a page of its own profile; it fails at the end if the page complained or asked another host."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
    visit = Visit(context, url)
    yield visit
    context.close()
    assert not visit.complaints, visit.complaints
    assert visit.hosts <= {urlsplit(url).netloc}, visit.hosts


class Visit:
    """One visit to the console."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self._url = url
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.page: Page = context.new_page()
        self.page.set_default_timeout(10_000)
        self.page.on("console", lambda message: self._complain(message.type, message.text))
        self.page.on("pageerror", lambda error: self._complain("error", str(error)))
        self.page.on("request", lambda request: self._ask(request.url))

    def open(self, path: str = "") -> Page:
        """Show a page of the console, as in catalog?id=item-17, once it has loaded its data."""
        self.page.goto("about:blank")
        self.page.goto(f"{self._url}/console/#/{path}", wait_until="networkidle")
        return self.page

    def _ask(self, url: str) -> None:
        if url.startswith("http"):
            self.hosts.add(urlsplit(url).netloc)

    def _complain(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and "status of 4" not in text:  # the pages say what the service refuses
            self.complaints.append(f"{kind}: {text}")
