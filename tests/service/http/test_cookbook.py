"""Every example of docs/api.md, run in order against one real service, gives the answer that the page shows."""

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
STORE_STOP_MARK = "<!-- from here on the store is stopped -->"
DELAY_S = 15
LEAST_EXAMPLES = 40

BLOCK = re.compile(r"^```(sh|json)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WRITES = re.compile(r"\s-(?:d|X)\s|onward-")

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class Example(NamedTuple):
    """A command of the page, the output that the page shows, and whether it runs without the session store."""

    command: str
    output: Any
    is_without_store: bool


def examples(page: str) -> Iterator[Example]:
    """Yield the page's commands, each with the JSON block that follows it directly, if any."""
    blocks = list(BLOCK.finditer(page))
    stop = page.find(STORE_STOP_MARK)
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block[1] == "sh":
            output = json.loads(following[2]) if following is not None and following[1] == "json" else None
            yield Example(block[2], output, is_without_store=block.start() > stop)


def differences(shown: Any, answered: Any, names: dict[str, str], at: str = "answer") -> Iterator[str]:
    """Yield the places where an answer differs from what the page shows.

    The page may leave fields out, and writes `...` for a value that varies or a list that continues. `$NAME` binds a
    text to a variable for later commands.
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
        continues = shown[-1:] == [ANYTHING]
        expected = shown[:-1] if continues else shown
        if len(answered) < len(expected) or (len(answered) > len(expected) and not continues):
            yield f"{at} has {len(answered)} entries"
        for place, (part, answered_part) in enumerate(zip(expected, answered, strict=False)):
            yield from differences(part, answered_part, names, f"{at}[{place}]")
    elif isinstance(shown, float):
        if answered != pytest.approx(shown, abs=0.01):
            yield f"{at} is {answered}"
    elif shown != answered:
        yield f"{at} is {answered!r}"


class ExampleRunner:
    """Runs the page's commands in a shell, in a folder laid out as the page assumes."""

    def __init__(self, folder: Path, url: str, environment: dict[str, str]) -> None:
        self._folder = folder
        self._url = url
        self._environment = environment
        self._preamble = ""
        self._names: dict[str, str] = {}

    def run(self, example: Example) -> None:
        """Run a command and compare its output; a command that only reads is retried, since some answers lag."""
        if URL in example.command:
            self._preamble = example.command.replace(URL, self._url)
        elif WRITES.search(example.command):
            assert not (differing := self._differences(example)), (example.command, differing)
        else:
            wait_until(lambda: not self._differences(example), DELAY_S)

    def _differences(self, example: Example) -> list[str]:
        printed = self._run(example.command)
        if example.output is None:
            return [printed] if "/problems/" in printed else []
        names = dict(self._names)
        differing = list(differences(example.output, json.loads(printed), names))
        if not differing:
            self._names = names
        return [*differing, printed] if differing else []

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


@pytest.mark.slow
@needs_curl
def test_every_example_gives_the_answer_that_the_page_shows(tmp_path: Path) -> None:
    shop = demo_shop()
    shop.write(tmp_path / "shop")
    for name in ("bundles", "log"):
        (tmp_path / name).mkdir()
    publish_demo_shop(tmp_path / "bundles", shop)
    with ExitStack() as running:
        store = running.enter_context(ExitStack())
        redis_url = store.enter_context(run_server(find_servers()[0]))
        commands = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "REDIS_URL": redis_url}
        environment = {"REDIS_URL": redis_url, "SERVICE_EVENT_LOG": str(tmp_path / "log")}
        service = running.enter_context(
            ServiceProcess(tmp_path / "bundles", environment=environment)
        ).wait_until_ready()
        runner = ExampleRunner(tmp_path, service.url, dict(os.environ) | commands)
        page_examples = list(examples(PAGE.read_text(encoding="utf-8")))
        assert len(page_examples) > LEAST_EXAMPLES
        for example in page_examples:
            if example.is_without_store:
                store.close()
            runner.run(example)
