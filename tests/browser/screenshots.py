"""Take the screenshots of the README: `python -m tests.browser.screenshots BUNDLES docs/console`.

BUNDLES is a folder of bundles of the demo shop, as `make demo` makes it in demo/bundles; with a second, staged bundle
that has been through the gate, the page of releases has something to compare.
"""

from pathlib import Path
from threading import Event, Thread
from typing import Annotated, NamedTuple

import httpx
import typer
from PIL import Image
from playwright.sync_api import Browser, Page

from tests.browser.browsing import Theme, chromium, launched, visited
from tests.browser.traffic import send_traffic
from tests.service.process import ServiceProcess

SIZE = (1280, 800)
COLOURS = 128
VISITORS = 20
"""Of one seed."""
VISITED_MS = 45_000
SETTINGS = {"SERVICE_RECALL_SAMPLE": "3"}


class Screenshot(NamedTuple):
    """One picture: its name, the page and how it is prepared."""

    name: str
    path: str
    theme: Theme = "light"


SCREENSHOTS = (
    Screenshot("playground", "playground?item=item-17&item=item-304&item=item-693&item=item-4"),
    Screenshot("live", "live", theme="dark"),
    Screenshot("releases", "releases"),
)


def take(browser: Browser, url: str, folder: Path) -> None:
    """Take all screenshots, with visitors in the shop."""
    for screenshot in SCREENSHOTS:
        with visited(browser, url, size=SIZE, theme=screenshot.theme) as visit, httpx.Client(base_url=url) as client:
            page = visit.open(screenshot.path)
            if screenshot.name == "live":
                is_over = Event()
                visitors = Thread(target=_visit_until, args=(client, is_over))
                visitors.start()
                page.wait_for_timeout(VISITED_MS)
                is_over.set()
                visitors.join()
            else:
                open_first_item(page)
            save(page, folder / f"{screenshot.name}.png")


def _visit_until(client: httpx.Client, is_over: Event) -> None:
    seed = 0
    while not is_over.is_set():
        send_traffic(client, visitors=VISITORS, seed=seed)
        seed += 1


def open_first_item(page: Page) -> None:
    """Show why the first item is recommended, on the page that can."""
    if (opener := page.locator(".results .open")).count():
        opener.first.click()
        page.mouse.move(0, 0)


def save(page: Page, file: Path) -> None:
    """Save what is on the screen, in few colours."""
    page.screenshot(path=file)
    Image.open(file).convert("RGB").quantize(COLOURS).save(file, optimize=True)
    typer.echo(f"{file}: {file.stat().st_size:,} bytes")


def screenshots(
    bundles: Annotated[Path, typer.Argument(help="Folder of bundles of the demo shop.", exists=True)],
    folder: Annotated[Path, typer.Argument(help="Folder for the pictures.")],
) -> None:
    """Take the screenshots of the README."""
    program = chromium()
    if program is None:
        raise typer.BadParameter("chromium is not installed; CHROMIUM names another browser")
    folder.mkdir(parents=True, exist_ok=True)
    with (
        ServiceProcess(bundles, "--workers", "2", environment=SETTINGS) as process,
        launched(program) as browser,
    ):
        take(browser, process.wait_until_ready().url, folder)


if __name__ == "__main__":
    typer.run(screenshots)
