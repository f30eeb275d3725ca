"""Every example of docs/api.md, run in order against one real service, answers what the page shows."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from onward.service.server.embedded_store import find_servers, run_server
from tests.service.demo_shop import demo_shop, publish_demo_shop
from tests.service.process import ServiceProcess, wait_until

PAGE = Path(__file__).parents[3] / "docs" / "api.md"
URL = "http://127.0.0.1:8000"
ANYTHING = "..."
STORE_STOPS = "<!-- from here on the store is stopped -->"
SOON_S = 15
MANY = 40

BLOCK = re.compile(r"^```(sh|json)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WRITES = re.compile(r"\s-(?:d|X)\s|onward-")

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class Example(NamedTuple):
    """A command of the page, what it prints by the page, and whether the session store has been stopped for it."""

    command: str
    shown: Any
    is_without_store: bool


def examples(page: str) -> Iterator[Example]:
    """Read the page's commands, each with the JSON that follows it, if any does before the next."""
    blocks = list(BLOCK.finditer(page))
    stop = page.find(STORE_STOPS)
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block[1] == "sh":
            shown = json.loads(following[2]) if following is not None and following[1] == "json" else None
            yield Example(block[2], shown, is_without_store=block.start() > stop)


def differences(shown: Any, answered: Any, names: dict[str, str], at: str = "answer") -> Iterator[str]:
    """Tell where an answer is not what the page shows.

    The page leaves fields out, and writes `...` for what varies or goes on. `$NAME` gives a text a name for the
    commands behind.
    """
    if shown == ANYTHING:
        return
    if isinstance(shown, str) and shown.startswith("$") and isinstance(answered, str):
        names.setdefault(shown[1:], answered)
        if names[shown[1:]] != answered:
            yield f"{at} is not {shown}"
    elif isinstance(shown, dict) and isinstance(answered, dict):
        for name in shown:
            if name in answered:
                yield from differences(shown[name], answered[name], names, f"{at}.{name}")
            else:
                yield f"{at} has no {name}"
    elif isinstance(shown, list) and isinstance(answered, list):
        goes_on = shown[-1:] == [ANYTHING]
        wanted = shown[:-1] if goes_on else shown
        if len(answered) < len(wanted) or (len(answered) > len(wanted) and not goes_on):
            yield f"{at} has {len(answered)} entries"
        for place, (one, other) in enumerate(zip(wanted, answered, strict=False)):
            yield from differences(one, other, names, f"{at}[{place}]")
    elif isinstance(shown, float):
        if answered != pytest.approx(shown, abs=0.01):
            yield f"{at} is {answered}"
    elif shown != answered:
        yield f"{at} is {answered!r}"


class Reader:
    """Follows the page in a shell of its own, in a folder as the page says there is."""

    def __init__(self, folder: Path, url: str, environment: dict[str, str]) -> None:
        self._folder = folder
        self._url = url
        self._environment = environment
        self._preamble = ""
        self._names: dict[str, str] = {}

    def follow(self, example: Example) -> None:
        """Run a command and compare; one that only reads is run until the answer comes, as some come a little later."""
        if URL in example.command:
            self._preamble = example.command.replace(URL, self._url)
        elif WRITES.search(example.command):
            assert not (found := self._differences(example)), (example.command, found)
        else:
            wait_until(lambda: not self._differences(example), SOON_S)

    def _differences(self, example: Example) -> list[str]:
        printed = self._run(example.command)
        if example.shown is None:
            return [printed] if "/problems/" in printed else []
        names = dict(self._names)
        found = list(differences(example.shown, json.loads(printed), names))
        if not found:
            self._names = names
        return [*found, printed] if found else []

    def _run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._preamble + command],
            cwd=self._folder,
            env=self._environment | self._names,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout


@needs_curl
def test_every_example_of_the_page_answers_what_it_shows(tmp_path: Path) -> None:
    shop = demo_shop()
    shop.write(tmp_path / "shop")
    for name in ("bundles", "log"):
        (tmp_path / name).mkdir()
    publish_demo_shop(tmp_path / "bundles", shop)
    with ExitStack() as running:
        store = running.enter_context(ExitStack())
        redis_url = store.enter_context(run_server(find_servers()[0]))
        commands = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "REDIS_URL": redis_url}
        told = {"REDIS_URL": redis_url, "SERVICE_EVENT_LOG": str(tmp_path / "log")}
        service = running.enter_context(ServiceProcess(tmp_path / "bundles", environment=told)).wait_until_ready()
        reader = Reader(tmp_path, service.url, dict(os.environ) | commands)
        found = list(examples(PAGE.read_text(encoding="utf-8")))
        assert len(found) > MANY
        for example in found:
            if example.is_without_store:
                store.close()
            reader.follow(example)
