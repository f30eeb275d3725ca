"""The server under test: a process started for the benchmark, or a server that is running already."""

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
"""Time to compile a kernel after the start. Only a revision that logs no `encoding` event uses it up."""
STOP_TIMEOUT_S = 40.0
POLL_INTERVAL_S = 0.05
ANSWER_TIMEOUT_S = 5.0
NOT_INHERITED = ("REDIS_URL", "SERVICE_API_KEYS", "SERVICE_RATE_LIMIT", "SERVICE_EVENT_LOG")
"""Beginnings of the names of settings that would reject the benchmark's requests, log its events or share its store.

They are left out, not set: a revision refuses a setting that it does not know."""


class MeasurementError(Exception):
    """The server does not start or does not answer as it should; the message is one line."""


class Server(NamedTuple):
    """The address of the server under test."""

    url: str
    pid: int | None = None
    """Its main process if it was started here; None for a server that was running already."""


@contextmanager
def started(
    bundles: Path,
    *,
    workers: int = 1,
    redis_url: str | None = None,
    program: Sequence[str] = ("onward.service",),
    python_path: Sequence[Path] = (),
) -> Iterator[Server]:
    """Run the service on a free port of 127.0.0.1 until the context ends.

    Args:
        redis_url: the session store; None for a private one that the service starts.
        program: a module with a `serve` command, and the arguments that stand before `serve`.
        python_path: folders to import from before all others; the working directory is never imported from.

    Raises MeasurementError if it does not become ready.
    """
    command = [sys.executable, "-P", "-m", *program, "serve", "--bundles", str(bundles.resolve())]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", "0", "--workers", str(workers)],
            env=_environment(os.environ, redis_url, python_path),
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
    """Poll /health/ready, at least once, until it answers 200. Raises MeasurementError at the timeout."""
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
            raise MeasurementError(f"the service at {url} is not ready: {reason}")
        time.sleep(POLL_INTERVAL_S)


def _environment(inherited: Mapping[str, str], redis_url: str | None, python_path: Sequence[Path]) -> dict[str, str]:
    environment = {name: value for name, value in inherited.items() if not name.startswith(NOT_INHERITED)}
    environment["SERVICE_LOG_LEVEL"] = "info"
    if redis_url is not None:
        environment["REDIS_URL"] = redis_url
    if python_path:
        folders = [*map(str, python_path), *filter(None, [inherited.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(folders)
    return environment


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
            last = lines[-1] if lines else "it logged nothing"
            raise MeasurementError(f"the service did not start: {_event(last) or last.removeprefix('error: ')}")
        time.sleep(POLL_INTERVAL_S)
    raise MeasurementError(f"the service did not start within {START_TIMEOUT_S:.0f} s")


def _wait_for_encoder(process: "subprocess.Popen[bytes]", log: IO[str], workers: int) -> None:
    """Wait until every worker has logged which encoder it uses, at most `ENCODER_TIMEOUT_S`."""
    deadline_s = time.monotonic() + ENCODER_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        log.seek(0)
        if sum(_event(line) == "encoding" for line in log) >= workers:
            return
        time.sleep(POLL_INTERVAL_S)


def _event(line: str) -> str:
    """Return the event name of a JSON log line; empty for any other line, also for one not yet complete."""
    try:
        return str(json.loads(line)["event"])
    except (ValueError, KeyError, TypeError):
        return ""
