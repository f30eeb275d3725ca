"""A server that is measured: one started for it, with a session store of its own, or one that runs already."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO, NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

START_TIMEOUT_S = 120.0
ENCODER_TIMEOUT_S = 20.0
"""For a compiled kernel, which a bundle serves without at first; a revision that knows of none says nothing."""
STOP_TIMEOUT_S = 40.0
LOOK_EVERY_S = 0.05
ANSWER_TIMEOUT_S = 5.0
FOR_A_TRIAL = {
    "SERVICE_API_KEYS": "",
    "SERVICE_RATE_LIMIT": "",
    "SERVICE_EVENT_LOG": "",
    "SERVICE_LOG_LEVEL": "info",
}
"""A deployment's own variables must keep no trial out, nor write its events down."""


class CannotMeasure(Exception):
    """A server that does not answer as it should; one line that says why."""


class Server(NamedTuple):
    """Where a server answers, and its first process where it runs here for this purpose."""

    url: str
    pid: int | None = None


@contextmanager
def started(
    bundles: Path,
    *,
    workers: int = 1,
    redis_url: str | None = None,
    source: Path | None = None,
    program: Sequence[str] = ("onward.service",),
) -> Iterator[Server]:
    """Run the service on a free port, that of a `source` tree where one is named.

    Its store is a private one, or that of a URL; `program` is a module that serves, and its first arguments.
    Raises CannotMeasure.
    """
    modules = [] if source else ["-P"]  # those of a source tree go before what is installed, no other folder's do
    command = [sys.executable, *modules, "-m", *program, "serve", "--bundles", str(bundles.resolve())]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", "0", "--workers", str(workers)],
            env=_environment(os.environ, redis_url),
            cwd=source,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            url = _wait_for_address(process, log)
            wait_until_ready(url, process)
            _wait_for_encoder(process, log, workers)
            yield Server(url, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until_ready(
    url: str, process: "subprocess.Popen[bytes] | None" = None, timeout_s: float = START_TIMEOUT_S
) -> None:
    """Wait until a bundle is live, at least for one answer. Raises CannotMeasure."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            urlopen(f"{url}/health/ready", timeout=ANSWER_TIMEOUT_S).close()  # noqa: S310  # a caller checks the scheme
        except HTTPError as error:
            reason = f"/health/ready answers {error.code}"
            error.close()
        except (OSError, HTTPException) as error:
            reason = str(getattr(error, "reason", error))
        else:
            return
        if time.monotonic() >= deadline_s or (process is not None and process.poll() is not None):
            raise CannotMeasure(f"the service at {url} is not ready: {reason}")
        time.sleep(LOOK_EVERY_S)


def _environment(inherited: Mapping[str, str], redis_url: str | None) -> dict[str, str]:
    environment = {name: value for name, value in inherited.items() if name != "REDIS_URL"}
    return environment | FOR_A_TRIAL | ({} if redis_url is None else {"REDIS_URL": redis_url})


def _wait_for_address(process: "subprocess.Popen[bytes]", log: IO[str]) -> str:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        has_ended = process.poll() is not None
        log.seek(0)
        lines = log.read().splitlines()
        for line in lines:
            if (words := _event(line).split())[:3] == ["Uvicorn", "running", "on"]:
                return words[3]
        if has_ended:
            last = lines[-1] if lines else "it said nothing"
            raise CannotMeasure(f"the service did not start: {_event(last) or last.removeprefix('error: ')}")
        time.sleep(LOOK_EVERY_S)
    raise CannotMeasure(f"the service did not start within {START_TIMEOUT_S:.0f} s")


def _wait_for_encoder(process: "subprocess.Popen[bytes]", log: IO[str], workers: int) -> None:
    """Wait until every worker has said what encodes from then on, or for as long as that may take."""
    deadline_s = time.monotonic() + ENCODER_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        log.seek(0)
        if sum(_event(line) == "encoding" for line in log) >= workers:
            return
        time.sleep(LOOK_EVERY_S)


def _event(line: str) -> str:
    """What a line of the log tells of; a line that is still being written tells nothing."""
    try:
        return str(json.loads(line)["event"])
    except (ValueError, KeyError, TypeError):
        return ""
