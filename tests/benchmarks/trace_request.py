"""Trace one request through the running application: `python -m tests.benchmarks.trace_request BUNDLES`.

Starts the service in this process with a session store of its own, asks for recommendations until its caches are warm,
and records every call of a Python function of `onward` while it handles one more request of the same kind. Prints one
line of JSON:

- calls, functions, files: how many calls, of how many different functions, in how many files
- moves: how often the next call is of a function in another file
- depth: the longest chain of calls within each other

`--calls` prints the calls instead, indented by their depth, and `--per-file` adds how many calls each file takes.
"""

import asyncio
import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NamedTuple
from unittest.mock import patch

import typer
import uvicorn
import uvloop
from pydantic import SecretStr

from onward.bundle import Bundle, Options
from onward.service import app, telemetry
from onward.service.http.connection import Connection
from onward.service.server.embedded_store import embedded_store
from onward.service.settings import Settings
from onward.training.hardware import machine

PACKAGES = Path(app.__file__).parents[1]
"""The folder of onward.service and onward.bundle."""
WARM_UP_REQUESTS = 60
TRACED_REQUESTS = 30
QUIET_S = 0.05
"""Pause before each traced request, in which background tasks finish."""
START_TIMEOUT_S = 60.0


class Call(NamedTuple):
    """A call of a function, and how many others of ours it is within."""

    file: str
    function: str
    line: int
    depth: int


class Tracer:
    """Records the calls of one thread between `start` and `stop`, which must run in that thread."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._depth = 0

    def start(self) -> None:
        """Begin anew."""
        self.calls, self._depth = [], 0
        sys.setprofile(self._record)

    def stop(self) -> None:
        """Record no more."""
        sys.setprofile(None)

    def _record(self, frame: FrameType, event: str, _argument: Any) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(str(PACKAGES)):
            return
        if event == "call":
            file = str(Path(code.co_filename).relative_to(PACKAGES))
            self.calls.append(Call(file, code.co_name, code.co_firstlineno, self._depth))
            self._depth += 1
        else:
            self._depth = max(0, self._depth - 1)


class TracedService:
    """The service in a thread of this process."""

    def __init__(self, bundles: Path, redis_url: str) -> None:
        settings = Settings(bundles=bundles, redis_url=SecretStr(redis_url), log_level="error")
        config = uvicorn.Config(
            app.create_app(settings), http=Connection, lifespan="on", log_config=None, server_header=False
        )
        self._server = uvicorn.Server(config)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()), daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._encoding = threading.Event()
        self.port = int(self._socket.getsockname()[1])

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve in this block. Raises TimeoutError if no bundle goes live."""
        with patch.object(telemetry, "encoding", lambda *_: self._encoding.set()):
            self._thread.start()
            try:
                self._wait_until_ready()
                yield
            finally:
                self._server.should_exit = True
                self._thread.join()

    def in_loop(self, action: Callable[[], None]) -> None:
        """Run a function in the thread of the event loop, and wait for it."""
        assert self._loop is not None
        done = threading.Event()

        def act() -> None:
            action()
            done.set()

        self._loop.call_soon_threadsafe(act)
        done.wait()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[self._socket])

    def _wait_until_ready(self) -> None:
        """Wait until a bundle is live and the service has decided what encodes."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            connection = HTTPConnection("127.0.0.1", self.port, timeout=START_TIMEOUT_S)
            try:
                connection.request("GET", "/health/ready")
                if connection.getresponse().status == 200 and self._encoding.is_set():
                    return
            finally:
                connection.close()
            time.sleep(QUIET_S)
        raise TimeoutError(f"no bundle went live within {START_TIMEOUT_S:.0f} s")


def trace(bundles: Path) -> list[Call]:
    """Trace a request; of several, the one with the fewest calls, in which no background task ran."""
    items = [item.item_id for item in Bundle.load(bundles / "current", verify=False).popular(Options(10)).items]
    tracer, traces = Tracer(), []
    with embedded_store() as redis_url:
        assert redis_url is not None, "no Redis or Valkey server is installed"
        service = TracedService(bundles, redis_url)
        with service.running():
            connection = HTTPConnection("127.0.0.1", service.port, timeout=START_TIMEOUT_S)
            for number in range(WARM_UP_REQUESTS):
                _recommend(connection, items, number)
            for number in range(TRACED_REQUESTS):
                time.sleep(QUIET_S)
                service.in_loop(tracer.start)
                _recommend(connection, items, number)
                service.in_loop(tracer.stop)
                traces.append(tracer.calls)
            connection.close()
    return min(traces, key=len)


def _recommend(connection: HTTPConnection, items: Sequence[str], number: int) -> None:
    body = {"session_id": f"visitor-{number % 3}", "items": [items[number % len(items)]], "k": 20}
    connection.request("POST", "/v1/recommendations", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise RuntimeError(f"the service answered {response.status}: {content!r}")


def summary(calls: Sequence[Call]) -> dict[str, int]:
    """Count what the module's docstring describes."""
    files = [call.file for call in calls]
    return {
        "calls": len(calls),
        "functions": len({call[:3] for call in calls}),
        "files": len(set(files)),
        "moves": sum(file != following for file, following in pairwise(files)),
        "depth": max(call.depth for call in calls) + 1,
    }


def main(
    bundles: Annotated[Path, typer.Argument(exists=True, help="A folder of bundles.")],
    calls: Annotated[bool, typer.Option("--calls", help="Print the calls instead.")] = False,
    per_file: Annotated[bool, typer.Option("--per-file", help="Add the calls of each file.")] = False,
) -> None:
    """Print how many calls, functions, files and moves one request takes."""
    telemetry.configure_logging("error")
    traced = trace(bundles)
    if calls:
        for call in traced:
            typer.echo(f"{'  ' * call.depth}{call.file}: {call.function}")
        return
    result: dict[str, Any] = {"benchmark": "trace_request", **machine("fastapi", "uvicorn"), **summary(traced)}
    if per_file:
        result["per_file"] = dict(Counter(call.file for call in traced).most_common())
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
