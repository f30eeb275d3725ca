"""The example shop in a browser: recommendations follow clicks, and events arrive, whatever becomes of the page."""

import functools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page

from onward.service.settings import IN_MEMORY
from onward_client import Client, ProblemError
from onward_client.schemas import StoredSession
from tests.browser.browsing import DESKTOP, PHONE, chromium, launched
from tests.clients.tools import TYPESCRIPT, require_npm
from tests.packaging.environments import ROOT, run
from tests.service.demo_shop import demo_shop, publish_demo_shop
from tests.service.process import ServiceProcess, wait_until

pytestmark = pytest.mark.clients


class Files(SimpleHTTPRequestHandler):
    """Serves the repository, as a shop's web server serves its pages."""

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # the name of the base class
        """Log nothing."""


@dataclass(frozen=True)
class Shop:
    """Where the page is, and the service that it calls, with a key that is allowed everything."""

    page: str
    service: str
    admin: Client

    def session(self, page: Page) -> StoredSession | None:
        """What is stored of the visitor of a page."""
        try:
            return self.admin.show_session(page.evaluate("sessionStorage.session"))
        except ProblemError:
            return None


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if (program := chromium()) is None:
        pytest.skip("no chromium: install it (apt-get install chromium) or name it by CHROMIUM")
    with launched(program) as browser:
        yield browser


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """The origin of the shop's pages, which import the client that is built here."""
    programs = require_npm()
    run([str(programs / "tsc"), "--project", str(TYPESCRIPT / "tsconfig.json")])
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=str(ROOT))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def create_key(file: Path, name: str, *scopes: str) -> str:
    """Make a key by the command that a deployment uses."""
    options = [option for scope in scopes for option in ("--scope", scope)]
    command = [sys.executable, "-m", "onward.service", "key", "create", "--name", name, "--file", str(file), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


@pytest.fixture(scope="module", params=["open", "with keys"])
def shop(request: pytest.FixtureRequest, origin: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The shop, with a service that is open to all, to which beacons go, or one that asks for keys, which they lack."""
    folder = tmp_path_factory.mktemp("shop")
    bundles = folder / "bundles"
    bundles.mkdir()
    publish_demo_shop(bundles, demo_shop())
    environment = {"REDIS_URL": IN_MEMORY, "SERVICE_CORS_ORIGINS": origin}
    keys = {}
    admin = None
    if request.param == "with keys":
        file = folder / "keys.jsonl"
        keys = {"key": create_key(file, "page", "recommend", "events")}
        admin = create_key(file, "tests", "admin")
        environment["SERVICE_KEYS_FILE"] = str(file)
    with ServiceProcess(bundles, environment=environment) as process:
        url = process.wait_until_ready().url
        page = f"{origin}/examples/shop/?{urlencode({'service': url, **keys})}"
        with Client(url, key=admin) as client:
            yield Shop(page, url, client)


@pytest.fixture
def page(browser: Browser, shop: Shop) -> Iterator[Page]:
    """The shop's page, opened by a new visitor; it may not complain."""
    context = browser.new_context(viewport={"width": DESKTOP[0], "height": DESKTOP[1]})
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(shop.page)
    page.locator("#shelf li").nth(7).wait_for()
    yield page
    context.close()
    assert not [text for text in complaints if "ERR_" not in text], complaints


def shown(page: Page) -> list[str]:
    return page.locator("#shelf strong").all_text_contents()


def arrived(shop: Shop, page: Page, *kinds: str) -> Callable[[], bool]:
    """Return whether the visitor's session has these events."""
    session = page.evaluate("sessionStorage.session")

    def have() -> bool:
        try:
            events = shop.admin.show_session(session)["events"]
        except ProblemError:
            return False
        return [event["type"] for event in events] == [*kinds]

    return have


def clicks_and_purchases(shop: Shop) -> tuple[int, int]:
    outcomes = shop.admin.show_online_metrics()["outcomes"]
    return sum(outcome["clicks"] for outcome in outcomes), sum(outcome["purchases"] for outcome in outcomes)


def test_recommendations_follow_a_click_and_the_click_rate_rises(shop: Shop, page: Page) -> None:
    popular = shown(page)
    assert page.locator("#heading").text_content() == "Popular now"
    clicks, purchases = clicks_and_purchases(shop)
    page.get_by_role("button", name="Look at").first.click()
    page.get_by_text("For you").wait_for()
    recommended = shown(page)
    assert len(recommended) == len(popular) == 8
    assert recommended != popular
    assert popular[0] not in recommended
    assert page.locator("#viewed li").all_text_contents() == [popular[0]]
    page.get_by_role("button", name="Buy").first.click()
    wait_until(arrived(shop, page, "view", "purchase"))
    wait_until(lambda: clicks_and_purchases(shop) == (clicks + 1, purchases + 1))
    (outcome,) = shop.admin.show_online_metrics()["outcomes"]
    assert (rate := outcome.get("click_through_rate"))
    assert rate > 0


def test_an_event_of_the_last_moment_arrives_although_the_page_is_left(shop: Shop, page: Page) -> None:
    visitor = arrived(shop, page, "purchase")
    page.evaluate("document.querySelector('.buy').click(); location.href = 'about:blank'")
    page.wait_for_url("about:blank")  # Chromium may never close a page that is changing to another
    wait_until(visitor)


def test_events_wait_while_offline(shop: Shop, page: Page) -> None:
    visitor = arrived(shop, page, "purchase")
    page.context.set_offline(True)
    page.get_by_role("button", name="Buy").first.click()
    page.wait_for_timeout(1_500)  # longer than the queue waits before it sends
    assert shop.session(page) is None
    page.context.set_offline(False)
    wait_until(visitor)


def test_events_that_could_not_be_sent_are_sent_by_the_next_page(shop: Shop, page: Page) -> None:
    visitor = arrived(shop, page, "purchase")
    page.route(f"{shop.service}/**", lambda route: route.abort())
    page.get_by_role("button", name="Buy").first.click()
    page.wait_for_function("Object.keys(localStorage).some((name) => name.startsWith('onward-events:'))")
    page.close()
    later = page.context.new_page()
    assert not visitor()
    later.goto(shop.page)
    wait_until(visitor)
    later.wait_for_function("localStorage.length === 0")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_fits_the_screen(shop: Shop, browser: Browser, size: tuple[int, int]) -> None:
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    page = context.new_page()
    page.goto(shop.page)
    page.locator("#shelf li").nth(7).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()
